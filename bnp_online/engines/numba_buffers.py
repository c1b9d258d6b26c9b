"""State of the numba engine in flat arrays, and the names of their entries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..mixture import AVERAGE_EVERY
from .numba_kernels import Reals

# Entries of `Buffers.config`.
REGRESSION, ACTIVATION, STEP_SCALE, STANDARDIZED, REPLAY, SEED = range(6)
BOUNDED_VALUES, NEIGHBOURS, METRIC_OF, CAPACITY = range(6, 10)
# Entries of `Buffers.scalars`.
RHO, EPS_REL, EPS_ABS, STEP, INPUTS_WEIGHT, ENTRY_WEIGHT, ENTRY_PRIOR = range(7)
TARGET_WEIGHT, TARGET_LOW, TARGET_HIGH, ERROR_SCALE, OWN_ERROR, REMEMBERED, PREDICTED = range(7, 14)
CLASSES, MISSING_VALUES = range(14, 16)
# Rows of `Buffers.trajectories`.
RATE, REPLAYS, HIDDEN_WEIGHT, HIDDEN_PRIOR, RAW, AVERAGE = range(6)
# Rows of `Buffers.inputs` and `Buffers.target`; the first values follow.
MEAN, VAR, MEAN_BEFORE, VAR_BEFORE, BOUNDED, LATEST, VALUES, LARGEST, JOINED, CLIPPED, FIRST = range(11)
# Rows of `Buffers.entry`, after mean and variance.
METRIC, ENTRY_BEFORE = 2, 3
# Rows of `Buffers.hedge`; the weights of each rate follow. The last two columns are the hedge and the stack.
WEIGHT, LOSS, WEIGHTS = range(3)
# Rows of `Buffers.outputs`, counted from the end.
HEDGED, STACKED, MIXED = -3, -2, -1
# Rows of `Buffers.stack`; the inverse follows.
COEFFICIENTS, GRADIENT, DIRECTION, INVERSE = range(4)
# Rows of `Buffers.nearest`, for each metric: squared distances and places in the memory.
DISTANCE, PLACE = range(2)
# Columns of `Buffers.memory_y`.
GOAL, SAMPLE_WEIGHT, RAW_TARGET, MISSING = range(4)
# Entries of `Buffers.facts` of a row; four of each of its steps follow.
TARGET, AT_STEP, TARGET_MEAN, TARGET_VAR, LOW, HIGH, KNOWN_CLASSES, TWENTIETH, PREDICTS, FACTS = range(10)
# Entries of a step in `Buffers.facts`.
STEP_GOAL, STEP_WEIGHT, SHARE, SHARE_OF_BIAS, OF_STEP = range(5)
# First row of `Buffers.entered`; the input and the direction of each step follow.
PREDICTED_INPUT = 0
# Rows of `Buffers.scratch` of a thread: activations and pre-activations of the prediction, and of the step.
ACTS, PRE, STEP_ACTS, STEP_PRE, U, DELTA, BACK = range(7)
# Rows of `Buffers.common`.
ONES, SUMS, BINS_DELTA = range(3)
#: Samples between two restarts of networks that diverged; a run ends there.
RESTART_EVERY = AVERAGE_EVERY
#: Rows in a run, at most.
RUN = RESTART_EVERY


class Buffers(NamedTuple):
    """State of a learner in flat arrays.

    ``real`` is float32, or float64 for tests of exactness. There are T trajectories, the last L of them
    linear, K experts, n inputs, H hidden units, and C outputs. D is K + 1 with a stack, else 0. Parts of a
    layer, in `params`, `average`, `linear`, `hidden`, `entered` and `scratch`, are padded with zeros
    (`numba_kernels.padded`): H, n' and S' count them. A run has at most R rows, and each row has Q steps: its
    own, then those of the samples that it replays.

    Attributes
    ----------
    sizes : int64 (layers + 1,)
        n, widths of the hidden layers, C.
    config : int64 (10,)
        Integer settings.
    scalars : float64 (16,)
        Scalar settings and state.
    trajectories : float64 (6, T)
        Learning rate, whether it replays, weight of the hidden moments and the rest of their pseudo-sample's
        weight, whether it predicts with its weights, row of `average` (−1 without running means).
    params : real (T − L, P)
        W of each layer, row by row, then b.
    average : real (A, P)
        Running means of the parameters of the trajectories that average.
    linear : real (L, P')
        Parameters of the linear trajectories.
    hidden : real (2, T − L, H)
        Mean and variance of the inputs of the second and later layers.
    entry : real (5, n)
        Mean and variance of the inputs of the first layer, common to all trajectories; weight of each input
        in the network's own metric; mean and variance before the step.
    inputs, target : float64 (30, n), (30, 1)
        Mean and variance of the raw inputs, and before the step; the sample's values, bounded; the values
        predicted last; number of values, largest deviation, number of samples before the first value,
        number of values that were clipped when standardized; the first values. The same of the target.
    memory_x : real (S / BLOCK, n or more, BLOCK)
        Memory: standardized inputs, with spare columns at 0; NaN marks a missing value.
    memory_y : float64 (S, 2 or 4)
        Goals and weights; with neighbours, raw targets and the numbers of missing values as well.
    hedge : float64 (2 or 4, K + 2)
        Weight and latest loss of each expert, of the hedge and of the stack; weights of the experts for each
        rate of a mixture with several.
    stack : float64 (D + 3, D)
        Coefficients of the experts and of the hedge; gradient and direction of the latest step; inverse of
        the curvature.
    outputs : float64 (K + D + 3, C)
        Prediction of each expert for the values predicted last (NaN if it is not sound); features of the
        stack; predictions of the hedge, of the stack, and of both.
    distances : real (3, S or 0)
        Squared distances of the remembered samples in each metric, and the numbers of inputs present in both.
    nearest : float64 (4, 10)
        Nearest neighbours, for each metric.
    bins : real (B + 1, C + 1 padded), or (0, …) without a model of bins
        Bias of the model of bins, then weights of each bin; the last column is G.
    ran : real (T − L, 2, S')
        Activations and pre-activations of each network on the input of the step.
    entered : real (R, 1 + 2 Q, n')
        For each row of the run its standardized input, for the prediction; and for each step its standardized
        input, and its direction in the first layer.
    facts : float64 (R, 9 + 4 Q)
        For each row of the run its bounded target; number of samples learned with it; mean, variance and
        range of the targets, and number of classes, before it; whether it is the 20th target; whether it is
        predicted in the run. For each step: goal, weight, and scales of the step of weights and bias.
    found : float64 (R, K, C)
        Predictions of the experts for each row of the run, as in `outputs`.
    lost : bool (R, T)
        Which trajectories have diverged at each row of the run.
    common : real (3, S')
        Working space of the neighbours and of the model of bins.
    scratch, live : real (threads, 7, S'), int64 (threads, …)
        Working space of each thread; S' is for n' + H + C values.
    """

    sizes: NDArray[np.int64]
    config: NDArray[np.int64]
    scalars: NDArray[np.float64]
    trajectories: NDArray[np.float64]
    params: Reals
    average: Reals
    linear: Reals
    hidden: Reals
    entry: Reals
    inputs: NDArray[np.float64]
    target: NDArray[np.float64]
    memory_x: Reals
    memory_y: NDArray[np.float64]
    hedge: NDArray[np.float64]
    stack: NDArray[np.float64]
    outputs: NDArray[np.float64]
    distances: Reals
    nearest: NDArray[np.float64]
    bins: Reals
    entered: Reals
    facts: NDArray[np.float64]
    found: NDArray[np.float64]
    lost: NDArray[np.bool_]
    common: Reals
    scratch: Reals
    live: NDArray[np.int64]
