"""Drift response: changes of a state that reduce the weight of the past.

Both functions work on the named tensors of a state, and so are the same for all engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .engines.base import LearnerSpec
from .errors import ConfigurationError
from .mixture import SHARE

#: Prefixes of the names of running moments in a state.
_MOMENTS = ("inputs.", "target.", "moments.")


def with_short_memory(state: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Return a state in which running moments average over at most `weight` samples.

    Means and variances do not change. The next samples count as if the moments contained `weight` samples.
    The memory grows again with each sample. The bounds of values forget the deviations that they admitted:
    the next value is clipped to ten standard deviations, and the bounds grow again with what they admit.

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
    for name, value in state.items():
        if name.startswith(_MOMENTS) and name.endswith(".weight"):
            prior = f"{name.removesuffix('weight')}prior_weight"
            shorter[name] = value.clamp(max=weight)
            share = torch.where(value > weight, weight / value, 1.0)
            shorter[prior] = state[prior] * share  # the pseudo-sample keeps its share
        elif name.startswith("bounds.") and name.endswith(".largest"):
            shorter[name] = torch.zeros_like(value)
        elif name.startswith("bounds.") and name.endswith(".joined"):
            shorter[name] = value.clamp(max=math.floor(weight))  # a number of samples
    return shorter


def with_slowest_reset(state: Mapping[str, Tensor], spec: LearnerSpec) -> dict[str, Tensor]:
    """Return a state in which the slowest networks restart from the best of the others, without memory.

    The slowest networks replay samples, or predict only with the running mean of their weights. The best of
    the other networks has the greatest weight in the mixture. The slowest networks copy it. Every running
    mean restarts at the latest weights of its network. Experts that are alike then get equal weights, with
    the same sum as before. The nearest neighbours have no samples left: they keep the least weight, and the
    best network gets the rest. The model of bins keeps its weights, and takes steps as long as at its start.
    The stack does not change.

    Parameters
    ----------
    state : mapping of str to Tensor
        State of an engine; it is not changed.
    spec : LearnerSpec
        Settings of the engine; with one member the state does not change.
    """
    averaging = [k for k, member in enumerate(spec.members) if member.averages]
    reset = dict(state)
    if not averaging:
        return reset
    slow = [k for k, member in enumerate(spec.members) if member.replays or not member.latest]
    reset["mixture.weights"], best = _with_slowest_alike(state["mixture.weights"], spec, slow)
    for name, value in state.items():
        if name.startswith(("network.", "moments.")):
            reset[name] = value.clone()
            reset[name][slow] = value[best]
    for name in state:
        if name.startswith("average."):
            reset[name] = reset[f"network.{name.removeprefix('average.')}"][averaging]
    if "bins.squares" in state:
        reset["bins.squares"] = torch.zeros_like(state["bins.squares"])
    if "memory.count" in state:
        for name in ("memory.x", "memory.y"):
            reset[name] = state[name][:0]
        reset["memory.count"] = torch.zeros_like(state["memory.count"])
    return reset


def _with_slowest_alike(before: Tensor, spec: LearnerSpec, slow: Sequence[int]) -> tuple[Tensor, int]:
    """Return the weights of the experts, with the `slow` networks as copies of the best, and its index."""
    experts, weights = spec.experts, before.clone()
    mean = before.reshape(-1, len(experts)).mean(dim=0)  # of the weights of each rate
    owners = [k for k in spec.owners if k < len(spec.members)]
    latest = {k: e for e, k in enumerate(owners) if k not in slow and not experts[e].averages}
    best = max(latest, key=lambda k: float(mean[latest[k]]))
    least = SHARE / len(experts)
    for e, expert in enumerate(experts):
        if expert.kind == "neighbours":
            weights[..., latest[best]] += weights[..., e] - least
            weights[..., e] = least
    alike = {e: [e] for e in latest.values()}
    for e, k in enumerate(owners):
        source = latest[best if k in slow else k]
        alike[source] += [e] * (e != source)
    for group in alike.values():
        weights[..., group] = weights[..., group].sum(dim=-1, keepdim=True) / len(group)
    return weights, best
