"""On-line standardization of a regression's targets."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..encoding import Vector
from ..moments import RunningMoments
from .base import TARGET_CLIP
from .state import flatten, unflatten


class Targets:
    """Running standardization of a regression's targets, and the range of targets seen."""

    def __init__(self) -> None:
        self.moments = RunningMoments(1, rho=1.0, prior=0.0, dtype=torch.float64)
        self.low, self.high = math.inf, -math.inf

    def __copy__(self) -> Targets:
        new = Targets()
        new.moments, new.low, new.high = copy.copy(self.moments), self.low, self.high
        return new

    def standardize(self, y: float) -> float:
        """Count a target in, then return its standardized, clipped value."""
        self.moments.update(torch.tensor([[y]], dtype=torch.float64))
        self.low, self.high = min(self.low, y), max(self.high, y)
        scale = math.sqrt(self.moments.var.item())
        z = (y - self.moments.mean.item()) / scale if scale > 0 else 0.0
        return min(max(z, -TARGET_CLIP), TARGET_CLIP)

    def restore(self, z: Vector) -> Vector:
        """Map predictions back, clipped to the range of targets seen, widened by half."""
        mean, scale = self.moments.mean.item(), math.sqrt(self.moments.var.item())
        margin = (self.high - self.low) / 4
        return np.clip(mean + scale * z, self.low - margin, self.high + margin)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that `standardize` changes."""
        range_ = torch.tensor([self.low, self.high], dtype=torch.float64)
        return {**flatten("target", self.moments), "target.range": range_}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        unflatten("target", state, self.moments)
        self.low, self.high = state["target.range"].tolist()
