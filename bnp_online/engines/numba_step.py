"""Compiled prediction and step of the numba engine, on flat arrays, a block of rows in one call.

The rows of a call are learned in runs (`DESIGN.md`): one network after the other learns all rows of a run,
then `_finish` combines their predictions, row by row.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_inline
from ..mixture import METRIC_EVERY
from .numba_buffers import (
    ACTIVATION,
    ACTS,
    FACTS,
    LATEST,
    MIXED,
    NEIGHBOURS,
    PRE,
    PREDICTED,
    PREDICTED_INPUT,
    PREDICTS,
    RATE,
    RESTART_EVERY,
    STEP,
    STEP_WEIGHT,
    Buffers,
)
from .numba_experts import judge, pool, restart, take_given, update_experts
from .numba_kernels import Reals, assign, forward, same, sound
from .numba_members import LARGEST_RATE, predict_member, run, step
from .numba_neighbours import renew_metric
from .numba_rows import admit_row, bound_inputs, enter, leave, note, place, predict_others

# Kinds of `part` of `learn`, and its entries.
WHOLE, ADVANCE, FINISH = range(3)
KIND, START, ROWS, TRAJECTORY, THREAD = range(5)


@jit
def predict(
    x: NDArray[np.float64],
    predictions: NDArray[np.float64],
    sizes: NDArray[np.int64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    trajectories: NDArray[np.float64],
    params: Reals,
    average: Reals,
    linear: Reals,
    hidden: Reals,
    entry: Reals,
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
    memory_x: Reals,
    memory_y: NDArray[np.float64],
    hedge: NDArray[np.float64],
    stack: NDArray[np.float64],
    outputs: NDArray[np.float64],
    distances: Reals,
    nearest: NDArray[np.float64],
    bins: Reals,
    entered: Reals,
    facts: NDArray[np.float64],
    found: NDArray[np.float64],
    lost: NDArray[np.bool_],
    common: Reals,
    scratch: Reals,
    live: NDArray[np.int64],
) -> int:
    """Write the predictions for rows of raw inputs; return the number of rows before one without prediction.

    The arrays of the learner are passed one by one, ``*Buffers``: numba takes 0.4 µs to find their types, and
    2.8 µs for those of the tuple.
    """
    b = Buffers(
        sizes,
        config,
        scalars,
        trajectories,
        params,
        average,
        linear,
        hidden,
        entry,
        inputs,
        target,
        memory_x,
        memory_y,
        hedge,
        stack,
        outputs,
        distances,
        nearest,
        bins,
        entered,
        facts,
        found,
        lost,
        common,
        scratch,
        live,
    )
    for t in range(x.shape[0]):
        if not _predict_row(b, x[t]):
            return t
        assign(predictions[t], b.outputs[MIXED])
    return len(x)


@jit_inline
def _is_predicted(b: Buffers, x: NDArray[np.float64]) -> bool:
    """Return whether ``b.outputs`` has the predictions for a raw input, at this step."""
    return bool(b.scalars[PREDICTED] == b.scalars[STEP] and same(x, b.inputs[LATEST]))


@jit
def _predict_row(b: Buffers, x: NDArray[np.float64]) -> bool:
    """Write the predictions for a raw input to ``b.outputs``; return whether there is one.

    A repeated prediction is not computed again: a sample that is predicted, then learned, runs once.
    """
    if _is_predicted(b, x):
        return True
    row = int(np.int64(0))  # a literal would make numba compile the functions once more
    note(b, row)
    bound_inputs(b, x)
    place(b, b.entered[row, PREDICTED_INPUT, : b.sizes[0]])
    # From the last network on: of large ones, the cache has those that were stepped last.
    for k in range(b.trajectories.shape[1] - 1, -1, -1):
        predict_member(b, k, row)
    predict_others(b, x, row)
    _take_found(b, row)
    if not pool(b, b.facts[row]):
        return False
    assign(b.inputs[LATEST], x)
    b.scalars[PREDICTED] = b.scalars[STEP]
    return True


@jit_inline
def _take_found(b: Buffers, r: int) -> None:
    """Copy the predictions of the experts for row r of the run to `outputs`."""
    for k in range(b.found.shape[1]):
        assign(b.outputs[k], b.found[r, k])


@jit
def learn(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    given: NDArray[np.float64],
    predictions: NDArray[np.float64],
    pause: NDArray[np.int64],
    part: NDArray[np.int64],
    sizes: NDArray[np.int64],
    config: NDArray[np.int64],
    scalars: NDArray[np.float64],
    trajectories: NDArray[np.float64],
    params: Reals,
    average: Reals,
    linear: Reals,
    hidden: Reals,
    entry: Reals,
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
    memory_x: Reals,
    memory_y: NDArray[np.float64],
    hedge: NDArray[np.float64],
    stack: NDArray[np.float64],
    outputs: NDArray[np.float64],
    distances: Reals,
    nearest: NDArray[np.float64],
    bins: Reals,
    entered: Reals,
    facts: NDArray[np.float64],
    found: NDArray[np.float64],
    lost: NDArray[np.bool_],
    common: Reals,
    scratch: Reals,
    live: NDArray[np.int64],
) -> int:
    """Learn rows in order, one step each; return the number of rows before a refused one, or a pause.

    Parameters
    ----------
    x, y, weights : float64 (N, n), (N,), (N,)
        Raw inputs (NaN marks a missing value), class indices or targets, sample weights.
    given : float64 (N, K, C) or (0, 0, 0)
        Predictions of the experts to judge, as `numba_experts.take_given`.
    predictions : float64 (N, C) or (0, C)
        Receives the prediction made for each row before its step.
    pause : int64 (1,)
        Another thread sets it to 1 to end the call after the present run. The first row is always learned.
    part : int64 (5,)
        What to do: all; or, for a caller that divides a run among threads, that one trajectory learns its
        rows, or that they are finished. Then the first row of the run, its number of rows, the trajectory,
        and the thread. `ADVANCE` returns the number of rows: for the first trajectory, which enters them, it
        is less if the run ends early.
    sizes, …
        Arrays of the learner; see `Buffers`.
    """
    b = Buffers(
        sizes,
        config,
        scalars,
        trajectories,
        params,
        average,
        linear,
        hidden,
        entry,
        inputs,
        target,
        memory_x,
        memory_y,
        hedge,
        stack,
        outputs,
        distances,
        nearest,
        bins,
        entered,
        facts,
        found,
        lost,
        common,
        scratch,
        live,
    )
    kind, start, thread = part[KIND], part[START], part[THREAD]
    first, last = (
        (part[TRAJECTORY], part[TRAJECTORY] + 1) if kind == ADVANCE else (0, b.trajectories.shape[1])
    )
    while start < x.shape[0] and (start == part[START] or pause[0] == 0):
        rows = min(b.entered.shape[0], x.shape[0] - start) if kind == WHOLE else part[ROWS]
        for k in range(first, last if kind != FINISH else first):
            end = start + rows
            rows = _advance(
                b, k, thread, x[start:end], y[start:end], weights[start:end], predictions.shape[0] > 0
            )
            if rows == 0:
                return int(start) if kind == WHOLE else 0
        if kind == ADVANCE:
            return int(rows)
        _finish(b, start, rows, given, predictions)
        start += rows
        if kind == FINISH:
            break
    return int(start)


@jit_inline
def _advance(
    b: Buffers,
    k: int,
    thread: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    wanted: bool,
) -> int:
    """Let trajectory k predict and learn the rows of a run; return their number. The first one enters them.

    A row is refused if no network can learn it. So a run ends before a row that the first network cannot
    learn: nothing else has changed by then. As the first row of the next run, the other networks are asked.
    """
    mixture = b.hedge.shape[1] > 3
    for r in range(x.shape[0]):
        known = False
        if k == 0:
            known = r == 0 and _is_predicted(b, x[r])
            enter(b, r, x[r], y[r], weights[r], (wanted or mixture) and not known)
        able = run(b, k, r, thread)
        if k == 0:
            if b.lost[r, k] and (r > 0 or not _others_can(b, r, known)):
                leave(b)
                return r
            admit_row(b, r)
        step(b, k, r, thread, able)
        if k == 0 and _ends_run(int(b.scalars[STEP])):
            return r + 1
    return int(x.shape[0])


@jit
def _ends_run(count: int) -> bool:
    """Return whether networks restart, or the neighbours' metric is renewed, after that many samples."""
    return count % RESTART_EVERY == 0 or count % METRIC_EVERY == 0


