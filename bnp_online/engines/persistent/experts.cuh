// Hedge and stack, in block 0; see `torch_experts` and `torch_stack` for the definitions.

// Sample of a row, the same in all threads.
struct Sample {
    const double* row;  // columns behind the inputs
    double y, goal, weight;
    double target[4];  // mean, variance and range of the targets without the sample
    double after[4];   // with it
    bool twentieth;    // whether it is the 20th target
};

// Weight of an expert in the hedge: the mean over its rates.
DEVICE double weight_of(const Learner& l, int k) {
    if (!l.mixes) return 1.0;
    double sum = 0.0;
    for (int r = 0; r < l.rates; r++) sum += l.weights[r * l.experts + k];
    return sum / double(l.rates);
}
// Total weight of those experts with a prediction; there is a prediction if it is not 0.
DEVICE double total_weight(const Learner& l, const double* sound, int experts) {
    double total = 0.0;
    for (int k = 0; k < experts; k++) total += sound[k] != 0.0 ? weight_of(l, k) : 0.0;
    return total;
}

DEVICE double stack_scale(const Learner& l, const Sample& s) {
    return larger(*l.error_scale, STACK_SCALE_FLOOR) * sqrt(s.target[1]);
}

// Write the predictions of the stack to `l.stacked`, and its features. Classes that the stack leaves out have
// the share 0 in `l.stack_shares`.
PART void stack_classes(const Learner& l, const Area& a) {
    const int classes = int(l.outputs), size = int(l.experts) + 1;
    double used = 0.0;
    EACH(c, classes) used += l.floor[c] == real(0);
    const bool many = block_sums(used, 0.0, a.partial).first > STACK_MOST_CLASSES;
    double top = -infinity(), mass = 0.0, total = 0.0;
    EACH(c, classes) {
        const double of_hedge = log(l.hedged[c] + STACK_SMOOTHING);
        double logit = (1.0 + l.coefficients[size - 1]) * of_hedge + double(l.floor[c]);
        for (int k = 0; k < size - 1; k++) {
            const double feature = l.usable[k] != 0.0 ? log(l.values[k * classes + c] + STACK_SMOOTHING) : of_hedge;
            l.features[k * classes + c] = feature;
            logit += l.coefficients[k] * feature;
        }
        l.features[(size - 1) * classes + c] = of_hedge;
        if (many && l.hedged[c] <= STACK_LEAST) logit = -infinity();
        else mass += l.hedged[c];
        l.stack_shares[c] = logit;
        top = larger(top, logit);
    }
    top = block_max(top, a.partial);
    EACH(c, classes) total += l.stack_shares[c] = exp(l.stack_shares[c] - top);
    const Pair sums = block_sums(total, mass, a.partial);
    EACH(c, classes) {
        const bool left_out = many && l.hedged[c] <= STACK_LEAST;
        l.stack_shares[c] /= sums.first;
        l.stacked[c] = left_out ? l.hedged[c] : l.stack_shares[c] * sums.second;
    }
}
PART void stack_number(const Learner& l, const Sample& s) {
    const int size = int(l.experts) + 1;
    const double scale = stack_scale(l, s), margin = (s.target[3] - s.target[2]) / 4.0;
    if (THREAD != 0) return;
    double sum = l.coefficients[size - 1];
    for (int k = 0; k < size - 1; k++) {
        l.features[k] = scale > 0.0 && l.usable[k] != 0.0 ? (l.values[k] - l.hedged[0]) / scale : 0.0;
        sum += l.coefficients[k] * l.features[k];
    }
    l.features[size - 1] = 1.0;
    l.stacked[0] = between(l.hedged[0] + scale * sum, s.target[2] - margin, s.target[3] + margin);
}

// Use the predictions of now. Block 0 has its own marks of soundness: the other blocks read `l.sound`.
DEVICE void take_latest(const Learner& l) {
    EACH(k, l.experts) l.usable[k] = l.sound[k];
    BARRIER();  // the marks are complete
}

