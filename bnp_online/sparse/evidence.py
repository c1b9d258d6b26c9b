"""Evidence columns: shrunken log odds, or deviations from the mean, of the values of a sample, compiled."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..engines.base import INPUT_CLIP
from ..jit import jit, jit_inline
from .constants import MOST_COUNT, MOST_DEVIATION, PRIOR, TEXT_PRIORS
from .state import (
    AVERAGE,
    CLASSES,
    CLOSED,
    LOG_ODDS,
    NUMBER,
    OF_PAIRS,
    RAW,
    REFERENCE,
    REGRESSION,
    SHARE,
    SUMS,
    TARGET_WEIGHT,
    TEXT,
    VARIANCE,
    Reals,
    State,
)

#: Number of factors of a product whose logarithm is taken: it stays within the range of float64.
_FACTORS = 16


@jit
def prepare(s: State) -> None:
    """Write the share of each class and its log odds, or the mean target, to ``s.outputs``."""
    if s.config[REGRESSION]:
        s.outputs[SHARE, 0] = s.target[0, 0] - s.scalars[REFERENCE] if s.scalars[TARGET_WEIGHT] > 0.0 else 0.0
        return
    classes, total = int(s.scalars[CLASSES]), 0.0
    for c in range(classes):
        total += s.totals[c]
    for c in range(classes):
        p = (s.totals[c] + 0.5) / (total + 0.5 * classes)
        s.outputs[SHARE, c] = p
        s.outputs[LOG_ODDS, c] = math.log(p / (1.0 - p)) if classes > 1 else 0.0


@jit
def clear(s: State, out: NDArray[np.float64]) -> None:
    """Write 0 to all evidence columns, except where they are missing."""
    for slot in range(s.places.shape[0]):
        for part in range(2):
            for c in range(s.places.shape[2]):
                place = s.places[slot, part, c]
                if place >= 0 and not math.isnan(out[place]):
                    out[place] = 0.0


@jit_inline
def add_evidence(s: State, out: NDArray[np.float64], row: int, amount: float) -> None:
    """Add the evidence of a value to the columns of its field, or to the sums."""
    field = s.field[row]
    kind = s.kinds[field]
    if kind == CLOSED:
        return
    for which in range(2):
        slot = s.slot[field] if which == 0 else SUMS
        if slot < 0 or s.places[slot, 0, 0] < 0:
            continue
        if kind == TEXT:
            for part in range(2):
                _add(s, out, s.counts[row], amount, slot, part, TEXT_PRIORS[part])
        else:
            _add(s, out, s.counts[row], amount, slot, 0, PRIOR)


@jit_inline
def add_pair_evidence(s: State, out: NDArray[np.float64], pairs: int) -> None:
    """Add the evidence of the pairs of a sample, as `add_evidence` would for each.

    A logarithm of a product takes the place of the sum of logarithms of up to 16 values with the amount 1.
    """
    if s.places[OF_PAIRS, 0, 0] < 0:
        return
    product, total = 1.0, 0.0
    for e in range(pairs):  # a pair without samples has the factor 1
        product *= 1.0 + s.pair_totals[e]
        if e % _FACTORS == _FACTORS - 1:
            total, product = total + math.log(product), 1.0
    out[s.places[OF_PAIRS, 0, 0]] += total + math.log(product)
    if s.config[REGRESSION]:
        place = s.places[OF_PAIRS, 0, 1]
        for e in range(pairs):
            weight = s.pair_totals[e]
            if place >= 0 and weight > 0.0:
                out[place] += (s.pair_counts[s.pair_rows[e], 0] - weight * s.outputs[SHARE, 0]) / (
                    weight + PRIOR
                )
        return
    for c in range(1, min(int(s.scalars[CLASSES]), s.places.shape[2], s.pair_counts.shape[1])):
        place = s.places[OF_PAIRS, 0, c]
        if place >= 0:
            out[place] += _odds_of_pairs(s, pairs, c)


@jit_inline
def _odds_of_pairs(s: State, pairs: int, c: int) -> float:
    """Return the sum of the shrunken log odds of pairs, less the log odds of the class."""
    of_class, of_others = PRIOR * s.outputs[SHARE, c], PRIOR * (1.0 - s.outputs[SHARE, c])
    above, below, factors, total = 1.0, 1.0, 0, 0.0
    for e in range(pairs):
        weight, amount = s.pair_totals[e], s.pair_amounts[e]
        if weight <= 0.0:  # exactly 0, without rounding
            continue
        n = float(s.pair_counts[s.pair_rows[e], c])
        first, second = n + of_class, max(weight - n, 0.0) + of_others
        if amount != 1.0:
            total += amount * (math.log(first / second) - s.outputs[LOG_ODDS, c])
            continue
        above *= first
        below *= second
        factors += 1
        if factors == _FACTORS:
            total += math.log(above / below) - _FACTORS * s.outputs[LOG_ODDS, c]
            above, below, factors = 1.0, 1.0, 0
    return float(total + math.log(above / below) - factors * s.outputs[LOG_ODDS, c])


@jit_inline
def _add(
    s: State, out: NDArray[np.float64], counts: Reals, amount: float, slot: int, part: int, a: float
) -> None:
    classes, total = int(s.scalars[CLASSES]), weight_of(s, counts)
    if total <= 0.0:  # exactly 0, without rounding
        return
    if part == 0:
        out[s.places[slot, 0, 0]] += math.log(1.0 + total)
    if s.config[REGRESSION]:
        place = s.places[slot, part, 1]
        if place >= 0:
            out[place] += (counts[0] - total * s.outputs[SHARE, 0]) / (total + a)
        return
    for c in range(1, min(classes, s.places.shape[2], counts.shape[0])):
        place = s.places[slot, part, c]
        if place >= 0:
            p, n = s.outputs[SHARE, c], float(counts[c])
            odds = (n + a * p) / (max(total - n, 0.0) + a * (1.0 - p))
            out[place] += amount * (math.log(odds) - s.outputs[LOG_ODDS, c])


@jit_inline
def weight_of(s: State, counts: Reals) -> float:
    """Return the weight of the samples with a value, of the classes that it counts."""
    if s.config[REGRESSION]:
        return float(counts[1])
    total = 0.0
    for c in range(min(int(s.scalars[CLASSES]), counts.shape[0])):
        total += counts[c]
    return total


@jit_inline
def counted(s: State, columns: int) -> tuple[int, int]:
    """Return the columns of counts that make up the weight of a value: the first, and the one behind."""
    if s.config[REGRESSION]:
        return 1, 2
    return 0, min(int(s.scalars[CLASSES]), columns)


@jit_inline
def count(s: State, counts: Reals, y: float, weight: float) -> None:
    """Count a sample with a value; old samples lose weight before the count exceeds its bound.

    A class for which the row has no room is not counted.
    """
    if not s.config[REGRESSION] and int(y) >= counts.shape[0]:
        return
    added = min(weight, MOST_COUNT)
    total = weight_of(s, counts)
    if total + added > MOST_COUNT:
        rest = max(MOST_COUNT - added, 0.0) / total
        for c in range(counts.shape[0]):
            counts[c] *= rest
    if s.config[REGRESSION]:
        deviation = y - s.scalars[REFERENCE]
        counts[0] += added * min(max(deviation, -MOST_DEVIATION), MOST_DEVIATION)
        counts[1] += added
    else:
        counts[int(y)] += added


@jit
def scale_evidence(s: State, out: NDArray[np.float64]) -> None:
    """Standardize the evidence columns by their moments before the sample."""
    for k in range(s.evidence_at.shape[0]):
        place = s.evidence_at[k]
        s.evidence[RAW, k] = out[place]
        spread = s.evidence[VARIANCE, k]
        if not math.isnan(out[place]):
            z = (out[place] - s.evidence[AVERAGE, k]) / math.sqrt(spread) if spread > 0.0 else 0.0
            out[place] = min(max(z, -INPUT_CLIP), INPUT_CLIP)


@jit
def count_evidence(s: State) -> None:
    """Count the sample's evidence into the moments."""
    for k in range(s.evidence_at.shape[0]):
        value = s.evidence[RAW, k]
        if not math.isnan(value):
            s.evidence[NUMBER, k] += 1.0
            share = 1.0 / s.evidence[NUMBER, k]
            change = value - s.evidence[AVERAGE, k]
            s.evidence[VARIANCE, k] = (1.0 - share) * (s.evidence[VARIANCE, k] + share * change * change)
            s.evidence[AVERAGE, k] += share * change
