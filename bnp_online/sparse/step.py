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
from ..mixture import draw
from . import combination
from .constants import (
    CANDIDATES,
    LEAST_OFFSET,
    MOST_AMOUNT,
    MOST_COUNT,
    MOST_PAIRS,
    NORM_SAMPLES,
    PAIR_COUNT,
)
from .evidence import (
    add_evidence,
    add_pair_evidence,
    clear,
    count,
    count_evidence,
    counted,
    prepare,
    scale_evidence,
    weight_of,
)
from .linear import judge_group, outputs_of, run_group, step_group
from .names import assign_name, before, find, unlink
from .state import (
    CLOSED,
    FRESH,
    GROUP_ERROR,
    KNOWN,
    LINEAR,
    MAX_VALUES,
    MIXED,
    NORM,
    OFFSET,
    OUT_LINEAR,
    PAIR_ERROR,
    PAIR_NORM,
    PAIR_NUMBER,
    PAIRS,
    RECYCLED,
    REFERENCE,
    REGRESSION,
    ROWS,
    SAMPLES,
    SEED,
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
    without_column = _read(s, text, ends, fields, amounts)
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
    _find_pairs(s)
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
        _add_rows(s, text, ends, fields, amounts)
        _step(s, goal, weight)
        _count(s, y, weight)
    _learn_numbers(s)
    count_evidence(s)
    s.scalars[SAMPLES] += 1.0


@jit
def _read(
    s: State,
    text: NDArray[np.uint8],
    ends: NDArray[np.int64],
    fields: NDArray[np.int64],
    amounts: NDArray[np.float64],
) -> int:
    """Find the rows of the values, and sort them; list the unknown values.

    Return the number of values without a column, of fields with a column for each value.
    """
    known, fresh, begin, without_column = 0, 0, 0, 0
    for i in range(ends.shape[0]):
        if amounts[i] != 0.0:
            of = fields[i]
            row = find(s, text, begin, ends[i], of) if of < s.kinds.shape[0] else -1
            if of < s.kinds.shape[0] and s.kinds[of] == CLOSED:
                without_column += row < 0 or s.column[row] < 0
            if row >= 0:
                s.rows[known], s.row_amounts[known] = row, _bounded(amounts[i])
                known += 1
            else:
                s.fresh[fresh] = i
                fresh += 1
        begin = ends[i]
    gap = 1
    while gap < known // 3:
        gap = 3 * gap + 1
    while gap > 0:  # Shellsort: the rows are distinct, so the result is unique
        for i in range(gap, known):
            row, amount, j = s.rows[i], s.row_amounts[i], i
            while j >= gap and s.rows[j - gap] > row:
                s.rows[j], s.row_amounts[j] = s.rows[j - gap], s.row_amounts[j - gap]
                j -= gap
            s.rows[j], s.row_amounts[j] = row, amount
        gap //= 3
    s.scalars[KNOWN], s.scalars[FRESH] = known, fresh
    return without_column


@jit_inline
def _bounded(amount: float) -> float:
    """Return an amount, compressed by a logarithm from a bound."""
    size = abs(amount)
    if size <= MOST_AMOUNT:
        return amount
    return math.copysign(MOST_AMOUNT * (1.0 + math.log(size / MOST_AMOUNT)), amount)


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
def _mixed_bits(a: int | np.uint64, b: int | np.uint64) -> np.uint64:
    x = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@jit
def _find_pairs(s: State) -> None:
    """List the pairs of values with enough samples, in the order of their rows."""
    mask, found, frequent = np.uint64(s.pair_scales.shape[0] - 1), 0, 0
    for e in range(int(s.scalars[KNOWN])):
        if weight_of(s, s.counts[s.rows[e]]) >= PAIR_COUNT:
            s.keys[frequent] = _mixed_bits(s.rows[e], s.generation[s.rows[e]])
            s.key_amounts[frequent] = s.row_amounts[e]
            frequent += 1
    for i in range(frequent):
        for j in range(i + 1, min(frequent, i + 1 + MOST_PAIRS - found)):
            s.pair_rows[found] = np.int64(_mixed_bits(s.keys[i], s.keys[j]) & mask)
            s.pair_amounts[found] = s.key_amounts[i] * s.key_amounts[j]
            found += 1
    first, last = counted(s, s.pair_counts.shape[1])
    for e in range(found):
        total = 0.0
        for c in range(first, last):
            total += s.pair_counts[s.pair_rows[e], c]
        s.pair_totals[e] = total
    s.scalars[PAIR_NUMBER] = found


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
def _add_rows(
    s: State,
    text: NDArray[np.uint8],
    ends: NDArray[np.int64],
    fields: NDArray[np.int64],
    amounts: NDArray[np.float64],
) -> None:
    """Give the unknown values of a sample rows, in the order of their names."""
    known, fresh, now = int(s.scalars[KNOWN]), int(s.scalars[FRESH]), int(s.scalars[SAMPLES])
    for e in range(known):
        s.last[s.rows[e]] = now
    for i in range(1, fresh):
        item, j = s.fresh[i], i
        while j > 0 and before(text, ends, fields, item, s.fresh[j - 1]):
            s.fresh[j] = s.fresh[j - 1]
            j -= 1
        s.fresh[j] = item
    for i in range(fresh):
        item = s.fresh[i]
        row = _free_row(s, now, i)
        if row < 0:
            continue
        begin = ends[item - 1] if item > 0 else 0
        assign_name(s, row, text, begin, ends[item], fields[item])
        s.last[row], s.column[row] = now, -1
        s.rows[known], s.row_amounts[known] = row, _bounded(amounts[item])
        known += 1
    s.scalars[KNOWN] = known


@jit
def _free_row(s: State, now: int, turn: int) -> int:
    """Return a row without a value: the next one or, at the limit, the least recently used of some."""
    rows = int(s.scalars[ROWS])
    if rows < s.config[MAX_VALUES]:
        s.scalars[ROWS] += 1.0
        return rows
    oldest = -1
    for i in range(CANDIDATES):
        row = int(np.int64(draw(s.config[SEED], now, turn * CANDIDATES + i, rows)))
        if s.last[row] >= now or s.column[row] >= 0:
            continue
        if oldest < 0 or s.last[row] < s.last[oldest] or (s.last[row] == s.last[oldest] and row < oldest):
            oldest = row
    if oldest < 0:
        return -1
    unlink(s, oldest)
    for c in range(s.counts.shape[1]):
        s.counts[oldest, c] = 0.0
    for c in range(s.weights.shape[1]):
        s.weights[oldest, c] = 0.0
    s.scales[oldest] = 0.0
    s.generation[oldest] += 1
    s.scalars[RECYCLED] += 1.0
    return oldest


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
            row = _free_row(s, int(s.scalars[SAMPLES]) + 1, i)
            if row >= 0:
                assign_name(s, row, text, begin, ends[i], fields[i])
                s.last[row] = int(s.scalars[SAMPLES])
        if row >= 0:
            s.column[row] = columns[i]
        without_row += row < 0
        begin = ends[i]
    return without_row
