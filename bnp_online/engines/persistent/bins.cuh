// Linear model of bins; see `numba_bins` for the definition.

// Rows of the table for an input: of its interval, and of its integer; −1 for none.
DEVICE int interval_row(const Learner& l, const real* z, const double* values, int j) {
    if (!l.bins_used[j] || is_nan(values[j])) return -1;
    int interval = 0;
    for (int i = 0; i < BIN_INTERVALS - 1; i++) interval += double(z[j]) > BIN_EDGES[i];
    return 1 + j * BINS + interval;
}
DEVICE int integer_row(const Learner& l, const double* values, int j) {
    const double value = values[j];
    if (!l.bins_used[j] || !(value >= 0.0 && value < BIN_INTEGERS && value == floor(value))) return -1;
    return 1 + j * BINS + BIN_INTERVALS + int(value);
}

// Run the model on a column of inputs; the rows of its bins are in `l.bin_rows`, with −1 for none.
PART void run_bins(const Learner& l, const Area& a, const double* values, int column) {
    const int classes = int(l.outputs), end = int(l.all_outputs) - classes, rows = 2 * int(l.binned) + 1;
    BARRIER();  // earlier outputs and rows were read
    EACH(j, l.binned) {
        l.bin_rows[1 + j] = interval_row(l, a.ins + column * l.all_inputs, values, j);
        l.bin_rows[1 + l.binned + j] = integer_row(l, values, j);
    }
    if (THREAD == 0) l.bin_rows[0] = 0;
    BARRIER();  // the rows are known
    EACH_GROUP(c, classes) {
        real sum = 0;
        EACH_LANE(i, rows) if (l.bin_rows[i] >= 0) sum += l.bins_table[l.bin_rows[i] * classes + c];
        sum = lane_sum(sum);
        if (LANE == 0) a.outs[column * l.all_outputs + end + c] = sum;
    }
    BARRIER();  // the outputs are complete
}

// Step the model, right after its run on column 1.
PART void step_bins(const Learner& l, const Area& a, double goal, double weight) {
    const int classes = int(l.outputs), rows = 2 * int(l.binned) + 1;
    output_gradient(l, a, a.outs + 2 * l.all_outputs - classes, goal, a.delta);
    double square = 0.0, count = 0.0;
    EACH(c, classes) square += double(a.delta[c]) * double(a.delta[c]);
    EACH(i, rows) count += l.bin_rows[i] >= 0;
    const Pair sums = block_sums(square, count, a.partial);
    const real added = real(sums.first * weight * weight);
    EACH_GROUP(i, rows) {
        const long long row = l.bin_rows[i];
        if (row < 0) continue;
        const real squares = l.bins_squares[row] + added;
        const real scale = real(BIN_RATE * weight) / real(sqrt(real(sums.second) * (real(BIN_DAMPING) + squares)));
        EACH_LANE(c, classes) l.bins_table[row * classes + c] -= scale * a.delta[c];
        LANE_BARRIER();  // all lanes have read the sum
        if (LANE == 0) l.bins_squares[row] = squares;
    }
    BARRIER();  // the step is complete
}