// Combine the predictions of the experts; write the result.
PART void combine(const Learner& l, const Area& a, const Sample& s, double* result) {
    const int classes = int(l.outputs);
    if (!l.mixes) {
        EACH(c, classes) result[1 + c] = l.values[c];
        return;
    }
    const double total = total_weight(l, l.usable, int(l.experts));
    EACH(c, classes) {
        double sum = 0.0;
        for (int k = 0; k < l.experts; k++)
            if (l.usable[k] != 0.0) sum += weight_of(l, k) * l.values[k * classes + c];
        l.hedged[c] = sum / total;
    }
    BARRIER();  // the hedge is complete
    if (!l.stacks) {
        EACH(c, classes) result[1 + c] = l.hedged[c];
        return;
    }
    if (l.regression) stack_number(l, s);
    else stack_classes(l, a);
    BARRIER();  // the stack is complete
    EACH(c, classes) result[1 + c] = l.shares[0] * l.hedged[c] + l.shares[1] * l.stacked[c];
}

// Put predictions that the experts made earlier in the place of those of now, unless all are NaN.
PART bool take_given(const Learner& l, const double* given) {
    const int classes = int(l.outputs);
    bool some = false;
    for (int k = 0; k < l.experts; k++) some = some || !is_nan(given[k * classes]);
    if (!some) return false;
    EACH(i, l.experts * classes) l.values[i] = given[i];
    EACH(k, l.experts) l.usable[k] = !is_nan(given[k * classes]);
    BARRIER();  // the predictions are complete
    return true;
}

// Take a step of the stack along the gradient in `l.gradient`; see `numba_stack`.
PART void solve(const Learner& l, double error) {
    const int size = int(l.experts) + 1;
    EACH(i, size) {
        double sum = 0.0;
        for (int j = 0; j < size; j++) sum += l.inverse[i * size + j] * l.gradient[j];
        l.direction[i] = sum;
    }
    BARRIER();  // the direction is complete
    double divisor = STACK_RETENTION, trace = 0.0;
    for (int i = 0; i < size; i++) divisor += l.direction[i] * l.gradient[i];
    for (int i = 0; i < size; i++)
        trace += (l.inverse[i * (size + 1)] - l.direction[i] * l.direction[i] / divisor) / STACK_RETENTION;
    const double excess = smaller(STACK_TRACE * size / trace, 1.0);
    BARRIER();  // the trace was read
    EACH(i, size) l.coefficients[i] += l.direction[i] * error / divisor;
    EACH(i, size * size) {
        const double product = l.direction[i / size] * l.direction[i % size];
        l.inverse[i] = (l.inverse[i] - product / divisor) / STACK_RETENTION * excess;
    }
}

PART void learn_stack(const Learner& l, const Sample& s) {
    const int size = int(l.experts) + 1, classes = int(l.outputs), label = int(s.y);
    if (l.regression) {
        if (!(s.row[STEP] > STACK_FROM)) return;
        EACH(k, size) l.gradient[k] = l.features[k];
        double error = (s.y - l.hedged[0]) / stack_scale(l, s);
        for (int k = 0; k < size; k++) error -= l.coefficients[k] * l.features[k];
        BARRIER();  // the gradient is complete
        solve(l, between(error, -STACK_ERROR_CLIP, STACK_ERROR_CLIP));
        return;
    }
    if (!(*l.classes >= 2.0) || !(l.stack_shares[label] > 0.0)) return;
    EACH_GROUP(k, size) {
        double sum = 0.0;
        EACH_LANE(c, classes) sum += l.features[k * classes + c] * l.stack_shares[c];
        sum = lane_sum(sum);
        if (LANE == 0) l.gradient[k] = sum - l.features[k * classes + label];
    }
    BARRIER();  // the gradient is complete
    solve(l, -1.0);
}

DEVICE double loss_of(const Learner& l, const Sample& s, const double* prediction) {
    if (!l.regression) {
        const double p = prediction[int(s.y)];
        return p > 0.0 ? smaller(-log(p), MAX_LOSS) : MAX_LOSS;
    }
    const double error = fabs(s.y - prediction[0]) / sqrt(s.target[1]);
    return smaller(error / larger(*l.error_scale, ERROR_FLOOR), MAX_LOSS);
}

