"""State of the sparse stage in flat arrays, and the names of their entries."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engines.numba_buffers import FIRST
from ..mixture import FIRST_VALUES
from .constants import FIRST_PAIRS, MOST_CELLS, MOST_PAIRS, RATES

Reals = NDArray[Any]  # float32, or float64 for tests of exactness

# Entries of `State.config`.
REGRESSION, SEED, MAX_VALUES = range(3)
# Entries of `State.scalars`.
SAMPLES, ROWS, CLASSES, TEXT_END, TEXT_WASTE, RECYCLED, TOUCHED = range(7)
NORM, PAIR_NORM, GROUP_ERROR, PAIR_ERROR, ERROR_SCALE = range(7, 12)
TARGET_WEIGHT, TARGET_LOW, TARGET_HIGH, REFERENCE = range(12, 16)
# Of the sample that `front` read last: numbers of known values, unknown values and pairs.
KNOWN, FRESH, PAIR_NUMBER = range(16, 19)
SCALARS = 19
# Groups of linear members: first index of `bias`, `dense`, `shares`.
LINEAR, PAIRS = range(2)
# Kinds of fields.
CLOSED, OPEN, TEXT = range(3)
# Slots of evidence columns that belong to no field; those of fields follow.
SUMS, OF_PAIRS, OF_FIELDS = range(3)
# Experts, and rows of `State.outputs`.
EXPERTS = 3
FEATURES = EXPERTS + 1
MEMBERS = len(RATES)
OUT_DENSE, HEDGED, STACKED, MIXED = 0, EXPERTS, EXPERTS + 1, EXPERTS + 2
# Rows of both groups; a regression's are in standardized units.
OUT_LINEAR, OUT_PAIRS = EXPERTS + 3, EXPERTS + 4
OUT_FEATURES = EXPERTS + 5
OUT_MEMBERS = OUT_FEATURES + FEATURES
OUT_DELTA = OUT_MEMBERS + 2 * MEMBERS
SHARE, LOG_ODDS, OFFSET = range(OUT_DELTA + MEMBERS, OUT_DELTA + MEMBERS + 3)
OUTPUTS = OUT_DELTA + MEMBERS + 3
# Rows of `State.hedge`; columns: the experts, the hedge, the stack.
WEIGHT, LOSS = range(2)
# Rows of `State.stack`; the inverse follows.
COEFFICIENTS, GRADIENT, DIRECTION, INVERSE = range(4)
# Rows of `State.evidence`.
AVERAGE, VARIANCE, NUMBER, RAW = range(4)
EVIDENCE_ROWS = 4
#: Rows of `State.numbers` and `State.target` (`engines.numba_buffers`).
BOUND_ROWS = FIRST + FIRST_VALUES


class State(NamedTuple):
    """State of a stage. C is the capacity for classes, R the number of rates, n that of numeric columns.

    C is a power of two. Rows of values and of pairs may have less room (`most_values`): K ≤ C.

    ``real`` is float32, or float64 for tests of exactness.

    Attributes
    ----------
    config, scalars : int64 (3,), float64 (19,)
        Settings, with the present limit of values; counters and running means.
    counts : real (rows, K), or (rows, 2) for a regression
        Weight of the samples with a value, by class; sum of targets less `REFERENCE`, and weight.
    weights, scales : real (rows, R·K), (rows,)
        Weights of the linear members, and their accumulator.
    last, generation, column : int64 (rows,), int32 (rows,), int32 (rows,)
        Sample that had the value last; number of times the row was recycled; one-hot column or −1.
    names, start, length, field : uint8, int64, int32, int32
        Names of the values: bytes, and by row the position, the length, and the field.
    slots : int32 (2^k,)
        Hash table of the names: rows, −1 where empty.
    pair_counts, pair_weights, pair_scales : real
        As `counts`, `weights` and `scales`, of hashed pairs.
    bias, bias_scales, number_weights, number_scales, shares
        Of each group: biases (2, R, C) and their accumulator, weights of numbers (2, R, C, n) and their
        accumulators (2, n), weights of the members in the group's hedge (2, R); float64.
    numbers, numeric : float64 (30, n), int64 (n,)
        Moments and bounds of the numbers (`engines.numba_buffers.Buffers.inputs`); their columns.
    totals, target : float64 (C,), (30, 1)
        Weight of the samples of each class; moments and bounds of the target.
    kinds, slot, places : int32 (fields,), (fields,), (slots, 2, C + 1)
        Kind of each field; its slot of evidence columns, or −1; positions of the columns by slot, set and
        class, −1 for none. In the place of class 0 is the column of counts.
    evidence, evidence_at : float64 (4, k), int64 (k,)
        Mean, variance and number of the values of each evidence column, and its latest value; its position.
    hedge, stack, outputs : float64 (2, 5), (7, 4), (OUTPUTS, C)
        Combination of the network and the groups; predictions and working space.
    rows, row_amounts, fresh, keys, key_amounts, pair_rows, pair_amounts, pair_totals, z, order
        Working space: the sample's known rows, amounts, unknown names, pairs and their totals of counts,
        standardized numbers.
    """

    config: NDArray[np.int64]
    scalars: NDArray[np.float64]
    counts: Reals
    weights: Reals
    scales: Reals
    last: NDArray[np.int64]
    generation: NDArray[np.int32]
    column: NDArray[np.int32]
    names: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    field: NDArray[np.int32]
    slots: NDArray[np.int32]
    pair_counts: Reals
    pair_weights: Reals
    pair_scales: Reals
    bias: NDArray[np.float64]
    bias_scales: NDArray[np.float64]
    number_weights: NDArray[np.float64]
    number_scales: NDArray[np.float64]
    shares: NDArray[np.float64]
    numbers: NDArray[np.float64]
    numeric: NDArray[np.int64]
    totals: NDArray[np.float64]
    target: NDArray[np.float64]
    kinds: NDArray[np.int32]
    slot: NDArray[np.int32]
    places: NDArray[np.int32]
    evidence: NDArray[np.float64]
    evidence_at: NDArray[np.int64]
    hedge: NDArray[np.float64]
    stack: NDArray[np.float64]
    outputs: NDArray[np.float64]
    rows: NDArray[np.int64]
    row_amounts: NDArray[np.float64]
    fresh: NDArray[np.int64]
    keys: NDArray[np.uint64]
    key_amounts: NDArray[np.float64]
    pair_rows: NDArray[np.int64]
    pair_amounts: NDArray[np.float64]
    pair_totals: NDArray[np.float64]
    z: NDArray[np.float64]
    order: NDArray[np.float64]


class Items(NamedTuple):
    """Values of a sample that the stage reads.

    Attributes
    ----------
    text, ends : uint8, int64 (N,)
        Names in UTF-8, one after another; the end of each.
    fields, amounts : int64 (N,), float64 (N,)
        Field and amount of each.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]
    fields: NDArray[np.int64]
    amounts: NDArray[np.float64]


