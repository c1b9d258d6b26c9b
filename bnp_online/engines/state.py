"""Running moments as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..moments import RunningMoments


def flatten(prefix: str, moments: RunningMoments) -> dict[str, Tensor]:
    """Return running moments under ``{prefix}.mean``, ``.var``, ``.weight`` and ``.prior_weight``."""
    return {
        f"{prefix}.{key}": torch.as_tensor(
            value, dtype=torch.float64 if isinstance(value, float) else None
        ).cpu()
        for key, value in moments.state_dict().items()
    }


def unflatten(prefix: str, state: Mapping[str, Tensor], moments: RunningMoments) -> None:
    """Take over what `flatten` returned."""
    moments.load_state_dict({key: state[f"{prefix}.{key}"] for key in moments.state_dict()})
