"""What helps a learner after its stream has changed: less weight for what it remembers of before.

Both work on the named tensors of a state, which all engines share, so that they are the same for each.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .engines.base import LearnerSpec
from .errors import ConfigurationError

#: What running moments are of, by the beginnings of their names in a state.
_MOMENTS = ("inputs.", "target.", "moments.")


def with_short_memory(state: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Return a state in which no running moments average over more than so many samples.

    Means and variances stay. The next samples move them as they would those of a stream that is so old; from
    there the memory grows again to its length.

    Parameters
    ----------
    state : mapping of str to Tensor
        Of an engine; it is left as it is.
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
            shorter[prior] = state[prior] * share  # the pseudo-sample keeps its share in the averages
    return shorter


def with_slowest_reset(state: Mapping[str, Tensor], spec: LearnerSpec) -> dict[str, Tensor]:
    """Return a state in which the slowest copies start again from the best of the others, without memory.

    The slowest are those that predict with running means of their weights; the best is the one with the
    greatest weight in the mixture. Those that are alike now share their weight in the mixture evenly, so that
    the prediction is that without the slowest.

    Parameters
    ----------
    state : mapping of str to Tensor
        Of an engine; it is left as it is.
    spec : LearnerSpec
        Of that engine; with one copy alone the state is returned as it is.
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
