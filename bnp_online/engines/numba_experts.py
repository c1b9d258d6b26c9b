"""The combination of the experts' predictions by the hedge and the stack."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_inline
from ..mixture import ERROR_FLOOR, ERROR_RETENTION, MAX_LOSS, mix, mix_fast, mix_shares
from .numba_buffers import (
    AVERAGE,
    ERROR_SCALE,
    FACTS,
    HEDGED,
    HIDDEN_PRIOR,
    HIDDEN_WEIGHT,
    KNOWN_CLASSES,
    LOSS,
    MIXED,
    OWN_ERROR,
    RAW,
    REGRESSION,
    STACKED,
    STEP_WEIGHT,
    TARGET,
    TARGET_VAR,
    TWENTIETH,
    WEIGHT,
    WEIGHTS,
    Buffers,
)
from .numba_kernels import assign
from .numba_stack import stack, update_stack


@jit_inline
def pool(b: Buffers, facts: NDArray[np.float64]) -> bool:
    """Write the predictions of the hedge, of the stack, and of both; return whether an expert is sound."""
    total, experts = 0.0, b.hedge.shape[1] - 2
    hedged, stacked, mixed = b.outputs[HEDGED], b.outputs[STACKED], b.outputs[MIXED]
    for i in range(hedged.shape[0]):
        hedged[i] = 0.0
    for k in range(experts):
        outputs, weight = b.outputs[k], b.hedge[WEIGHT, k]
        if math.isnan(outputs[0]):
            continue
        total += weight
        for i in range(hedged.shape[0]):
            hedged[i] += weight * outputs[i]
    if total <= 0.0:
        return False
    for i in range(hedged.shape[0]):
        hedged[i] /= total
    if b.stack.shape[1] == 0:
        assign(mixed, hedged)
        return True
    stack(b, facts)
    of_hedge, of_stack = b.hedge[WEIGHT, experts], b.hedge[WEIGHT, experts + 1]
    for i in range(hedged.shape[0]):
        mixed[i] = of_hedge * hedged[i] + of_stack * stacked[i]
    return True


@jit_inline
def _loss(b: Buffers, facts: NDArray[np.float64], outputs: NDArray[np.float64]) -> float:
    """Return the loss of a prediction; infinity if it is not sound."""
    if math.isnan(outputs[0]):
        return math.inf
    if b.config[REGRESSION]:
        error = abs(facts[TARGET] - outputs[0]) / math.sqrt(max(facts[TARGET_VAR], 1e-300))
        return float(min(error / max(b.scalars[ERROR_SCALE], ERROR_FLOOR), MAX_LOSS))
    p = outputs[int(facts[TARGET])]
    return float(min(-math.log(p), MAX_LOSS)) if p > 0.0 else float(MAX_LOSS)


@jit
def take_given(b: Buffers, facts: NDArray[np.float64], given: NDArray[np.float64]) -> bool:
    """Put predictions that the experts made earlier in place of those in `outputs`, to judge them.

    An expert whose prediction is NaN counts as the hedge, as one that is not sound. If all are NaN, nothing
    changes: the experts are judged by their predictions now. Hedge and stack combine the predictions with
    their weights of now.

    Returns
    -------
    bool
        Whether hedge and stack can learn: no expert gives a class a probability that was unknown then.
    """
    experts, found = b.hedge.shape[1] - 2, False
    for k in range(experts):
        found = found or not math.isnan(given[k, 0])
    if not found:
        return True
    for k in range(experts):
        assign(b.outputs[k], given[k])
    pool(b, facts)
    return bool(b.config[REGRESSION] or b.outputs[HEDGED, int(facts[TARGET])] > 0.0)


@jit
def judge(b: Buffers, facts: NDArray[np.float64]) -> None:
    """Write the loss of each expert, of the hedge and of the stack."""
    experts = b.hedge.shape[1] - 2
    for k in range(experts):
        b.hedge[LOSS, k] = _loss(b, facts, b.outputs[k])
    if b.stack.shape[1] > 0:
        b.hedge[LOSS, experts] = _loss(b, facts, b.outputs[HEDGED])
        b.hedge[LOSS, experts + 1] = _loss(b, facts, b.outputs[STACKED])
    if b.config[REGRESSION]:
        spread, error = facts[TARGET_VAR], abs(facts[TARGET] - b.outputs[HEDGED, 0])
        b.scalars[OWN_ERROR] = error / math.sqrt(spread) if spread > 0.0 else -1.0


@jit
def update_experts(b: Buffers, r: int, judged: bool) -> None:
    """Update hedge and stack by the losses of row r of the run.

    A sample of a new class, or of weight 0, or one that is not to be judged, changes neither.
    """
    facts = b.facts[r]
    _mark_lost(b, b.lost[r])
    _learn_weights(b, facts, judged)
    if facts[TWENTIETH] != 0.0:  # an absurd target among the first may have raised it
        b.scalars[ERROR_SCALE] = min(b.scalars[ERROR_SCALE], 1.0)


@jit_inline
def _learn_weights(b: Buffers, facts: NDArray[np.float64], judged: bool) -> None:
    experts = b.hedge.shape[1] - 2
    new = not b.config[REGRESSION] and facts[TARGET] >= facts[KNOWN_CLASSES]
    if b.stack.shape[1] > 0 and (facts[FACTS + STEP_WEIGHT] == 0.0 or new or not judged):
        return
    if b.config[REGRESSION] and b.scalars[OWN_ERROR] < 0.0:  # the targets have no spread yet
        return
    if b.stack.shape[1] > 0:
        update_stack(b, facts, facts[TARGET])
        mix_shares(b.hedge[WEIGHT, experts:], b.hedge[LOSS, experts:])
    if b.config[REGRESSION]:
        b.scalars[ERROR_SCALE] += (1.0 - ERROR_RETENTION) * (b.scalars[OWN_ERROR] - b.scalars[ERROR_SCALE])
    _hedge(b, experts)


@jit_inline
def _hedge(b: Buffers, experts: int) -> None:
    """Update the weights of the experts: with several rates, they are the mean of those of each rate."""
    weights, losses = b.hedge[WEIGHT, :experts], b.hedge[LOSS, :experts]
    if b.hedge.shape[0] == WEIGHTS:
        mix(weights, losses)
        return
    slow, fast = b.hedge[WEIGHTS, :experts], b.hedge[WEIGHTS + 1, :experts]
    mix(slow, losses)
    mix_fast(fast, losses)
    for k in range(experts):
        weights[k] = 0.5 * slow[k] + 0.5 * fast[k]


@jit_inline
def _mark_lost(b: Buffers, lost: NDArray[np.bool_]) -> None:
    """Give the experts of each trajectory that diverged an infinite loss."""
    row = 0
    for k in range(b.trajectories.shape[1]):
        experts = int(b.trajectories[RAW, k] != 0.0) + int(b.trajectories[AVERAGE, k] >= 0.0)
        for _ in range(experts):
            if lost[k]:
                b.hedge[LOSS, row] = math.inf
            row += 1


@jit
def restart(b: Buffers, lost: NDArray[np.bool_]) -> None:
    """Restart each trajectory that has diverged from the best of its kind; networks if there is one."""
    networks, total = b.params.shape[0], b.trajectories.shape[1]
    best, best_linear, most, most_linear, row = -1, -1, -1.0, -1.0, 0
    for k in range(total):
        weight = 0.0
        if b.trajectories[RAW, k] != 0.0:
            weight = max(weight, b.hedge[WEIGHT, row])
            row += 1
        if b.trajectories[AVERAGE, k] >= 0.0:
            weight = max(weight, b.hedge[WEIGHT, row])
            row += 1
        if lost[k]:
            continue
        if k < networks and weight > most:
            best, most = k, weight
        if k >= networks and weight > most_linear:
            best_linear, most_linear = k, weight
    for k in range(total):
        if not lost[k] or (k < networks and best < 0):
            continue
        if k >= networks:
            _restart_linear(b, k - networks, best_linear - networks)
            continue
        assign(b.params[k], b.params[best])
        for i in range(2):
            assign(b.hidden[i, k], b.hidden[i, best])
        b.trajectories[HIDDEN_WEIGHT, k] = b.trajectories[HIDDEN_WEIGHT, best]
        b.trajectories[HIDDEN_PRIOR, k] = b.trajectories[HIDDEN_PRIOR, best]
        if b.trajectories[AVERAGE, k] >= 0.0:
            assign(b.average[int(b.trajectories[AVERAGE, k])], b.params[best])


@jit
def _restart_linear(b: Buffers, k: int, best: int) -> None:
    if best >= 0:
        assign(b.linear[k], b.linear[best])
        return
    for i in range(b.linear.shape[1]):  # as a new one begins
        b.linear[k, i] = 0.0
