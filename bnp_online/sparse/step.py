"""Compiled calls of the sparse stage on flat arrays: before a prediction, and to learn."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..engines.base import INPUT_CLIP, TARGET_CLIP
from ..engines.numba_buffers import BOUNDED, LATEST, MEAN, MEAN_BEFORE, VAR
from ..engines.numba_glitches import admit, bound, revise
from ..engines.numba_kernels import assign, standardize
from ..engines.numba_kernels import count as count_moments
from ..jit import jit, jit_inline
from . import combination
from .constants import (
    LEAST_OFFSET,
    MOST_COUNT,
    NORM_SAMPLES,
)
from .evidence import (
    add_evidence,
    add_pair_evidence,
    clear,
    count,
    count_evidence,
    prepare,
    scale_evidence,
)
from .linear import judge_group, outputs_of, run_group, step_group
from .names import assign_name, find
from .rows import add_rows, find_pairs, free_row, read
from .state import (
    GROUP_ERROR,
    KNOWN,
    LINEAR,
    MIXED,
    NORM,
    OFFSET,
    OUT_LINEAR,
    PAIR_ERROR,
    PAIR_NORM,
    PAIR_NUMBER,
    PAIRS,
    REFERENCE,
    REGRESSION,
    SAMPLES,
    TARGET_HIGH,
    TARGET_LOW,
    TARGET_WEIGHT,
    TOUCHED,
    Combined,
    Reals,
    State,
)


@jit
def front(
    text: NDArray[np.uint8],
    ends: NDArray[np.int64],
    fields: NDArray[np.int64],
    amounts: NDArray[np.float64],
    row: NDArray[np.float64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    counts: Reals,
    weights: Reals,
    scales: Reals,
    last: NDArray[np.int64],
    generation: NDArray[np.int32],
    column: NDArray[np.int32],
    names: NDArray[np.uint8],
    start: NDArray[np.int64],
    length: NDArray[np.int32],
    field: NDArray[np.int32],
    slots: NDArray[np.int32],
    pair_counts: Reals,
    pair_weights: Reals,
    pair_scales: Reals,
    bias: NDArray[np.float64],
    bias_scales: NDArray[np.float64],
    number_weights: NDArray[np.float64],
    number_scales: NDArray[np.float64],
    shares: NDArray[np.float64],
    numbers: NDArray[np.float64],
    numeric: NDArray[np.int64],
    totals: NDArray[np.float64],
    target: NDArray[np.float64],
    kinds: NDArray[np.int32],
    slot: NDArray[np.int32],
    places: NDArray[np.int32],
    evidence: NDArray[np.float64],
    evidence_at: NDArray[np.int64],
    hedge: NDArray[np.float64],
    stack: NDArray[np.float64],
    outputs: NDArray[np.float64],
    rows: NDArray[np.int64],
    row_amounts: NDArray[np.float64],
    fresh: NDArray[np.int64],
    keys: NDArray[np.uint64],
    key_amounts: NDArray[np.float64],
    pair_rows: NDArray[np.int64],
    pair_amounts: NDArray[np.float64],
    pair_totals: NDArray[np.float64],
    z: NDArray[np.float64],
    order: NDArray[np.float64],
) -> int:
    """Find the values of a sample, write its one-hot and evidence columns, and predict by both groups.

    Returns
    -------
    int
        Number of values without a column, of fields with a column for each value.

    Parameters
    ----------
    text, ends, fields, amounts : uint8, int64 (N,), int64 (N,), float64 (N,)
        Names of the values, one after another; end, field and amount of each.
    row : float64 (columns,)
        Dense columns of the sample; receives the evidence. NaN marks a missing value.
    config, …
        Arrays of the stage; see `State`.
    """
    s = State(
        config,
        scalars,
        counts,
        weights,
        scales,
        last,
        generation,
        column,
        names,
        start,
        length,
        field,
        slots,
        pair_counts,
        pair_weights,
        pair_scales,
        bias,
        bias_scales,
        number_weights,
        number_scales,
        shares,
        numbers,
        numeric,
        totals,
        target,
        kinds,
        slot,
        places,
        evidence,
        evidence_at,
        hedge,
        stack,
        outputs,
        rows,
        row_amounts,
        fresh,
        keys,
        key_amounts,
        pair_rows,
        pair_amounts,
        pair_totals,
        z,
        order,
    )
    without_column = read(s, text, ends, fields, amounts)
    prepare(s)
    clear(s, row)
    known = int(s.scalars[KNOWN])
    for e in range(known):
        if s.column[s.rows[e]] >= 0:
            row[s.column[s.rows[e]]] = 1.0
        add_evidence(s, row, s.rows[e], s.row_amounts[e])
    _place_numbers(s, row)
    run_group(s, LINEAR, s.weights, s.rows, s.row_amounts, known, -1)
    for c in range(outputs_of(s)):
        p = s.outputs[OUT_LINEAR, c]
        s.outputs[OFFSET, c] = p if s.config[REGRESSION] else math.log(max(p, LEAST_OFFSET))
    find_pairs(s)
    pairs = int(s.scalars[PAIR_NUMBER])
    add_pair_evidence(s, row, pairs)
    scale_evidence(s, row)
    run_group(s, PAIRS, s.pair_weights, s.pair_rows, s.pair_amounts, pairs, OFFSET)
    return without_column


@jit
def combine(
    dense: NDArray[np.float64],
    given: NDArray[np.float64],
    out: NDArray[np.float64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    target: NDArray[np.float64],
    hedge: NDArray[np.float64],
    stack: NDArray[np.float64],
    outputs: NDArray[np.float64],
) -> None:
    """Combine the network's prediction with those of the groups, after `front`; write the result to `out`."""
    s = Combined(config, scalars, target, hedge, stack, outputs)
    combination.combine(s, dense, given)
    for c in range(outputs_of(s)):
        out[c] = outputs[MIXED, c]


