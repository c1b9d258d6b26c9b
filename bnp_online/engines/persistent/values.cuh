// Values of a sample: bounds (see `numba_glitches`), moments and standardization.

DEVICE void insert(double* order, int count, double value) {
    int at = count;
    for (; at > 0 && order[at - 1] > value; at--) order[at] = order[at - 1];
    order[at] = value;
}

struct Limits {
    double low, high;
};
// Median ± 15 median absolute deviations of the first values of a column, with `value` as the 20th.
PART Limits limits_of(const Learner& l, int column, double value) {
    double order[FIRST_VALUES];
    const int half = FIRST_VALUES / 2;
    for (int i = 0; i < FIRST_VALUES; i++) insert(order, i, i < FIRST_VALUES - 1 ? l.first[i * l.bounded + column] : value);
    const double median = (order[half - 1] + order[half]) / 2.0;
    double deviations[FIRST_VALUES];
    for (int i = 0; i < FIRST_VALUES; i++) insert(deviations, i, fabs(order[i] - median));
    const double most = FIRST_DEVIATIONS * (deviations[half - 1] + deviations[half]) / 2.0;
    if (!(most > 0.0)) return {-infinity(), infinity()};
    return {median - most, median + most};
}

// A value with the moments before and after it.
struct Value {
    double bounded, mean, var;
    bool twentieth;
};
DEVICE bool is_twentieth(const Learner& l, int column, double x) {
    return l.bounded > 0 && l.seen[column] == FIRST_VALUES - 1 && !is_nan(x);
}
// Bound a value of a column and count it into moments with the share `added`.
PART Value count_value(const Learner& l, int column, double x, double mean, double var, double added) {
    Value v = {x, mean, var, is_twentieth(l, column, x)};
    if (v.twentieth) {
        const Limits limits = limits_of(l, column, x);
        double own = 0.0, own_var = 0.0;
        const double start = between(l.first[column], limits.low, limits.high);
        for (int i = 0; i < FIRST_VALUES; i++) {
            const double each = i < FIRST_VALUES - 1 ? l.first[i * l.bounded + column] : x;
            const double difference = between(each, limits.low, limits.high) - start;
            own += difference / FIRST_VALUES;
            own_var += difference * difference / FIRST_VALUES;
        }
        own_var = larger(own_var - own * own, 0.0);
        own += start;
        const double share = FIRST_VALUES / (l.joined[column] + FIRST_VALUES);
        v.bounded = between(x, limits.low, limits.high);
        v.mean = share * own;
        v.var = share * (own_var + (1.0 - share) * own * own);
        return v;
    }
    if (l.bounded > 0 && l.seen[column] >= FIRST_VALUES && var > 0.0) {
        const double most = larger(sqrt(var) * BOUND_DEVIATIONS, l.largest[column] * BOUND_GROWTH);
        v.bounded = between(x, mean - most, mean + most);
    }
    const double difference = is_nan(v.bounded) ? 0.0 : v.bounded - mean;
    v.mean = mean + difference * added;
    const double rest = is_nan(v.bounded) ? 0.0 : v.bounded - v.mean;
    v.var = var + added * (difference * rest - var);
    return v;
}
// Count a bounded value of a learned sample among the first values, or for the bound; x is its raw value.
PART void admit(const Learner& l, int column, double x, double bounded, double before, double after) {
    if (is_nan(bounded)) return;
    const int count = int(smaller(l.seen[column], double(FIRST_VALUES)));
    if (count < FIRST_VALUES - 1) l.first[count * l.bounded + column] = bounded;
    else if (count == FIRST_VALUES - 1) {
        const Limits limits = limits_of(l, column, x);
        for (int i = 0; i < FIRST_VALUES; i++) {
            double* each = l.first + i * l.bounded + column;
            *each = i < FIRST_VALUES - 1 ? between(*each, limits.low, limits.high) : bounded;
            l.largest[column] = larger(l.largest[column], fabs(*each - after));
        }
    } else l.largest[column] = larger(l.largest[column], fabs(bounded - before));
    l.seen[column] += 1.0;
}

DEVICE real standardized(const Learner& l, double x, double mean, double var) {
    if (is_nan(x)) x = mean;
    if (!l.standardize) return real(x);
    return real(var > 0.0 ? between((x - mean) / sqrt(var), -INPUT_CLIP, INPUT_CLIP) : 0.0);
}