// Update weights of `count` experts by their losses, as `mixture.mix`; `raised` is working space.
PART void mix(const double* weights, double* mixed, const double* losses, double* raised, int count, double eta, double share) {
    double least = infinity();
    for (int k = 0; k < count; k++) least = smaller(least, losses[k]);
    EACH(k, count) raised[k] = losses[k] < infinity() ? weights[k] * exp(-eta * (losses[k] - least)) : 0.0;
    BARRIER();  // the raised weights are complete
    double total = 0.0;
    for (int k = 0; k < count; k++) total += raised[k];
    EACH(k, count) mixed[k] = (1.0 - share) * (total > 0.0 ? raised[k] / total : 1.0 / count) + share / count;
    BARRIER();  // the mixed weights are complete, the raised ones were read
}

// Mark trajectories that have diverged: a prediction is not sound, or the step cannot be taken.
PART void mark_lost(const Learner& l) {
    EACH(k, l.networks + l.linears) {
        bool lost = l.able[k] == 0.0;
        for (int e = 0; e < l.owned; e++) lost = lost || (l.owners[e] == k && l.sound[e] == 0.0);
        l.lost[k] = lost;
    }
    BARRIER();  // the marks are complete
}

// Find the best network and the best linear model of those that are not lost; −1 if all are.
PART void find_best(const Learner& l) {
    if (THREAD != 0) return;
    for (int kind = 0; kind < 2; kind++) {
        const int from = kind ? int(l.networks) : 0, to = int(l.networks) + (kind ? int(l.linears) : 0);
        double most = -2.0;
        l.best[kind] = -1;
        for (int k = from; k < to; k++) {
            double weight = -1.0;
            for (int e = 0; e < l.owned; e++) {
                if (l.owners[e] != k) continue;
                double sum = 0.0;
                for (int r = 0; r < l.rates; r++) sum += l.new_weights[r * l.experts + e];
                weight = larger(weight, sum / double(l.rates));
            }
            if (l.lost[k] != 0.0) weight = -2.0;
            if (weight > most) {
                most = weight;
                l.best[kind] = k;
            }
        }
    }
}

// Learn hedge and stack by a sample; write the new weights to `l.new_weights`.
PART void judge(const Learner& l, const Sample& s, bool judged) {
    const int experts = int(l.experts), classes = int(l.outputs);
    if (l.stacks) judged = judged && s.weight > 0.0;
    if (l.regression) judged = judged && s.target[1] > 0.0;
    else if (l.stacks) judged = judged && s.y < *l.classes;
    if (!judged) {
        EACH(i, l.rates * experts) l.new_weights[i] = l.weights[i];
        BARRIER();  // the weights are complete
        return;
    }
    EACH(k, experts) {
        const bool lost = k < l.owned && l.lost[l.owners[k]] != 0.0;
        l.losses[k] = l.usable[k] != 0.0 && !lost ? loss_of(l, s, l.values + k * classes) : infinity();
    }
    if (l.stacks && THREAD == 0) {
        l.losses[experts] = loss_of(l, s, l.hedged);
        l.losses[experts + 1] = loss_of(l, s, l.stacked);
    }
    BARRIER();  // the losses are complete
    if (l.stacks) {
        learn_stack(l, s);
        mix(l.shares, l.shares, l.losses + experts, l.raised, 2, SHARES_ETA, SHARES_SHARE);
    }
    for (int r = 0; r < l.rates; r++)
        mix(l.weights + r * experts, l.new_weights + r * experts, l.losses, l.raised, experts, l.etas[r], SHARE);
    if (l.regression && THREAD == 0) {
        const double error = fabs(s.y - l.hedged[0]) / sqrt(s.target[1]);
        *l.error_scale += (1.0 - ERROR_RETENTION) * (error - *l.error_scale);
    }
}