@jit
def learn(
    y: float,
    weight: float,
    judged: bool,
    text: NDArray[np.uint8],
    ends: NDArray[np.int64],
    fields: NDArray[np.int64],
    amounts: NDArray[np.float64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    counts: Reals,
    weights: Reals,
    scales: Reals,
    last: NDArray[np.int64],
    generation: NDArray[np.int32],
    column: NDArray[np.int32],
    names: NDArray[np.uint8],
    start: NDArray[np.int64],
    length: NDArray[np.int32],
    field: NDArray[np.int32],
    slots: NDArray[np.int32],
    pair_counts: Reals,
    pair_weights: Reals,
    pair_scales: Reals,
    bias: NDArray[np.float64],
    bias_scales: NDArray[np.float64],
    number_weights: NDArray[np.float64],
    number_scales: NDArray[np.float64],
    shares: NDArray[np.float64],
    numbers: NDArray[np.float64],
    numeric: NDArray[np.int64],
    totals: NDArray[np.float64],
    target: NDArray[np.float64],
    kinds: NDArray[np.int32],
    slot: NDArray[np.int32],
    places: NDArray[np.int32],
    evidence: NDArray[np.float64],
    evidence_at: NDArray[np.int64],
    hedge: NDArray[np.float64],
    stack: NDArray[np.float64],
    outputs: NDArray[np.float64],
    rows: NDArray[np.int64],
    row_amounts: NDArray[np.float64],
    fresh: NDArray[np.int64],
    keys: NDArray[np.uint64],
    key_amounts: NDArray[np.float64],
    pair_rows: NDArray[np.int64],
    pair_amounts: NDArray[np.float64],
    pair_totals: NDArray[np.float64],
    z: NDArray[np.float64],
    order: NDArray[np.float64],
) -> None:
    """Learn a sample, after `front` and `combine`.

    Parameters
    ----------
    y, weight : float
        Class index or target; weight.
    judged : bool
        Whether the sample changes the weights of predictions: its weight is not 0, and its class is not new.
    text, ends, fields, amounts, config, …
        As for `front`; the arrays have room for the names.
    """
    s = State(
        config,
        scalars,
        counts,
        weights,
        scales,
        last,
        generation,
        column,
        names,
        start,
        length,
        field,
        slots,
        pair_counts,
        pair_weights,
        pair_scales,
        bias,
        bias_scales,
        number_weights,
        number_scales,
        shares,
        numbers,
        numeric,
        totals,
        target,
        kinds,
        slot,
        places,
        evidence,
        evidence_at,
        hedge,
        stack,
        outputs,
        rows,
        row_amounts,
        fresh,
        keys,
        key_amounts,
        pair_rows,
        pair_amounts,
        pair_totals,
        z,
        order,
    )
    if weight > 0.0:
        goal = y
        if s.config[REGRESSION]:
            y, goal = _learn_target(s, y, judged)
        elif judged:
            _judge(s, y)
        if judged:
            judge_group(s, LINEAR, goal, s.scalars[GROUP_ERROR])
            judge_group(s, PAIRS, goal, s.scalars[PAIR_ERROR])
        if s.config[REGRESSION]:
            for group in range(2):
                error = abs(goal - s.outputs[OUT_LINEAR + group, 0])
                s.scalars[GROUP_ERROR + group] += 0.01 * (error - s.scalars[GROUP_ERROR + group])
        add_rows(s, text, ends, fields, amounts)
        _step(s, goal, weight)
        _count(s, y, weight)
    _learn_numbers(s)
    count_evidence(s)
    s.scalars[SAMPLES] += 1.0


@jit
def _place_numbers(s: State, row: NDArray[np.float64]) -> None:
    """Write the standardized numbers of a sample to ``s.z``."""
    for k in range(s.numeric.shape[0]):
        s.numbers[LATEST, k] = row[s.numeric[k]]
    bound(s.numbers, s.numbers[LATEST], s.order)
    standardize(s.numbers[MEAN], s.numbers[VAR], s.numbers[BOUNDED], INPUT_CLIP, s.z)


@jit
def _learn_numbers(s: State) -> None:
    for i in range(2):
        assign(s.numbers[MEAN_BEFORE + i], s.numbers[MEAN + i])
    count_moments(s.numbers[MEAN], s.numbers[VAR], s.numbers[BOUNDED], s.scalars[SAMPLES] + 1.0)
    revise(s.numbers, s.order)
    admit(s.numbers, s.order)


@jit_inline
def _judge(s: State, y: float) -> None:
    combination.judge(Combined(s.config, s.scalars, s.target, s.hedge, s.stack, s.outputs), y)


@jit
def _learn_target(s: State, y: float, judged: bool) -> tuple[float, float]:
    """Count a target; return its bounded and its standardized value."""
    target = s.target
    target[LATEST, 0] = y
    bound(target, target[LATEST], s.order)
    y = target[BOUNDED, 0]
    if s.scalars[TARGET_WEIGHT] == 0.0:
        s.scalars[REFERENCE] = y
    if judged:
        _judge(s, y)
    for i in range(2):
        assign(target[MEAN_BEFORE + i], target[MEAN + i])
    count_moments(target[MEAN], target[VAR], target[BOUNDED], s.scalars[TARGET_WEIGHT] + 1.0)
    revise(target, s.order)
    admit(target, s.order)
    s.scalars[TARGET_WEIGHT] += 1.0
    s.scalars[TARGET_LOW] = min(s.scalars[TARGET_LOW], y)
    s.scalars[TARGET_HIGH] = max(s.scalars[TARGET_HIGH], y)
    if target[VAR, 0] <= 0.0:
        return y, 0.0
    z = (y - target[MEAN, 0]) / math.sqrt(target[VAR, 0])
    return y, min(max(z, -TARGET_CLIP), TARGET_CLIP)


@jit
def _step(s: State, goal: float, weight: float) -> None:
    """Take one step of both groups."""
    known, pairs, numbers = int(s.scalars[KNOWN]), int(s.scalars[PAIR_NUMBER]), s.z.shape[0]
    share = 1.0 / min(s.scalars[SAMPLES] + 1.0, float(NORM_SAMPLES))
    _follow(s, NORM, s.row_amounts, known, numbers, share)
    _follow(s, PAIR_NORM, s.pair_amounts, pairs, numbers, share)
    step_group(s, LINEAR, s.weights, s.scales, s.rows, s.row_amounts, known, goal, weight, s.scalars[NORM])
    for e in range(pairs):
        s.scalars[TOUCHED] += s.pair_totals[e] == 0.0
    step_group(
        s,
        PAIRS,
        s.pair_weights,
        s.pair_scales,
        s.pair_rows,
        s.pair_amounts,
        pairs,
        goal,
        weight,
        s.scalars[PAIR_NORM],
    )


@jit_inline
def _follow(
    s: State, which: int, amounts: NDArray[np.float64], number: int, numbers: int, share: float
) -> None:
    """Update the running mean of the squared norm of the input of a group."""
    total = float(numbers)
    for e in range(number):
        total += amounts[e] * amounts[e]
    s.scalars[which] += share * (total - s.scalars[which])


@jit
def _count(s: State, y: float, weight: float) -> None:
    """Count the sample for its values, its pairs and its class."""
    for e in range(int(s.scalars[KNOWN])):
        count(s, s.counts[s.rows[e]], y, weight)
    for e in range(int(s.scalars[PAIR_NUMBER])):
        count(s, s.pair_counts[s.pair_rows[e]], y, weight)
    if not s.config[REGRESSION]:
        s.totals[int(y)] += min(weight, MOST_COUNT)


@jit
def enter(
    text: NDArray[np.uint8],
    ends: NDArray[np.int64],
    fields: NDArray[np.int64],
    columns: NDArray[np.int64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    counts: Reals,
    weights: Reals,
    scales: Reals,
    last: NDArray[np.int64],
    generation: NDArray[np.int32],
    column: NDArray[np.int32],
    names: NDArray[np.uint8],
    start: NDArray[np.int64],
    length: NDArray[np.int32],
    field: NDArray[np.int32],
    slots: NDArray[np.int32],
    pair_counts: Reals,
    pair_weights: Reals,
    pair_scales: Reals,
    bias: NDArray[np.float64],
    bias_scales: NDArray[np.float64],
    number_weights: NDArray[np.float64],
    number_scales: NDArray[np.float64],
    shares: NDArray[np.float64],
    numbers: NDArray[np.float64],
    numeric: NDArray[np.int64],
    totals: NDArray[np.float64],
    target: NDArray[np.float64],
    kinds: NDArray[np.int32],
    slot: NDArray[np.int32],
    places: NDArray[np.int32],
    evidence: NDArray[np.float64],
    evidence_at: NDArray[np.int64],
    hedge: NDArray[np.float64],
    stack: NDArray[np.float64],
    outputs: NDArray[np.float64],
    rows: NDArray[np.int64],
    row_amounts: NDArray[np.float64],
    fresh: NDArray[np.int64],
    keys: NDArray[np.uint64],
    key_amounts: NDArray[np.float64],
    pair_rows: NDArray[np.int64],
    pair_amounts: NDArray[np.float64],
    pair_totals: NDArray[np.float64],
    z: NDArray[np.float64],
    order: NDArray[np.float64],
) -> int:
    """Record the one-hot columns of values, in order; a value without a row gets one.

    Returns
    -------
    int
        Number of values that got none, because no row is free (`max_values`).
    """
    s = State(
        config,
        scalars,
        counts,
        weights,
        scales,
        last,
        generation,
        column,
        names,
        start,
        length,
        field,
        slots,
        pair_counts,
        pair_weights,
        pair_scales,
        bias,
        bias_scales,
        number_weights,
        number_scales,
        shares,
        numbers,
        numeric,
        totals,
        target,
        kinds,
        slot,
        places,
        evidence,
        evidence_at,
        hedge,
        stack,
        outputs,
        rows,
        row_amounts,
        fresh,
        keys,
        key_amounts,
        pair_rows,
        pair_amounts,
        pair_totals,
        z,
        order,
    )
    begin, without_row = 0, 0
    for i in range(ends.shape[0]):
        row = find(s, text, begin, ends[i], fields[i])
        if row < 0:
            row = free_row(s, int(s.scalars[SAMPLES]) + 1, i)
            if row >= 0:
                assign_name(s, row, text, begin, ends[i], fields[i])
                s.last[row] = int(s.scalars[SAMPLES])
        if row >= 0:
            s.column[row] = columns[i]
        without_row += row < 0
        begin = ends[i]
    return without_row
