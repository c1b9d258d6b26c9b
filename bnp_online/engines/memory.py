"""The latest samples, as they were standardized: what the reference engine replays."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Memory:
    """A ring of samples.

    Parameters
    ----------
    capacity : int
        How many are remembered, ≥ 1.
    dtype : torch.dtype
        Of the inputs.
    """

    def __init__(self, capacity: int, dtype: torch.dtype) -> None:
        self.capacity = capacity
        self.count = 0
        self._dtype = dtype
        self._width = 0
        self._inputs: list[Tensor] = []
        self._rest: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self._inputs)

    def add(self, z: Tensor, goal: float, weight: float) -> None:
        """Keep a sample in the place of the oldest; `z` has the shape (1, inputs)."""
        self._width = z.shape[1]
        slot = self.count % self.capacity
        self._inputs[slot : slot + 1] = [z[0].cpu()]
        self._rest[slot : slot + 1] = [(goal, weight)]
        self.count += 1

    def get(self, index: int) -> tuple[Tensor, float, float]:
        """Return a sample as it was added; inputs that came later are 0."""
        z = self._inputs[index]
        return torch.cat([z, z.new_zeros(self._width - len(z))])[None], *self._rest[index]

    def grow(self, inputs: int) -> None:
        """Append inputs, which were 0 before."""
        self._width += inputs

    def state_dict(self) -> dict[str, Tensor]:
        """Return the samples and how many were ever added."""
        rows = [self.get(i)[0] for i in range(len(self))]
        return {
            "memory.x": torch.cat(rows) if rows else torch.zeros(0, self._width, dtype=self._dtype),
            "memory.y": torch.tensor(self._rest, dtype=torch.float64).reshape(-1, 2),
            "memory.count": torch.tensor(self.count),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self._inputs = list(state["memory.x"].to(self._dtype, copy=True))
        self._rest = [(goal, weight) for goal, weight in state["memory.y"].tolist()]
        self._width = state["memory.x"].shape[1]
        self.count = int(state["memory.count"])
