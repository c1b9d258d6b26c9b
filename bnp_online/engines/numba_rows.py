"""Rows of a run: what does not depend on networks, and what all of them share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_inline
from ..mixture import FIRST_VALUES, draw
from ..mixture import NEIGHBOURS as TABLE
from .base import INPUT_CLIP, TARGET_CLIP
from .numba_bins import run_bins, step_bins
from .numba_buffers import (
    AT_STEP,
    BINS_DELTA,
    BOUNDED,
    BOUNDED_VALUES,
    CAPACITY,
    CLASSES,
    CLIPPED,
    ENTRY_BEFORE,
    ENTRY_PRIOR,
    ENTRY_WEIGHT,
    EPS_ABS,
    EPS_REL,
    FACTS,
    FIRST,
    GOAL,
    HIGH,
    INPUTS_WEIGHT,
    KNOWN_CLASSES,
    LOW,
    MEAN,
    MEAN_BEFORE,
    MISSING,
    MISSING_VALUES,
    NEIGHBOURS,
    OF_STEP,
    PREDICTED_INPUT,
    PREDICTS,
    RAW_TARGET,
    REGRESSION,
    REMEMBERED,
    RHO,
    SAMPLE_WEIGHT,
    SEED,
    SHARE,
    SHARE_OF_BIAS,
    STANDARDIZED,
    STEP,
    STEP_GOAL,
    STEP_SCALE,
    STEP_WEIGHT,
    SUMS,
    TARGET,
    TARGET_HIGH,
    TARGET_LOW,
    TARGET_MEAN,
    TARGET_VAR,
    TARGET_WEIGHT,
    TWENTIETH,
    VALUES,
    VAR,
    Buffers,
)
from .numba_glitches import admit, bound, revise
from .numba_kernels import BLOCK, Reals, assign, count, scale, standardize
from .numba_members import LARGEST_RATE, next_weight, output_gradient, read_outputs
from .numba_neighbours import predict_neighbours


@jit_inline
def place(b: Buffers, z: Reals) -> None:
    """Standardize the bounded values of a sample."""
    clip = INPUT_CLIP if b.config[STANDARDIZED] else 0.0
    standardize(b.inputs[MEAN], b.inputs[VAR], b.inputs[BOUNDED], clip, z)


@jit_inline
def bound_inputs(b: Buffers, x: NDArray[np.float64]) -> None:
    """Write the values of a sample, bounded if the learner bounds them, to ``b.inputs[BOUNDED]``."""
    if b.config[BOUNDED_VALUES]:
        bound(b.inputs, x, b.nearest.reshape(b.nearest.size))
    else:
        assign(b.inputs[BOUNDED], x)


@jit_inline
def note(b: Buffers, r: int) -> None:
    """Write what is known before row r to its facts."""
    facts, s = b.facts[r], b.scalars
    facts[TARGET_MEAN], facts[TARGET_VAR] = b.target[MEAN, 0], b.target[VAR, 0]
    facts[LOW], facts[HIGH], facts[KNOWN_CLASSES] = s[TARGET_LOW], s[TARGET_HIGH], s[CLASSES]


@jit_inline
def predict_others(b: Buffers, x: NDArray[np.float64], r: int) -> None:
    """Write the predictions of the neighbours and of the model of bins for row r."""
    z, last = b.entered[r, PREDICTED_INPUT, : b.sizes[0]], b.found.shape[1]
    if b.bins.shape[0] > 0:
        last -= 1
        run_bins(b, b.inputs[BOUNDED], z)
        read_outputs(b, r, b.common[SUMS, : b.found.shape[2]], b.common[BINS_DELTA], b.found[r, last])
    if b.config[NEIGHBOURS]:
        predict_neighbours(b, x, z, b.found[r, last - len(TABLE) : last])


@jit_inline
def enter(b: Buffers, r: int, x: NDArray[np.float64], y: float, weight: float, predicts: bool) -> None:
    """Count a sample into the moments as row r of the run, and prepare its prediction and its step."""
    n, facts, s = b.sizes[0], b.facts[r], b.scalars
    note(b, r)
    facts[PREDICTS] = predicts
    for i in range(2):
        assign(b.inputs[MEAN_BEFORE + i], b.inputs[MEAN + i])
        assign(b.entry[ENTRY_BEFORE + i], b.entry[MEAN + i])
        assign(b.target[MEAN_BEFORE + i], b.target[MEAN + i])
    bound_inputs(b, x)
    if predicts:
        place(b, b.entered[r, PREDICTED_INPUT, :n])
        predict_others(b, x, r)
    count(b.inputs[MEAN], b.inputs[VAR], b.inputs[BOUNDED], s[INPUTS_WEIGHT] + 1.0)
    if b.config[BOUNDED_VALUES]:
        revise(b.inputs, b.nearest.reshape(b.nearest.size))
    z = b.entered[r, PREDICTED_INPUT + 1, :n]
    place(b, z)
    count(b.entry[MEAN], b.entry[VAR], z, next_weight(s[ENTRY_WEIGHT], s[RHO]))
    facts[AT_STEP], facts[FACTS + STEP_WEIGHT] = s[STEP] + 1.0, weight
    facts[TARGET] = facts[FACTS + STEP_GOAL] = y
    if b.config[REGRESSION]:
        _count_target(b, facts)
    _direct(b, r, int(np.int64(0)))


@jit
def leave(b: Buffers) -> None:
    """Undo `enter` for a refused sample."""
    for i in range(2):
        assign(b.inputs[MEAN + i], b.inputs[MEAN_BEFORE + i])
        assign(b.entry[MEAN + i], b.entry[ENTRY_BEFORE + i])
        assign(b.target[MEAN + i], b.target[MEAN_BEFORE + i])


@jit_inline
def _count_target(b: Buffers, facts: NDArray[np.float64]) -> None:
    """Bound and count a target; write it, and its standardized, clipped value."""
    order = b.nearest.reshape(b.nearest.size)
    b.target[BOUNDED, 0] = facts[TARGET]
    if b.config[BOUNDED_VALUES]:
        bound(b.target, b.target[BOUNDED], order)
    y = facts[TARGET] = b.target[BOUNDED, 0]
    count(b.target[MEAN], b.target[VAR], b.target[BOUNDED], b.scalars[TARGET_WEIGHT] + 1.0)
    if b.config[BOUNDED_VALUES]:
        revise(b.target, order)
    facts[FACTS + STEP_GOAL] = 0.0
    if b.target[VAR, 0] > 0.0:
        z = (y - b.target[MEAN, 0]) / math.sqrt(b.target[VAR, 0])
        facts[FACTS + STEP_GOAL] = min(max(z, -TARGET_CLIP), TARGET_CLIP)


@jit_inline
def _direct(b: Buffers, r: int, i: int) -> None:
    """Compute direction and scale of step i of row r in the first layer, common to all networks."""
    s, n, at, facts = b.scalars, b.sizes[0], FACTS + OF_STEP * i, b.facts[r]
    z, u = b.entered[r, 2 * i + 1, :n], b.entered[r, 2 * i + 2, :n]
    kind = b.config[STEP_SCALE]
    shares = scale(b.entry[MEAN], b.entry[VAR], z, n, s[EPS_REL], s[EPS_ABS], kind, u)
    facts[at + SHARE], facts[at + SHARE_OF_BIAS] = shares


@jit_inline
def admit_row(b: Buffers, r: int) -> None:
    """Count row r, which is learned, after `enter`; remember it, and draw the samples that it replays."""
    s, facts, values = b.scalars, b.facts[r], b.inputs[BOUNDED]
    order, goal, weight = (
        b.nearest.reshape(b.nearest.size),
        facts[FACTS + STEP_GOAL],
        facts[FACTS + STEP_WEIGHT],
    )
    z = b.entered[r, PREDICTED_INPUT + 1, : b.sizes[0]]
    if b.bins.shape[0] > 0 and weight < LARGEST_RATE:
        active = run_bins(b, values, z)
        output_gradient(b, b.common[SUMS, : b.found.shape[2]], goal, b.common[BINS_DELTA])
        step_bins(b, active, weight)
    entry_weight = next_weight(s[ENTRY_WEIGHT], s[RHO])
    s[ENTRY_PRIOR] *= (entry_weight - 1.0) / s[ENTRY_WEIGHT]
    s[INPUTS_WEIGHT], s[ENTRY_WEIGHT], s[STEP] = s[INPUTS_WEIGHT] + 1.0, entry_weight, s[STEP] + 1.0
    if b.config[BOUNDED_VALUES]:
        admit(b.inputs, order)
        _count_clipped(b, values, z)
    facts[TWENTIETH] = 0.0
    if b.config[REGRESSION]:
        s[TARGET_WEIGHT] += 1.0
        s[TARGET_LOW] = min(s[TARGET_LOW], facts[TARGET])
        s[TARGET_HIGH] = max(s[TARGET_HIGH], facts[TARGET])
        if b.config[BOUNDED_VALUES]:
            facts[TWENTIETH] = _admit_target(b, order)
    else:
        s[CLASSES] = max(s[CLASSES], facts[TARGET] + 1.0)
    if b.config[CAPACITY] > 0:
        _remember(b, values, z, facts)
        for i in range(1, (b.entered.shape[1] - 1) // 2):
            _replay(b, r, i)


@jit_inline
def _count_clipped(b: Buffers, values: NDArray[np.float64], z: Reals) -> None:
    """Count the values that were clipped when they were standardized."""
    if b.config[STANDARDIZED]:
        for j in range(values.shape[0]):
            b.inputs[CLIPPED, j] += (abs(z[j]) >= INPUT_CLIP) & ~math.isnan(values[j])


@jit
def _admit_target(b: Buffers, order: NDArray[np.float64]) -> bool:
    """Count the bounded target; at the 20th, bound what an absurd one among the first may have changed."""
    s, before = b.scalars, b.target[VALUES, 0]
    admit(b.target, order)
    if before != FIRST_VALUES - 1:
        return False
    s[TARGET_LOW], s[TARGET_HIGH] = math.inf, -math.inf
    for i in range(FIRST_VALUES):
        s[TARGET_LOW] = min(s[TARGET_LOW], b.target[FIRST + i, 0])
        s[TARGET_HIGH] = max(s[TARGET_HIGH], b.target[FIRST + i, 0])
    if b.config[NEIGHBOURS]:
        for slot in range(min(int(s[REMEMBERED]), b.config[CAPACITY])):
            y = b.memory_y[slot, RAW_TARGET]
            b.memory_y[slot, RAW_TARGET] = min(max(y, s[TARGET_LOW]), s[TARGET_HIGH])
    return True


@jit
def _remember(b: Buffers, x: NDArray[np.float64], z: Reals, facts: NDArray[np.float64]) -> None:
    """Write the standardized sample to the memory, in the place of the oldest."""
    slot = int(b.scalars[REMEMBERED]) % b.config[CAPACITY]
    block, column = slot // BLOCK, slot % BLOCK
    for j in range(z.shape[0]):
        b.memory_x[block, j, column] = z[j]
    b.memory_y[slot, GOAL], b.memory_y[slot, SAMPLE_WEIGHT] = (
        facts[FACTS + STEP_GOAL],
        facts[FACTS + STEP_WEIGHT],
    )
    b.scalars[REMEMBERED] += 1.0
    if not b.config[NEIGHBOURS]:
        return
    missing = 0
    for j in range(z.shape[0]):
        if math.isnan(x[j]):
            b.memory_x[block, j, column] = math.nan
            missing += 1
    b.scalars[MISSING_VALUES] += missing - b.memory_y[slot, MISSING]
    b.memory_y[slot, RAW_TARGET], b.memory_y[slot, MISSING] = facts[TARGET], missing


@jit
def _replay(b: Buffers, r: int, i: int) -> None:
    """Draw a sample of the memory for step i of row r, for all networks; a missing value is at the mean."""
    remembered = min(int(b.scalars[REMEMBERED]), b.config[CAPACITY])
    slot = draw(b.config[SEED], int(b.scalars[STEP]), i - 1, remembered)
    block, column, at = slot // BLOCK, slot % BLOCK, FACTS + OF_STEP * i
    for j in range(b.sizes[0]):
        z = b.memory_x[block, j, column]
        if math.isnan(z):
            z = b.params.dtype.type(0.0 if b.config[STANDARDIZED] else b.inputs[MEAN, j])
        b.entered[r, 2 * i + 1, j] = z
    b.facts[r, at + STEP_GOAL] = b.memory_y[slot, GOAL]
    b.facts[r, at + STEP_WEIGHT] = b.memory_y[slot, SAMPLE_WEIGHT]
    _direct(b, r, i)