// Write the standardized inputs, without the sample to column 0 and with it to column 1.
PART void read_inputs(const Learner& l, const Area& a, const double* row) {
    const int n = int(l.sizes[0]);
    double* values = l.values_seen + BLOCK * n;
    EACH(j, n) {
        const double mean = l.inputs[j], var = l.inputs[n + j];
        const Value v = count_value(l, j, row[j], mean, var, row[n + NEW_INPUTS]);
        values[j] = v.bounded;
        a.ins[j] = standardized(l, v.bounded, mean, var);
        a.ins[l.all_inputs + j] = standardized(l, v.bounded, v.mean, v.var);
        if (BLOCK == 0) {
            l.inputs_after[j] = v.mean;
            l.inputs_after[n + j] = v.var;
        }
    }
    BARRIER();  // the inputs are complete
}

PART Sample read_sample(const Learner& l, const double* row) {
    Sample s = {};
    s.row = row + l.sizes[0];
    s.y = s.goal = s.row[TARGET];
    s.weight = s.row[SAMPLE_WEIGHT_COLUMN];
    s.twentieth = false;
    if (!l.regression) return s;
    const int column = int(l.sizes[0]);
    for (int i = 0; i < 4; i++) s.target[i] = l.target[i];
    const Value v = count_value(l, column, s.y, s.target[0], s.target[1], s.row[NEW_TARGET]);
    const double raw = s.y;
    s.y = v.bounded;
    s.twentieth = v.twentieth;
    s.after[0] = v.mean;
    s.after[1] = v.var;
    s.after[2] = smaller(s.target[2], s.y);
    s.after[3] = larger(s.target[3], s.y);
    if (s.twentieth) {
        const Limits limits = limits_of(l, column, raw);
        s.after[2] = s.after[3] = s.y;
        for (int i = 0; i < FIRST_VALUES - 1; i++) {
            const double each = between(l.first[i * l.bounded + column], limits.low, limits.high);
            s.after[2] = smaller(s.after[2], each);
            s.after[3] = larger(s.after[3], each);
        }
    }
    s.goal = v.var > 0.0 ? between((s.y - v.mean) / sqrt(v.var), -TARGET_CLIP, TARGET_CLIP) : 0.0;
    return s;
}

// Write what a learned sample changes beside the models, in block 0: moments, bounds, classes, memory.
PART void store_sample(const Learner& l, const Area& a, const Sample& s, const double* row) {
    const int n = int(l.sizes[0]);
    const double* values = l.values_seen;
    EACH(j, n) {
        const double before = l.inputs[j];
        l.inputs[j] = l.inputs_after[j];
        l.inputs[n + j] = l.inputs_after[n + j];
        if (l.bounded == 0) continue;
        admit(l, j, row[j], values[j], before, l.inputs[j]);
        const bool clipped = fabs(double(a.ins[l.all_inputs + j])) >= INPUT_CLIP && !is_nan(values[j]);
        if (l.standardize && clipped) l.clipped[j] += 1.0;
    }
    if (l.regression && THREAD == 0) {
        if (l.bounded > 0) admit(l, n, s.row[TARGET], s.y, s.target[0], s.after[0]);
        for (int i = 0; i < 4; i++) l.target[i] = s.after[i];
    }
    if (!l.mixes) return;
    if (THREAD == 0) {
        if (!l.regression) *l.classes = larger(*l.classes, s.y + 1.0);
        if (s.twentieth) *l.error_scale = smaller(*l.error_scale, 1.0);
    }
    if (l.remembered == 0) return;
    if (s.twentieth && l.neighbours) {
        EACH(i, FIRST_VALUES) {
            if (i > l.remembered) continue;
            double* raw = l.memory_y + i * l.memory_columns + RAW_TARGET;
            *raw = between(*raw, s.after[2], s.after[3]);
        }
    }
    const int slot = int(s.row[SLOT]);
    double missing = 0.0;
    EACH(j, n) {
        const bool unknown = l.neighbours && is_nan(values[j]);
        missing += unknown;
        l.memory_x[slot * n + j] = unknown ? real(not_a_number()) : a.ins[l.all_inputs + j];
    }
    missing = block_sums(missing, 0.0, a.partial).first;
    if (THREAD != 0) return;
    double* y = l.memory_y + slot * l.memory_columns;
    y[GOAL] = s.goal;
    y[SAMPLE_WEIGHT] = s.weight;
    if (!l.neighbours) return;
    y[RAW_TARGET] = s.y;
    y[MISSING] = missing;
}
