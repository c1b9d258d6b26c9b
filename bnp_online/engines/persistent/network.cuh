// Networks: forward pass, backward pass, and the step of BNP. See `mlp_ensemble`.

// Working area of a block in shared memory.
struct Area {
    double* partial;  // 2 GROUPS
    real* ins;        // (2, inputs of all layers): column 0 without the sample, 1 with it
    real* outs;       // (2, outputs of all layers)
    real* u;          // widest layer
    real* delta;      // (2, widest layer)
    real* rows;       // rows of members, as many as fit
    int resident;     // their number
};

DEVICE Area area_of(const Learner& l, bool load) {
    Area a;
    a.partial = shared();
    a.ins = (real*)(a.partial + 2 * GROUPS);
    a.outs = a.ins + 2 * l.all_inputs;
    a.u = a.outs + 2 * l.all_outputs;
    a.delta = a.u + l.widest;
    a.rows = a.delta + 2 * l.widest;
    a.resident = load ? int(l.resident) : 0;
    return a;
}

// Block that owns a network. Block 0 combines the experts: the networks begin at block 1.
DEVICE int owner(int k) { return (k + (BLOCKS > 1 ? 1 : 0)) % BLOCKS; }
DEVICE bool owns(int k) { return owner(k) == BLOCK; }

// Number of a row among those of its block: latest weights first, then running means.
DEVICE int place_of(const Learner& l, int k, bool mean) {
    int place = 0;
    for (int i = 0; i < (mean ? int(l.networks) : k); i++) place += owns(i);
    for (int i = 0; mean && i < k; i++) place += owns(i) && l.mean_row[i] >= 0;
    return place;
}
DEVICE real* stored_row(const Learner& l, int k, bool mean) {
    return l.members + (mean ? l.mean_row[k] : l.means + k) * l.row_length;
}
DEVICE real* row_of(const Learner& l, const Area& a, int k, bool mean) {
    const int place = place_of(l, k, mean);
    return place < a.resident ? a.rows + place * l.row_length : stored_row(l, k, mean);
}

// Copy the resident rows of the block to shared memory, or back.
PART void move_rows(const Learner& l, const Area& a, bool load) {
    for (int k = 0; k < l.networks; k++) {
        if (!owns(k)) continue;
        for (int mean = 0; mean < 2; mean++) {
            if (mean && l.mean_row[k] < 0) continue;
            real *row = row_of(l, a, k, mean), *stored = stored_row(l, k, mean);
            if (row == stored) continue;
            EACH(i, l.row_length) {
                if (load) row[i] = stored[i];
                else stored[i] = row[i];
            }
        }
    }
    BARRIER();  // the rows are complete
}

DEVICE real activated(int kind, real x) {
    if (kind == RELU) return larger(x, real(0));
    if (kind == TANH) return real(tanh(x));
    return real(0.5) * x * (real(1) + real(erf(x * real(ROOT_HALF))));
}
DEVICE real slope(int kind, real x, real out) {
    if (kind == RELU) return x > real(0) ? real(1) : real(0);
    if (kind == TANH) return real(1) - out * out;
    return real(0.5) * (real(1) + real(erf(x * real(ROOT_HALF)))) + x * real(exp(real(-0.5) * x * x)) * real(ROOT_TWO_PI);
}

struct Sound {
    bool column[2];
};

// Run a network on columns `from` … `to` of the inputs; return whether their outputs are sound.
PART Sound forward(const Learner& l, const Area& a, const real* row, int from, int to) {
    double unsound[2] = {0.0, 0.0};
    int begin = 0, end = 0;  // of the inputs and outputs of the layer
    BARRIER();  // the inputs are complete, earlier outputs were read
    for (int layer = 0; layer < l.layers; layer++) {
        const int n = int(l.sizes[layer]), m = int(l.sizes[layer + 1]);
        const real *weight = row + l.offsets[layer], *bias = row + l.offsets[l.layers] + end;
        EACH_GROUP(i, m) {
            for (int column = from; column <= to; column++) {
                const real* x = a.ins + column * l.all_inputs + begin;
                real sum = 0;
                EACH_LANE(j, n) sum += weight[i * n + j] * x[j];
                sum = lane_sum(sum) + bias[i];
                if (LANE != 0) continue;
                a.outs[column * l.all_outputs + end + i] = sum;
                unsound[column] += !(fabs(double(sum)) < LARGEST);
                if (layer + 1 < l.layers) a.ins[column * l.all_inputs + begin + n + i] = activated(l.activation, sum);
            }
        }
        BARRIER();  // the outputs of the layer are complete
        begin += n;
        end += m;
    }
    if (!l.standardize) {
        for (int column = from; column <= to; column++)
            EACH(j, l.sizes[0]) unsound[column] += !(fabs(double(a.ins[column * l.all_inputs + j])) < LARGEST);
    }
    const Pair sums = block_sums(unsound[0], unsound[1], a.partial);
    return {{sums.first == 0.0, sums.second == 0.0}};
}

