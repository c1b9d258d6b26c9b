// One launch for a block of rows: each row is predicted and learned, as in `torch_step`. A launch may have
// several learners, each with a cluster of blocks and rows of its own.
//
// Block 0 combines the experts. The networks belong to the blocks in turn; each block keeps the rows of its
// networks in shared memory, as far as they fit. For each row there are two cluster barriers: after the
// experts have predicted, before anything is written; and after the step.

// Predict with the networks, linear models and bins of the block, and measure its samples of the memory.
// Publish the predictions, and which trajectories can take the step.
PART void predict_experts(const Learner& l, const Area& a, const Sample& s, bool learns) {
    const int n = int(l.sizes[0]), end = int(l.all_outputs) - int(l.outputs);
    const double* values = l.values_seen + BLOCK * n;
    for (int k = 0; k < l.linears; k++) {
        if (!owns(k)) continue;
        const Sound sound = run_linear(l, a, k);
        write_prediction(l, a, a.outs + end, int(l.owned - l.linears) + k, sound.column[0], s.target);
        if (THREAD == 0)
            l.able[l.networks + k] = sound.column[1] && l.network_rates[l.networks + k] * s.weight < LARGEST_RATE;
    }
    if (l.binned > 0 && BLOCK == BLOCKS - 1) {
        run_bins(l, a, values, 0);
        write_prediction(l, a, a.outs + end, int(l.experts) - 1, true, s.target);
    }
    if (l.neighbours) measure(l, a.ins, values, s.row[REMEMBERED]);
    for (int k = 0; k < l.networks; k++) {
        if (!owns(k)) continue;
        const Sound sound = forward(l, a, row_of(l, a, k, false), 0, learns ? 1 : 0);
        if (l.latest_expert[k] >= 0)
            write_prediction(l, a, a.outs + end, int(l.latest_expert[k]), sound.column[0], s.target);
        if (learns && THREAD == 0) l.able[k] = sound.column[1] && l.network_rates[k] * s.weight < LARGEST_RATE;
        if (l.mean_expert[k] < 0) continue;
        const Sound of_mean = forward(l, a, row_of(l, a, k, true), 0, 0);
        write_prediction(l, a, a.outs + end, int(l.mean_expert[k]), of_mean.column[0], s.target);
    }
}

// Step the networks, linear models and bins of the block.
PART void step_models(const Learner& l, const Area& a, const Sample& s) {
    const int n = int(l.sizes[0]);
    for (int k = 0; k < l.networks; k++) {
        if (!owns(k)) continue;
        const bool steps = l.able[k] != 0.0;
        real* row = row_of(l, a, k, false);
        if (steps && place_of(l, int(l.networks), false) > 1) forward(l, a, row, 1, 1);  // another ran since
        const Scale scale = step_network(l, a, k, row, s.goal, l.network_rates[k] * s.weight, steps, true);
        if (k >= l.linears || l.able[l.networks + k] == 0.0) continue;
        run_linear(l, a, k);
        step_linear(l, a, k, s.goal, l.network_rates[l.networks + k] * s.weight, scale);
    }
    if (l.binned > 0 && BLOCK == BLOCKS - 1 && s.weight < LARGEST_RATE) {
        run_bins(l, a, l.values_seen + BLOCK * n, 1);
        step_bins(l, a, s.goal, s.weight);
    }
}

// Write the prediction of a row, in block 0.
PART void answer(const Learner& l, const Area& a, const Sample& s, double* result, bool voted) {
    if (l.neighbours && !voted) vote(l, s.row[REMEMBERED], int(l.owned));
    take_latest(l);
    combine(l, a, s, result);
    if (THREAD == 0) result[0] = 1.0;
    if (!l.stacks) return;
    EACH(i, l.experts * l.outputs)
        l.expert_values[i] = l.usable[i / l.outputs] != 0.0 ? l.values[i] : not_a_number();
}

// Judge the experts by a learned sample, and store it, in block 0.
PART void learn_experts(const Learner& l, const Area& a, const Sample& s, const double* row, double* result, const double* given, bool voted) {
    if (l.neighbours && !voted) vote(l, s.row[REMEMBERED], int(l.owned));
    bool known = true;
    if (l.mixes) mark_lost(l);
    take_latest(l);
    const bool late = given != nullptr && take_given(l, given);
    combine(l, a, s, result);
    if (THREAD == 0) result[0] = 1.0;
    if (l.mixes) {
        if (late && !l.regression) known = l.hedged[int(s.y)] > 0.0;
        judge(l, s, known);
        find_best(l);
    }
    BARRIER();  // the experts were judged by the state before the sample
    store_sample(l, a, s, row);
}

