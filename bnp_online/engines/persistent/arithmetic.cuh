// Sums, maxima and moments over the threads of a block.

// Loop over a range, shared out among the threads of the block.
#define EACH(i, count) for (int i = THREAD; i < int(count); i += THREADS)
// Loop over a range, shared out among the lanes of a group.
#define EACH_LANE(i, count) for (int i = LANE; i < int(count); i += LANES)
// Loop over a range, shared out among the groups of the block.
#define EACH_GROUP(i, count) for (int i = GROUP; i < int(count); i += GROUPS)

template <typename T>
DEVICE T larger(T a, T b) { return a > b ? a : b; }
template <typename T>
DEVICE T smaller(T a, T b) { return a < b ? a : b; }
template <typename T>
DEVICE bool is_nan(T x) { return x != x; }
DEVICE double between(double x, double low, double high) {
    if (is_nan(x)) return x;
    return smaller(larger(x, low), high);
}

template <typename T>
DEVICE T lane_sum(T x) {
    for (int distance = LANES / 2; distance > 0; distance /= 2) x += exchange(x, distance);
    return x;
}
DEVICE double lane_max(double x) {
    for (int distance = LANES / 2; distance > 0; distance /= 2) x = larger(x, exchange(x, distance));
    return x;
}

// Two sums over the block, the same in all threads. `partial` has 2 GROUPS values.
struct Pair {
    double first, second;
};
PART Pair block_sums(double first, double second, double* partial) {
    first = lane_sum(first);
    second = lane_sum(second);
    BARRIER();  // an earlier result was read
    if (LANE == 0) {
        partial[GROUP] = first;
        partial[GROUPS + GROUP] = second;
    }
    BARRIER();  // all are written
    Pair sums = {0.0, 0.0};
    for (int g = 0; g < GROUPS; g++) {
        sums.first += partial[g];
        sums.second += partial[GROUPS + g];
    }
    return sums;
}
PART double block_max(double x, double* partial) {
    x = lane_max(x);
    BARRIER();  // an earlier result was read
    if (LANE == 0) partial[GROUP] = x;
    BARRIER();  // all are written
    double most = partial[0];
    for (int g = 1; g < GROUPS; g++) most = larger(most, partial[g]);
    return most;
}