class Combined(NamedTuple):
    """Arrays of `State` that the combination needs; a call with these alone takes less time than with all."""

    config: NDArray[np.int64]
    scalars: NDArray[np.float64]
    target: NDArray[np.float64]
    hedge: NDArray[np.float64]
    stack: NDArray[np.float64]
    outputs: NDArray[np.float64]


#: Arrays with a row for each value; arrays of a `block`, of values and of pairs.
BY_ROW = ("last", "generation", "column", "start", "length", "field")
OF_ROWS, BY_PAIR = ("counts", "weights", "scales"), ("pair_counts", "pair_weights", "pair_scales")


def width_of(classes: int) -> int:
    """Return the capacity for a number of classes of a classification."""
    return max(1 << (classes - 1).bit_length(), 2)


def most_values(max_values: int, width: int) -> int:
    """Return the greatest number of values with room for `width` classes each.

    The number of values times `width` is at most 2²⁴, or twice `max_values` if that is more.
    """
    return min(max_values, max(MOST_CELLS, 2 * max_values) // width)


def untrained(regression: bool, seed: int, max_values: int, real: np.dtype[Any]) -> State:
    """Return the state of a stage without values."""
    rows, r, classes, first = 64, MEMBERS, 2, FIRST_PAIRS
    width = 1 if regression else classes
    scalars = np.zeros(SCALARS)
    scalars[[NORM, PAIR_NORM, GROUP_ERROR, PAIR_ERROR, ERROR_SCALE]] = 1.0
    scalars[[TARGET_LOW, TARGET_HIGH]] = np.inf, -np.inf
    counts, weights, scales = block(rows, classes, width, real)
    pair_counts, pair_weights, pair_scales = block(first, classes, width, real)
    state = State(
        config=np.array([regression, seed, most_values(max_values, width)]),
        scalars=scalars,
        counts=counts,
        weights=weights,
        scales=scales,
        last=np.zeros(rows, np.int64),
        generation=np.zeros(rows, np.int32),
        column=np.zeros(rows, np.int32),
        names=np.zeros(8 * rows, np.uint8),
        start=np.zeros(rows, np.int64),
        length=np.zeros(rows, np.int32),
        field=np.zeros(rows, np.int32),
        slots=np.full(2 * rows, -1, np.int32),
        pair_counts=pair_counts,
        pair_weights=pair_weights,
        pair_scales=pair_scales,
        bias=np.zeros((2, r, width)),
        bias_scales=np.zeros(2),
        number_weights=np.zeros((2, r, width, 0)),
        number_scales=np.zeros((2, 0)),
        shares=np.full((2, r), 1.0 / r),
        numbers=np.zeros((BOUND_ROWS, 0)),
        numeric=np.zeros(0, np.int64),
        totals=np.zeros(width),
        target=np.zeros((BOUND_ROWS, 1)),
        kinds=np.zeros(0, np.int32),
        slot=np.zeros(0, np.int32),
        places=np.full((OF_FIELDS, 2, width + 1), -1, np.int32),
        evidence=np.zeros((EVIDENCE_ROWS, 0)),
        evidence_at=np.zeros(0, np.int64),
        hedge=np.zeros((2, EXPERTS + 2)),
        stack=np.zeros((INVERSE + FEATURES, FEATURES)),
        outputs=np.zeros((OUTPUTS, width)),
        rows=np.zeros(64, np.int64),
        row_amounts=np.zeros(64),
        fresh=np.zeros(64, np.int64),
        keys=np.zeros(64, np.uint64),
        key_amounts=np.zeros(64),
        pair_rows=np.zeros(MOST_PAIRS, np.int64),
        pair_amounts=np.zeros(MOST_PAIRS),
        pair_totals=np.zeros(MOST_PAIRS),
        z=np.zeros(0),
        order=np.zeros(64),
    )
    state.hedge[WEIGHT] = 1.0 / EXPERTS
    state.hedge[WEIGHT, EXPERTS:] = 0.5
    return state


def block(rows: int, counted: int, outputs: int, real: np.dtype[Any]) -> tuple[Reals, Reals, Reals]:
    """Return counts, weights and scales of rows, all 0: views of one array, so that a row is in one place."""
    whole = np.zeros((rows, counted + 1 + MEMBERS * outputs), real)
    return whole[:, :counted], whole[:, counted + 1 :], whole[:, counted]


def block_copy(counts: Reals, weights: Reals, scales: Reals, rows: int) -> tuple[Reals, Reals, Reals]:
    """Return copies of the first rows of the arrays of a `block`, in a third of the time."""
    whole, counted = counts.base, counts.shape[1]
    if whole is None or whole is not weights.base or whole is not scales.base:
        return counts[:rows].copy(), weights[:rows].copy(), scales[:rows].copy()
    copied = whole[:rows].copy()
    return copied[:, :counted], copied[:, counted + 1 :], copied[:, counted]


def extended(array: NDArray[Any], shape: tuple[int, ...], fill: float = 0) -> NDArray[Any]:
    """Return an array of a greater shape with the values of `array` in its corner."""
    larger = np.full(shape, fill, array.dtype) if fill else np.zeros(shape, array.dtype)
    larger[tuple(slice(size) for size in array.shape)] = array
    return larger