// Restart the trajectories that diverged at this sample from the best of their kind; networks only if one of
// them has not. All blocks take part.
PART void restart(const Learner& l, const Area& a) {
    const long long best = l.best[0], best_linear = l.best[1];
    BARRIER();  // the running means are complete
    if (best >= 0 && owns(int(best))) {
        real *row = row_of(l, a, int(best), false), *stored = stored_row(l, int(best), false);
        if (row != stored) EACH(i, l.row_length) stored[i] = row[i];
    }
    CLUSTER_BARRIER();  // the row of the best is in global memory
    const real* source = best < 0 ? nullptr : stored_row(l, int(best), false);
    for (int k = 0; k < l.networks; k++) {
        if (best < 0 || !owns(k) || l.lost[k] == 0.0) continue;
        real* row = row_of(l, a, k, false);
        EACH(i, l.row_length) row[i] = source[i];
        EACH(i, 2 * l.layers) l.counts[k * 2 * l.layers + i] = l.counts[best * 2 * l.layers + i];
        if (l.mean_row[k] < 0) continue;
        real* mean = row_of(l, a, k, true);
        EACH(i, l.row_length) mean[i] = source[i];
    }
    const int outputs = int(l.outputs), weights = outputs * int(l.sizes[0]);
    for (int k = 0; k < l.linears; k++) {
        if (!owns(k) || l.lost[l.networks + k] == 0.0) continue;
        const long long from = best_linear - l.networks;
        EACH(i, weights) l.linear_weight[k * weights + i] = best_linear < 0 ? real(0) : l.linear_weight[from * weights + i];
        EACH(i, outputs) l.linear_bias[k * outputs + i] = best_linear < 0 ? real(0) : l.linear_bias[from * outputs + i];
    }
    CLUSTER_BARRIER();  // the row of the best was read
}

// Step the networks of the block that replay on samples of the memory.
PART void replay(const Learner& l, const Area& a, const Sample& s) {
    const int n = int(l.sizes[0]);
    for (int k = 0; k < l.networks; k++) {
        if (!owns(k) || l.replays[k] == 0) continue;
        real* row = row_of(l, a, k, false);
        for (int turn = 0; turn < l.replay; turn++) {
            const int place = int(s.row[DRAWS + turn]);
            EACH(j, n) {
                const real z = l.memory_x[place * n + j];
                const real mean = l.standardize ? real(0) : real(l.inputs[j]);
                a.ins[l.all_inputs + j] = l.neighbours && is_nan(z) ? mean : z;
            }
            const double* y = l.memory_y + place * l.memory_columns;
            const double rate = l.network_rates[k] * y[SAMPLE_WEIGHT];
            const Sound sound = forward(l, a, row, 1, 1);
            if (sound.column[1] && rate < LARGEST_RATE) step_network(l, a, k, row, y[GOAL], rate, true, false);
        }
    }
}

// Update the running means of the block's networks.
PART void average(const Learner& l, const Area& a, double share) {
    BARRIER();  // the steps are complete
    for (int k = 0; k < l.networks; k++) {
        if (!owns(k) || l.mean_row[k] < 0) continue;
        real* mean = row_of(l, a, k, true);
        const real* latest = row_of(l, a, k, false);
        EACH(i, l.offsets[l.layers + 1]) mean[i] += real(share) * (latest[i] - mean[i]);
    }
}

// Predict `count` rows of each learner (`learns` 0), or learn them up to the first refused one. `rows` and
// `results` have those of one learner after another. With `late`, the experts are judged by their earlier
// predictions in `given`.
KERNEL run_rows(const Learner* const* learners, const double* rows, double* results, int count, int learns, int late) {
    const Learner l = *learners[LEARNER];
    const Area a = area_of(l, learns);
    if (learns) move_rows(l, a, true);
    for (int t = 0; t < count; t++) {
        const long long at = (long long)(LEARNER) * count + t;
        const double* row = rows + at * l.columns;
        double* result = results + at * (1 + l.outputs);
        const Sample s = read_sample(l, row);
        read_inputs(l, a, row);
        predict_experts(l, a, s, learns);
        CLUSTER_BARRIER();  // the predictions are complete; nothing was written yet

        bool able = false, voted = false;
        for (int k = 0; k < l.networks; k++) able = able || l.able[k] != 0.0;
        bool found = total_weight(l, l.sound, int(l.owned)) > 0.0 || l.binned > 0 || (l.neighbours && !l.regression);
        if (l.neighbours && !found) {
            if (BLOCK == 0) vote(l, s.row[REMEMBERED], int(l.owned));
            voted = true;
            CLUSTER_BARRIER();  // the neighbours have voted
            found = total_weight(l, l.sound, int(l.experts)) > 0.0;
        }
        if (!learns) {
            if (BLOCK == 0 && found) answer(l, a, s, result, voted);
            CLUSTER_BARRIER();  // the predictions were read
            continue;
        }
        if (!found || !able) break;

        if (BLOCK == 0) learn_experts(l, a, s, row, result, late ? l.given + t * l.experts * l.outputs : nullptr, voted);
        step_models(l, a, s);
        CLUSTER_BARRIER();  // the step is complete

        if (l.mixes) {
            if (BLOCK == 0) EACH(i, l.rates * l.experts) l.weights[i] = l.new_weights[i];
            if (l.replay > 0) replay(l, a, s);
            if (s.row[NEW_WEIGHTS] > 0.0) {
                average(l, a, s.row[NEW_WEIGHTS]);
                bool lost = false;
                for (int k = 0; k < l.networks + l.linears; k++) lost = lost || l.lost[k] != 0.0;
                if (lost) restart(l, a);
            }
        }
        if (l.neighbours && l.layers > 1 && (long long)(s.row[STEP]) % METRIC_EVERY == 0) {
            if (owns(int(l.metric_of))) renew_metric(l, a, row_of(l, a, int(l.metric_of), false));
            CLUSTER_BARRIER();  // the metric is complete
        }
        BARRIER();  // the row is complete
    }
    if (learns) move_rows(l, a, false);
}
