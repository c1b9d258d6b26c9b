"""Drift response: changes of a state that reduce the weight of the past.

Both functions work on the named tensors of a state, and so are the same for all engines.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .engines.base import LearnerSpec
from .errors import ConfigurationError

#: Prefixes of the names of running moments in a state.
_MOMENTS = ("inputs.", "target.", "moments.")


def with_short_memory(state: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Return a state in which running moments average over at most `weight` samples.

    Means and variances do not change. The next samples count as if the moments contained `weight` samples.
    The memory grows again with each sample.

    Parameters
    ----------
    state : mapping of str to Tensor
        State of an engine; it is not changed.
    weight : float
        Greatest effective weight, finite and ≥ 1.

    Raises
    ------
    ConfigurationError
        If `weight` is out of range.
    """
    if not 1.0 <= weight < float("inf"):
        raise ConfigurationError("weight", f"{weight} is not a finite number ≥ 1")
    shorter = dict(state)
    for name in state:
        if name.startswith(_MOMENTS) and name.endswith(".weight"):
            prior = f"{name.removesuffix('weight')}prior_weight"
            shorter[name] = state[name].clamp(max=weight)
            share = torch.where(state[name] > weight, weight / state[name], 1.0)
            shorter[prior] = state[prior] * share  # the pseudo-sample keeps its share
    return shorter


def with_slowest_reset(state: Mapping[str, Tensor], spec: LearnerSpec) -> dict[str, Tensor]:
    """Return a state in which the slowest members restart from the best of the others, without replay buffer.

    The slowest members predict with running means of their weights. The best has the greatest weight in the
    mixture. The slowest members copy the best. All copies and the best then get equal weights, with the same
    sum as before. The prediction is that of the mixture without the slowest members.

    Parameters
    ----------
    state : mapping of str to Tensor
        State of an engine; it is not changed.
    spec : LearnerSpec
        Settings of the engine; with one member the state does not change.
    """
    slow = [k for k, member in enumerate(spec.members) if member.averages]
    reset = dict(state)
    if not slow:
        return reset
    weights = state["mixture.weights"]
    quick = [k for k in range(len(weights)) if k not in slow]
    best = max(quick, key=lambda k: float(weights[k]))
    alike = [best, *slow]
    reset["mixture.weights"] = weights.clone()
    reset["mixture.weights"][alike] = weights[alike].sum() / len(alike)
    for name, value in state.items():
        if name.startswith(("network.", "moments.")):
            reset[name] = value.clone()
            reset[name][slow] = value[best]
        elif name.startswith("average."):
            latest = state[f"network.{name.removeprefix('average.')}"]
            reset[name] = latest[best].expand_as(value).clone()
    if "memory.count" in state:
        for name in ("memory.x", "memory.y"):
            reset[name] = state[name][:0]
        reset["memory.count"] = torch.zeros_like(state["memory.count"])
    return reset
