// Nearest neighbours in the memory; see `numba_neighbours` for the definition.
//
// Each group of lanes measures samples and finds the nearest of them; then each block, of those of its groups;
// then block 0, of those of the blocks. Of ties the newest is nearer.

// A remembered sample: squared distance, and age.
struct Neighbour {
    double distance, age;
};
DEVICE bool nearer(Neighbour a, Neighbour b) {
    return a.distance < b.distance || (a.distance == b.distance && a.age < b.age);
}

// Write the nearest of a list to `best`, in order. `list` holds no sample twice.
PART void find_nearest(const double* list, int count, double* best) {
    EACH(i, MOST_NEAREST) {
        best[2 * i] = infinity();
        best[2 * i + 1] = 0.0;
    }
    BARRIER();  // the list is complete, the nearest are empty
    EACH(i, count) {
        const Neighbour own = {list[2 * i], list[2 * i + 1]};
        if (!(own.distance < infinity())) continue;
        int rank = 0;
        for (int other = 0; other < count; other++)
            rank += nearer({list[2 * other], list[2 * other + 1]}, own);
        if (rank >= MOST_NEAREST) continue;
        best[2 * rank] = own.distance;
        best[2 * rank + 1] = own.age;
    }
}

// Candidates: for each pair of metric and window, those of each group, of each block, and of all.
DEVICE double* of_groups(const Learner& l, int pair, int block) {
    return l.candidates + (pair * BLOCKS + block) * (GROUPS * MOST_NEAREST * 2);
}
DEVICE double* of_blocks(const Learner& l, int pair) {
    return l.candidates + (PAIRS * BLOCKS * GROUPS + pair * BLOCKS) * (MOST_NEAREST * 2);
}
DEVICE double* of_all(const Learner& l, int pair) {
    return l.candidates + (PAIRS * BLOCKS * (GROUPS + 1) + pair) * (MOST_NEAREST * 2);
}

// Measure the distances of the block's samples to an input z, and find the nearest.
PART void measure(const Learner& l, const real* z, const double* values, double remembered) {
    const int n = int(l.sizes[0]), group = BLOCK * GROUPS + GROUP, groups = BLOCKS * GROUPS;
    const long long known = (long long)(remembered);
    int windows[PAIRS], most = 0;
    for (int p = 0; p < PAIRS; p++) {
        windows[p] = int(smaller(smaller(l.windows[p], known), l.measured));
        most = windows[p] > most ? windows[p] : most;
    }
    for (int age = group; age < most; age += groups) {
        const real* other = l.memory_x + (known - 1 - age) % l.remembered * n;
        real of_inputs = 0, of_network = 0, missing = 0;
        EACH_LANE(j, n) {
            const real difference = other[j] - z[j];
            const real square = difference * difference;
            if (is_nan(square) || is_nan(values[j])) {
                missing += real(1);
                continue;
            }
            of_inputs += square;
            of_network += square * l.metric[j];
        }
        const real scale = *l.inputs_in_use / (*l.inputs_in_use - lane_sum(missing));
        of_inputs = lane_sum(of_inputs) * scale;
        of_network = lane_sum(of_network) * scale;
        if (LANE == 0) {
            l.distances[age] = of_inputs;
            l.distances[l.measured + age] = of_network;
        }
    }
    LANE_BARRIER();  // the distances are complete
    for (int p = 0; p < PAIRS; p++) {
        const real* distances = l.distances + PAIR_METRIC[p] * l.measured;
        double* found = of_groups(l, p, BLOCK) + GROUP * MOST_NEAREST * 2;
        Neighbour last = {-1.0, -1.0};
        for (int rank = 0; rank < MOST_NEAREST; rank++) {
            Neighbour best = {infinity(), 0.0};
            for (int age = group + LANE * groups; age < windows[p]; age += LANES * groups) {
                const Neighbour each = {double(distances[age]), double(age)};
                if (nearer(last, each) && nearer(each, best)) best = each;
            }
            for (int distance = LANES / 2; distance > 0; distance /= 2) {
                const Neighbour other = {exchange(best.distance, distance), exchange(best.age, distance)};
                if (nearer(other, best)) best = other;
            }
            if (LANE == 0) {
                found[2 * rank] = best.distance;
                found[2 * rank + 1] = best.age;
            }
            last = best;
            if (!(last.distance < infinity())) last.distance = infinity();
        }
    }
    for (int p = 0; p < PAIRS; p++)
        find_nearest(of_groups(l, p, BLOCK), GROUPS * MOST_NEAREST, of_blocks(l, p) + BLOCK * MOST_NEAREST * 2);
}

// Write the predictions of the neighbours, in block 0, after the blocks have measured.
PART void vote(const Learner& l, double remembered, int first) {
    const long long known = (long long)(remembered);
    for (int p = 0; p < PAIRS; p++) find_nearest(of_blocks(l, p), BLOCKS * MOST_NEAREST, of_all(l, p));
    BARRIER();  // the nearest are known
    const double seen = larger(*l.classes, 1.0);
    for (int e = 0; e < VOTERS; e++) {
        const double* best = of_all(l, VOTER_PAIR[e]);
        double *out = l.values + (first + e) * l.outputs, radius = 0.0, total = 0.0, vote[MOST_NEAREST];
        int count = 0, place[MOST_NEAREST];
        for (; count < VOTER_COUNT[e] && best[2 * count] < infinity(); count++) radius = best[2 * count];
        for (int i = 0; i < count; i++) {
            place[i] = int((known - 1 - (long long)(best[2 * i + 1])) % l.remembered);
            vote[i] = l.memory_y[place[i] * l.memory_columns + SAMPLE_WEIGHT];
            vote[i] /= 0.1 + sqrt(best[2 * i] / (radius + 1e-9));
            total += vote[i];
        }
        if (l.regression) {
            double sum = 0.0;
            for (int i = 0; i < count; i++) sum += vote[i] * l.memory_y[place[i] * l.memory_columns + RAW_TARGET];
            if (THREAD == 0) {
                out[0] = total >= LEAST_VOTES ? sum / total : 0.0;
                l.sound[first + e] = total >= LEAST_VOTES;
            }
            continue;
        }
        if (THREAD == 0) l.sound[first + e] = 1.0;
        EACH(c, l.outputs) {
            double share = c < seen ? 0.5 / seen : 0.0;
            for (int i = 0; i < count; i++)
                if (l.memory_y[place[i] * l.memory_columns + RAW_TARGET] == c) share += vote[i];
            out[c] = share / (0.5 + total);
        }
    }
    BARRIER();  // the predictions are complete
}

// Compute the network's own metric anew, in the block that owns the network.
PART void renew_metric(const Learner& l, const Area& a, const real* row) {
    const int n = int(l.sizes[0]), m = int(l.sizes[1]);
    double sum = 0.0;
    EACH(j, n) {
        double total = 0.0;
        for (int i = 0; i < m; i++) total += double(row[i * n + j]) * double(row[i * n + j]);
        sum += total;
    }
    const double mean = block_sums(sum, 0.0, a.partial).first / double(*l.inputs_in_use);
    EACH(j, n) {
        double total = 0.0;
        for (int i = 0; i < m; i++) total += double(row[i * n + j]) * double(row[i * n + j]);
        l.metric[j] = real(mean > 0.0 ? pow(total / mean, METRIC_POWER) : 1.0);
    }
}