// Write the gradient of the loss at the outputs `out` of a network to `delta`.
PART void output_gradient(const Learner& l, const Area& a, const real* out, double goal, real* delta) {
    const int classes = int(l.outputs);
    BARRIER();  // an earlier gradient was read
    if (l.regression) {
        EACH(c, classes) delta[c] = real(between(out[c] - real(goal), -ERROR_CLIP, ERROR_CLIP));
        BARRIER();  // the gradient is complete
        return;
    }
    double top = -infinity(), total = 0.0;
    EACH(c, classes) top = larger(top, double(out[c] + l.floor[c]));
    top = block_max(top, a.partial);
    EACH(c, classes) total += delta[c] = real(exp(out[c] + l.floor[c] - real(top)));
    total = block_sums(total, 0.0, a.partial).first;
    EACH(c, classes) delta[c] = delta[c] / real(total) - real(c == int(goal));
    BARRIER();  // the gradient is complete
}

// Step of a layer without its rate: 1/q², and 1 − μᵀu, the factor of the bias.
struct Scale {
    real inverse, bias;
};

// Count the inputs x of a layer, if `counts`, and write u = (x − μ)/σ̃².
PART Scale count_layer(const Learner& l, const Area& a, int k, real* row, int layer, int begin, const real* x, bool counts) {
    const int n = int(l.sizes[layer]);
    real *mean = row + l.offsets[l.layers + 1] + begin, *var = row + l.offsets[l.layers + 2] + begin;
    double* count = l.counts + (k * l.layers + layer) * 2;
    const double before = count[0], weight = smaller(before + 1.0, l.most_weight);
    const real share = counts ? real(1.0 / weight) : real(0);
    double top = 0.0;
    EACH(j, n) {
        const real difference = x[j] - mean[j];
        mean[j] += difference * share;
        const real centred = x[j] - mean[j];
        var[j] += share * (difference * centred - var[j]);
        a.u[j] = centred;
        top = larger(top, double(var[j]));
    }
    const real damping = real(block_max(top, a.partial)) * real(l.eps_rel) + real(l.eps_abs);
    if (counts && THREAD == 0) {
        count[0] = weight;
        count[1] *= (weight - 1.0) / before;
    }
    double norm = 0.0, along = 0.0;
    EACH(j, n) {
        const real centred = a.u[j];
        a.u[j] = centred / (var[j] + damping);
        norm += centred * a.u[j];
        along += mean[j] * a.u[j];
    }
    const Pair sums = block_sums(norm, along, a.partial);
    real divisor = real(sums.first) + real(1);
    if (l.step_scale == PAPER) divisor = l.fan_in[layer];
    if (l.step_scale == NONE) divisor = real(1);
    return {real(1) / divisor, real(1) - real(sums.second)};
}

