"""Compiled parts of scores: each number is the one that a loop in Python gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..jit import compilation, jit_exact
from ..values import Vector

Codes: TypeAlias = NDArray[np.int64]

#: ADWIN: numbers between searches for a change, maximum number of buckets of one size, number of sizes, and
#: minimum length of a part of the window in a comparison.
CLOCK, BUCKETS, SIZES, SHORTEST = 32, 5, 64, 5
#: Positions of ADWIN's totals: number of values, their sum, and the sum of their squared deviations.
WIDTH, TOTAL, SQUARES = range(3)
#: Positions of the state of the baselines of a classification, beside the counts by label.
MAJORITY, LAST, SEEN, CLASSES = range(4)


@jit_exact
def adwin_insert(waiting: Vector, buckets: Vector, counts: Codes, totals: Vector) -> None:
    """Add numbers to the window.

    Parameters
    ----------
    waiting : array of float64, shape (N,)
        The numbers.
    buckets : array of float64, shape (SIZES, BUCKETS + 1, 2)
        By the logarithm of their size, the buckets from the oldest to the newest: sum, squared deviations.
    counts : array of int64, shape (SIZES,)
        Number of buckets of each size.
    totals : array of float64, shape (3,)
        The whole window.
    """
    for value in waiting:
        totals[WIDTH] += 1.0
        width = totals[WIDTH]
        if width > 1.0:
            deviation = value - totals[TOTAL] / (width - 1.0)
            totals[SQUARES] += (width - 1.0) * deviation * deviation / width
        totals[TOTAL] += value
        buckets[0, counts[0], 0] = value
        buckets[0, counts[0], 1] = 0.0
        counts[0] += 1
        size, i = 1.0, 0
        while counts[i] > BUCKETS:  # the two oldest buckets of a size become one of the next
            first, second = buckets[i, 0, 0], buckets[i, 1, 0]
            squares = buckets[i, 0, 1] + buckets[i, 1, 1]
            counts[i] -= 2
            for k in range(counts[i]):
                buckets[i, k, 0] = buckets[i, k + 2, 0]
                buckets[i, k, 1] = buckets[i, k + 2, 1]
            apart = first / size - second / size
            buckets[i + 1, counts[i + 1], 0] = first + second
            buckets[i + 1, counts[i + 1], 1] = squares + size * 0.5 * apart * apart
            counts[i + 1] += 1
            size, i = 2.0 * size, i + 1


@jit_exact
def adwin_shrink(buckets: Vector, counts: Codes, totals: Vector, delta: float) -> bool:
    """Drop the oldest buckets while the means before and after some border differ significantly.

    Returns
    -------
    bool
        Whether any was dropped.
    """
    largest = 0
    for i in range(SIZES):
        if counts[i]:
            largest = i
    shrunk = False
    while _is_cut(buckets, counts, totals, delta, largest):
        size = float(1 << largest)
        total, squares = buckets[largest, 0, 0], buckets[largest, 0, 1]
        counts[largest] -= 1
        for k in range(counts[largest]):
            buckets[largest, k, 0] = buckets[largest, k + 1, 0]
            buckets[largest, k, 1] = buckets[largest, k + 1, 1]
        totals[WIDTH] -= size
        totals[TOTAL] -= total
        width = totals[WIDTH]
        apart = total / size - totals[TOTAL] / width
        totals[SQUARES] -= squares + size * width * apart * apart / (size + width)
        while largest and not counts[largest]:
            largest -= 1
        shrunk = True
    return shrunk


@jit_exact
def _is_cut(buckets: Vector, counts: Codes, totals: Vector, delta: float, largest: int) -> bool:
    width, newer_total = totals[WIDTH], totals[TOTAL]
    older, older_total, newer = 0.0, 0.0, width
    log = math.log(2.0 * math.log(width) / delta)
    spread = totals[SQUARES] / width
    for i in range(largest, -1, -1):
        size = float(1 << i)
        for k in range(counts[i]):
            older += size
            newer -= size
            older_total += buckets[i, k, 0]
            newer_total -= buckets[i, k, 0]
            if newer < SHORTEST:
                return False
            if older < SHORTEST:
                continue
            share = 1.0 / (older - SHORTEST + 1.0) + 1.0 / (newer - SHORTEST + 1.0)
            chance = math.sqrt(2.0 * share * spread * log) + 2.0 / 3.0 * log * share
            if abs(older_total / older - newer_total / newer) > chance:
                return True
    return False


@jit_exact
def baseline_scores(codes: Codes, counts: Codes, state: Codes, sums: Vector, scores: Vector) -> None:
    """Score and learn labels: the accuracies of the majority and of the last one, and the log loss.

    Parameters
    ----------
    codes : array of int64, shape (N,)
        The labels; each was seen before.
    counts : array of int64, shape (labels,)
        How often each label was seen.
    state : array of int64, shape (4,)
        Majority, last label, number of labels seen, and number of different ones.
    sums : array of float64, shape (3,)
        Sums of the scores.
    scores : array of float64, shape (N, 3)
        Gets the scores.
    """
    for i in range(len(codes)):
        code = codes[i]
        scores[i, 0] = 1.0 if code == state[MAJORITY] else 0.0
        scores[i, 1] = 1.0 if code == state[LAST] else 0.0
        scores[i, 2] = math.log((state[SEEN] + state[CLASSES] + 1) / (counts[code] + 1))
        for k in range(3):
            sums[k] += scores[i, k]
        counts[code] += 1
        if counts[code] > counts[state[MAJORITY]]:
            state[MAJORITY] = code
        state[LAST] = code
        state[SEEN] += 1


def _arguments() -> Any:
    counts = np.zeros(1, np.int64)
    return np.zeros(1, np.int64), counts, np.zeros(4, np.int64), np.zeros(3), np.zeros((1, 3))


def compile_kernels() -> Callable[[], None]:
    """Begin to compile, unless the cache has the code; return a function that waits for the end."""
    wait = compilation(baseline_scores, _arguments(), f"import {__name__} as kernels; kernels.run_kernels()")

    def finish() -> None:
        wait()
        run_kernels()

    return finish


def run_kernels() -> None:
    """Call each compiled function; that which is looked for in the cache comes last."""
    buckets, counts, totals = np.zeros((SIZES, BUCKETS + 1, 2)), np.zeros(SIZES, np.int64), np.zeros(3)
    adwin_insert(np.zeros(CLOCK), buckets, counts, totals)
    adwin_shrink(buckets, counts, totals, 0.002)
    baseline_scores(*_arguments())
