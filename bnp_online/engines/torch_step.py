"""One row of a learner's work as tensor operations on tensors that stay where they are.

`RowStep.learn` is all that a row needs: standardize, predict, step, weigh the copies, remember, replay. It is
written for a CUDA graph: no branch on a value, no value that the host must know, no copy between host and
device. Constants that ``torch.where`` needs are tensors made once: it would fill a new one for each number.

What depends on the number of rows alone (shares of a new sample in cumulative moments, its place in the
memory, which samples are replayed, the share of new weights in running means) the host works out ahead, and
stages beside the row.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from ..mixture import ERROR_FLOOR, ERROR_RETENTION, ETA, MAX_LOSS, SHARE
from .base import INPUT_CLIP, TARGET_CLIP, LearnerSpec
from .mlp_ensemble import BatchedCopies
from .module_member import ModularCopy
from .static_moments import stepped, write

#: Columns of a staged row after its inputs; the places of the samples to replay follow.
TARGET, SAMPLE_WEIGHT, NEW_INPUTS, NEW_TARGET, NEW_WEIGHTS, LABEL, SLOT, DRAWS = range(8)


Copies: TypeAlias = BatchedCopies | ModularCopy


class RowStep:
    """A learner's numbers beside those of its copies, and what happens to them in a row.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how.
    copies : Copies
        With room for C outputs.
    channels, positions : int
        How many inputs have statistics of their own, and how many share each of them.
    device, dtype
        Of everything.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Everything that a row changes, at fixed addresses.
    halted : bool ()
        Set when a row is refused, and then refuses all that follow.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        copies: Copies,
        channels: int,
        positions: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self._spec, self._copies, self._dtype = spec, copies, dtype
        self._shape = channels, positions
        self.width = channels * positions
        self._regression = spec.task == "regression"
        count = len(spec.copies)
        self._many = copies if isinstance(copies, BatchedCopies) and count > 1 else None
        self._replays = any(each.replays for each in spec.copies)
        rows = spec.memory + 1 if self._replays else 0  # the last one takes what is not to be remembered
        exact = torch.zeros((), device=device, dtype=torch.float64)
        self.inputs = exact.new_zeros(2, channels, 1)
        self.target = exact.new_tensor([0.0, 0.0, math.inf, -math.inf])
        self.mixture = exact.new_full((count,), 1.0 / count)
        self.error_scale = exact.new_ones(())
        self.memory_x = torch.zeros(rows, self.width, device=device, dtype=dtype)
        self.memory_y = exact.new_zeros(rows, 2)
        self._nowhere = torch.full((), spec.memory, device=device, dtype=torch.int64)
        self._zero, self._unfit, self._lost = (exact.new_full((), v) for v in (0.0, -1.0, math.inf))
        self.halted = torch.zeros((), device=device, dtype=torch.bool)
        self.tensors = copies.tensors | {
            "inputs": self.inputs,
            "target": self.target,
            "mixture": self.mixture,
            "error_scale": self.error_scale,
            "memory_x": self.memory_x,
            "memory_y": self.memory_y,
        }

    def named(self) -> dict[str, Tensor]:
        """Return views of a learner's state, by its names, the room included."""
        named = {"inputs.mean": self.inputs[0, :, 0], "inputs.var": self.inputs[1, :, 0]}
        named |= self._copies.named()
        if self._regression:
            mean, var, bounds = torch.split(self.target, [1, 1, 2])
            named |= {"target.mean": mean, "target.var": var, "target.range": bounds}
        if self._many is not None:
            named |= {"mixture.weights": self.mixture, "mixture.error_scale": self.error_scale}
        if self._replays:
            named |= {"memory.x": self.memory_x, "memory.y": self.memory_y}
        return named

    def predict(self, row: Tensor) -> Tensor:
        """Return whether there is a prediction for a staged row, and it: (1 + C,)."""
        x = row[: self.width].view(self._shape)
        x = torch.where(x.isnan(), self.inputs[0], x)
        (z,) = self._standardize(x[None], self.inputs[None])
        outputs, sound = self._copies.predict(z)
        mixed, some = self._mix(self._values(outputs), sound)
        return torch.cat([some.to(mixed.dtype).view(1), mixed])

    def learn(self, row: Tensor) -> Tensor:
        """Learn a staged row; return whether it was learned, and what was predicted before: (1 + C,)."""
        rest = row[self.width :]
        y, weight, new_inputs, new_target = rest[:NEW_WEIGHTS].unbind()
        places = rest[LABEL:].to(torch.int64)
        z, inputs = self._count_inputs(row[: self.width].view(self._shape), new_inputs)
        goal, target = self._count_target(y, new_target)
        proposal = self._copies.propose(z, goal, weight)
        values = self._values(proposal.outputs)
        mixed, some = self._mix(values, proposal.sound)
        accepted = proposal.alive & some & ~self.halted
        learned = accepted.any()
        torch.logical_not(learned, out=self.halted)
        self._copies.commit(accepted)
        if self._many is not None:
            losses, weighed = self._losses(values, mixed, y, places[:1], learned)
            self._weigh(self._many, losses, accepted & proposal.sound, weighed)
        write(self.inputs, inputs, learned)
        if self._regression:
            write(self.target, target, learned)
        if self._many is not None and self._replays:
            self._remember(z[1], goal, weight, torch.where(learned, places[SLOT - LABEL], self._nowhere))
            self._replay(self._many, places[DRAWS - LABEL :], learned)
        return torch.cat([learned.to(mixed.dtype).view(1), mixed])

    def average(self, row: Tensor) -> None:
        """Count the weights after a staged row into running means, unless it was refused."""
        if self._many is not None:
            self._many.average(row[self.width + NEW_WEIGHTS], ~self.halted)

    def _count_inputs(self, x: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Return a raw input standardized without and with itself, (2, n), and the statistics with it."""
        missing = x.isnan()
        mean, var = self.inputs
        filled = torch.where(missing, mean, x)
        if self._shape[1] > 1:
            own_var, own_mean = torch.var_mean(filled, dim=1, correction=0, keepdim=True)
            both = torch.stack([mean, var, *stepped(mean, var, new, own_mean, own_var)])
            both = both.view(2, *self.inputs.shape)
            filled = torch.where(missing, both[:, 0], x)
        else:  # what is missing is at the mean, and leaves it there
            both = torch.stack([mean, var, *stepped(mean, var, new, filled)]).view(2, *self.inputs.shape)
        return self._standardize(filled, both), both[1]

    def _standardize(self, x: Tensor, statistics: Tensor) -> Tensor:
        """Return inputs, ([B,] channels, positions), by statistics, (B, 2, channels, 1), as (B, n)."""
        if self._spec.standardize:
            mean, var = statistics.unbind(1)
            x = torch.where(var > 0.0, (x - mean) / var.sqrt(), self._zero).clamp(-INPUT_CLIP, INPUT_CLIP)
        return x.expand(len(statistics), -1, -1).flatten(1).to(self._dtype)

    def _count_target(self, y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Return what to aim at, and the statistics of targets with this one."""
        if not self._regression:
            return y, self.target
        mean, var, low, high = self.target.unbind()
        mean, var = stepped(mean, var, new, y)
        goal = torch.where(var > 0.0, (y - mean) / var.sqrt(), self._zero).clamp(-TARGET_CLIP, TARGET_CLIP)
        return goal, torch.stack([mean, var, torch.minimum(low, y), torch.maximum(high, y)])

    def _values(self, outputs: Tensor) -> Tensor:
        """Return probabilities, or predictions within the range of targets seen, widened by half: (M, C)."""
        outputs = outputs.double()
        if not self._regression:
            return torch.softmax(outputs + self._copies.floor, dim=1)
        mean, var, low, high = self.target.unbind()
        margin = (high - low) / 4.0
        return (mean + var.sqrt() * outputs).clamp(low - margin, high + margin)

    def _mix(self, values: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted mean of the sound copies' predictions, (C,), and whether there is one, ()."""
        if self._many is None:
            return values[0], sound[0]
        weights = self.mixture * sound
        total = weights.sum()
        return weights @ torch.where(sound[:, None], values, self._zero) / total, total > 0.0

    def _losses(
        self, values: Tensor, mixed: Tensor, y: Tensor, label: Tensor, learned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return each copy's loss, (M,), and whether the copies are to be weighed by it."""
        if not self._regression:
            return (-values.index_select(1, label)[:, 0].log()).clamp(max=MAX_LOSS), learned
        spread = self.target[1]
        errors = (y - torch.cat([values[:, 0], mixed])).abs() / spread.sqrt()
        losses = (errors[:-1] / self.error_scale.clamp(min=ERROR_FLOOR)).clamp(max=MAX_LOSS)
        weighed = learned & (spread > 0.0)
        moved = self.error_scale + (1.0 - ERROR_RETENTION) * (errors[-1] - self.error_scale)
        write(self.error_scale, moved, weighed)
        return losses, weighed

    def _weigh(self, copies: BatchedCopies, losses: Tensor, sound: Tensor, weighed: Tensor) -> None:
        """Weigh the copies by their losses; one that diverged starts again from the best."""
        weights = mixed_weights(self.mixture, torch.where(sound, losses, self._lost))
        write(self.mixture, weights, weighed)
        best = torch.where(sound, weights, self._unfit).argmax()
        copies.recover(~sound & weighed, best)

    def _remember(self, z: Tensor, goal: Tensor, weight: Tensor, slot: Tensor) -> None:
        self.memory_x.index_copy_(0, slot.view(1), z[None])
        self.memory_y.index_copy_(0, slot.view(1), torch.stack([goal, weight])[None])

    def _replay(self, copies: BatchedCopies, draws: Tensor, learned: Tensor) -> None:
        """Let the copies that replay learn remembered samples again."""
        inputs = self.memory_x.index_select(0, draws)
        rest = self.memory_y.index_select(0, draws)
        for z, (goal, weight) in zip(inputs, rest, strict=True):
            copies.replay(z, goal, weight, learned)


def mixed_weights(weights: Tensor, losses: Tensor) -> Tensor:
    """Return the weights after these losses, as `mixture.mix` computes them; ∞ marks a lost copy."""
    raised = weights * torch.exp(-ETA * (losses - losses.min()))
    return (1.0 - SHARE) * (raised / raised.sum()) + SHARE / len(weights)
