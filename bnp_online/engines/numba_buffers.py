"""A learner's numbers as the fused engine keeps them: flat arrays, and what stands where in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .numba_kernels import Reals

# Entries of `Buffers.config`.
REGRESSION, ACTIVATION, STEP_SCALE, STANDARDIZED, REPLAY, SEED = range(6)
# Entries of `Buffers.scalars`.
RHO, EPS_REL, EPS_ABS, STEP, INPUTS_WEIGHT, ENTRY_WEIGHT, ENTRY_PRIOR = range(7)
TARGET_WEIGHT, TARGET_LOW, TARGET_HIGH, ERROR_SCALE, OWN_ERROR, REMEMBERED, PREDICTED = range(7, 14)
# Rows of `Buffers.copies`.
RATE, REPLAYS, WEIGHT, HIDDEN_WEIGHT, HIDDEN_PRIOR, LOSS, AVERAGE = range(7)
# Rows of `Buffers.scratch`.
ACTS, PRE, ENTRY_U, U, DELTA, BACK = range(6)


class Buffers(NamedTuple):
    """All of a learner.

    ``real`` is float32, or float64 where exactness is tested; M copies, n inputs, H hidden units, C outputs.

    Attributes
    ----------
    sizes : int64 (layers + 1,)
        n, the widths of the hidden layers, C.
    config : int64 (6,)
        Settings that are whole numbers.
    scalars : float64 (14,)
        Settings and state that are single numbers.
    copies : float64 (7, M)
        Learning rate, whether it replays, mixture weight, weight of its hidden moments and what is left of
        their pseudo-sample, latest loss, its row of `average` (−1 if it does not average).
    params : real (M, P)
        For each layer W, row by row, then b.
    average : real (A, P)
        Running means of the parameters of the copies that average.
    hidden : real (2, M, H)
        Mean and variance of the inputs of every layer but the first.
    entry : real (2, n)
        Mean and variance of the inputs of the first layer, which all copies share.
    inputs, target : float64 (2, n), (2, 1)
        Mean and variance of the raw inputs and of the target.
    backup : real (2, n), float64 (2, n)
        What a refused step puts back: `entry` and `inputs`.
    memory_x, memory_y : real (S, n), float64 (S, 2)
        Remembered samples as they were standardized; their targets and weights.
    latest, outputs : float64 (n,), (M, C)
        The raw input that was predicted last, at the step ``scalars[PREDICTED]``, and what each copy made of
        it: NaN if it is not sound.
    scratch, live, mixed : real (6, n + H + C), int64 (n + H + C,), float64 (C,)
        Working space.
    """

    sizes: NDArray[np.int64]
    config: NDArray[np.int64]
    scalars: NDArray[np.float64]
    copies: NDArray[np.float64]
    params: Reals
    average: Reals
    hidden: Reals
    entry: Reals
    inputs: NDArray[np.float64]
    target: NDArray[np.float64]
    backup_entry: Reals
    backup_inputs: NDArray[np.float64]
    memory_x: Reals
    memory_y: NDArray[np.float64]
    latest: NDArray[np.float64]
    outputs: NDArray[np.float64]
    scratch: Reals
    live: NDArray[np.int64]
    mixed: NDArray[np.float64]