@jit
def _others_can(b: Buffers, r: int, known: bool) -> bool:
    """Return whether a row that the first network cannot learn can be predicted, and learned by another."""
    networks, space, facts = b.params.shape[0], b.scratch[0], b.facts[r]
    predicted, can = known, False
    z = b.entered[r, PREDICTED_INPUT + 1]
    for k in range(networks):
        forward(b.params[k], b.sizes, b.config[ACTIVATION], z, space[ACTS], space[PRE])
        fits = b.trajectories[RATE, k] * facts[FACTS + STEP_WEIGHT] < LARGEST_RATE
        can = can or (fits and sound(z) and sound(space[PRE]))
    if not predicted:
        for k in range(b.trajectories.shape[1]):
            predict_member(b, k, r)
        for e in range(b.found.shape[1]):
            predicted = predicted or not math.isnan(b.found[r, e, 0])
    return predicted and can


@jit_inline
def _finish(
    b: Buffers, start: int, rows: int, given: NDArray[np.float64], predictions: NDArray[np.float64]
) -> None:
    """Combine the predictions for the rows of a run, in order, and let hedge and stack learn."""
    mixture, wanted = b.hedge.shape[1] > 3, predictions.shape[0] > 0
    for r in range(rows):
        facts = b.facts[r]
        if facts[PREDICTS] != 0.0:
            _take_found(b, r)
            pool(b, facts)
        judged = True
        if mixture and given.shape[0] > 0:
            judged = take_given(b, facts, given[start + r])
        if wanted:
            assign(predictions[start + r], b.outputs[MIXED])
        if mixture:
            judge(b, facts)
            update_experts(b, r, judged)
    if mixture and int(b.scalars[STEP]) % RESTART_EVERY == 0:
        restart(b, b.lost[rows - 1])
    if b.config[NEIGHBOURS]:
        renew_metric(b)