// Step a network along the gradients of column 1, right after its forward pass.
//
// Its hidden layers count their inputs; the first one does if `counts`. `rate` is 0 for a network that takes
// no step: then only the first layer counts. Returns the scale of the first layer, whose u stays in `a.u`.
PART Scale step_network(const Learner& l, const Area& a, int k, real* row, double goal, double rate, bool steps, bool counts) {
    const int layers = int(l.layers);
    const real *ins = a.ins + l.all_inputs, *outs = a.outs + l.all_outputs;
    if (!steps) return count_layer(l, a, k, row, 0, 0, ins, counts);
    real *delta = a.delta, *next = a.delta + l.widest;
    int begin = int(l.all_inputs), end = int(l.all_outputs) - int(l.outputs);
    output_gradient(l, a, outs + end, goal, delta);
    const double last = double(delta[0]) * double(delta[0]);
    Scale scale;
    for (int layer = layers - 1; layer >= 0; layer--) {
        const int n = int(l.sizes[layer]), m = int(l.sizes[layer + 1]);
        begin -= n;
        scale = count_layer(l, a, k, row, layer, begin, ins + begin, layer > 0 || counts);
        real step = real(rate) * scale.inverse;
        if (l.regression && layer + 1 < layers) {
            double square = 0.0;
            EACH(i, m) square += double(delta[i]) * double(delta[i]);
            square = block_sums(square, 0.0, a.partial).first;
            if (last > 0.0) step /= real(larger(square / last, 1.0));
        }
        real *weight = row + l.offsets[layer], *bias = row + l.offsets[layers] + end;
        EACH(i, m) bias[i] -= step * scale.bias * delta[i];
        if (layer == 0) {
            EACH_GROUP(i, m) {
                const real s = step * delta[i];
                if (s != real(0)) EACH_LANE(j, n) weight[i * n + j] -= s * a.u[j];
            }
            break;
        }
        end -= n;
        EACH(j, n) {
            real back = 0;
            const real u = a.u[j];
            for (int i = 0; i < m; i++) {
                const real w = weight[i * n + j], d = delta[i];
                back += w * d;
                weight[i * n + j] = w - step * d * u;
            }
            next[j] = back * slope(l.activation, outs[end + j], ins[begin + j]);
        }
        BARRIER();  // the gradient before the activation is complete, that behind it was read
        real* swapped = delta;
        delta = next;
        next = swapped;
    }
    BARRIER();  // the step is complete
    return scale;
}

// Write a prediction: probabilities, or a number within the range of targets.
PART void write_prediction(const Learner& l, const Area& a, const real* out, int expert, bool sound, const double* target) {
    double* value = l.values + expert * l.outputs;
    if (THREAD == 0) l.sound[expert] = sound;
    if (!sound) return;
    if (l.regression) {
        const double margin = (target[3] - target[2]) / 4.0;
        if (THREAD == 0)
            value[0] = between(target[0] + sqrt(target[1]) * double(out[0]), target[2] - margin, target[3] + margin);
        return;
    }
    double top = -infinity(), total = 0.0;
    EACH(c, l.outputs) top = larger(top, double(out[c]) + double(l.floor[c]));
    top = block_max(top, a.partial);
    EACH(c, l.outputs) total += exp(double(out[c]) + double(l.floor[c]) - top);
    total = block_sums(total, 0.0, a.partial).first;
    EACH(c, l.outputs) value[c] = exp(double(out[c]) + double(l.floor[c]) - top) / total;
}

// Run a linear model on both columns; its outputs take the place of those of a network.
PART Sound run_linear(const Learner& l, const Area& a, int k) {
    const int n = int(l.sizes[0]), classes = int(l.outputs), end = int(l.all_outputs) - classes;
    const real* weight = l.linear_weight + k * classes * n;
    double unsound[2] = {0.0, 0.0};
    BARRIER();  // earlier outputs were read
    EACH_GROUP(c, classes) {
        for (int column = 0; column < 2; column++) {
            real sum = 0;
            EACH_LANE(j, n) sum += weight[c * n + j] * a.ins[column * l.all_inputs + j];
            sum = lane_sum(sum) + l.linear_bias[k * classes + c];
            if (LANE != 0) continue;
            a.outs[column * l.all_outputs + end + c] = sum;
            unsound[column] += !(fabs(double(sum)) < LARGEST);
        }
    }
    for (int column = 0; column < 2; column++)
        EACH(j, n) unsound[column] += !(fabs(double(a.ins[column * l.all_inputs + j])) < LARGEST);
    const Pair sums = block_sums(unsound[0], unsound[1], a.partial);
    return {{sums.first == 0.0, sums.second == 0.0}};
}
// Step a linear model, right after its forward pass; `scale` and `a.u` are those of the first layer.
PART void step_linear(const Learner& l, const Area& a, int k, double goal, double rate, Scale scale) {
    const int n = int(l.sizes[0]), classes = int(l.outputs);
    real* weight = l.linear_weight + k * classes * n;
    output_gradient(l, a, a.outs + 2 * l.all_outputs - classes, goal, a.delta);
    const real step = real(rate) * scale.inverse;
    EACH(c, classes) l.linear_bias[k * classes + c] -= step * a.delta[c] * scale.bias;
    EACH_GROUP(c, classes) EACH_LANE(j, n) weight[c * n + j] -= step * a.delta[c] * a.u[j];
    BARRIER();  // u was read
}
