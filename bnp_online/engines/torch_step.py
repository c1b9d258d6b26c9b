"""Step of one row, as tensor operations on tensors at fixed addresses.

`RowStep.learn` does the whole work of a row: standardize, predict, step, update the mixture, fill the replay
buffer, replay. It fits a CUDA graph: it branches on no value, needs no value on the host, and copies nothing
between host and device. The constants of ``torch.where`` are tensors made once: from a number,
``torch.where`` fills a new tensor in each call.

The host computes in advance what depends only on the number of rows, and passes it beside the row: shares of
a new sample in cumulative moments, its place in the replay buffer, the samples to replay, and the share of
new weights in running means.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from ..mixture import ERROR_FLOOR, ERROR_RETENTION, ETA, MAX_LOSS, SHARE
from .base import INPUT_CLIP, TARGET_CLIP, LearnerSpec
from .mlp_ensemble import MLPEnsemble
from .module_member import ModuleMember
from .static_moments import stepped, write

#: Columns of a row after its inputs; the places of the samples to replay follow.
TARGET, SAMPLE_WEIGHT, NEW_INPUTS, NEW_TARGET, NEW_WEIGHTS, LABEL, SLOT, DRAWS = range(8)

Members: TypeAlias = MLPEnsemble | ModuleMember


class RowStep:
    """Tensors of a learner of one size, and the operations on them for a row.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner.
    channels, positions : int
        Number of inputs with their own statistics, and of positions per input.
    outputs : int
        Number of outputs, including spare ones.
    device, dtype
        Device and precision.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Everything that a row changes, at fixed addresses.
    halted : bool ()
        Set by a refused row; the rows after it are refused as well.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        channels: int,
        positions: int,
        outputs: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self._spec, self._dtype = spec, dtype
        self._shape = channels, positions
        self.width = channels * positions
        self._regression = spec.task == "regression"
        count = len(spec.members)
        self.members: Members
        self._ensemble: MLPEnsemble | None = None  # of several members
        if spec.network == "mlp":
            self.members = ensemble = MLPEnsemble(spec, channels, outputs, device, dtype)
            self._ensemble = ensemble if count > 1 else None
        else:
            self.members = ModuleMember(spec, outputs, device, dtype)
        self._replays = self._ensemble is not None and spec.replayed > 0
        rows = spec.memory + 1 if self._replays else 0  # the last row takes the samples not to be kept
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
        self.tensors = self.members.tensors | {
            "inputs": self.inputs,
            "target": self.target,
            "mixture": self.mixture,
            "error_scale": self.error_scale,
            "memory_x": self.memory_x,
            "memory_y": self.memory_y,
        }

    def named(self) -> dict[str, Tensor]:
        """Return views of the state by name, including spare inputs and outputs."""
        named = {"inputs.mean": self.inputs[0, :, 0], "inputs.var": self.inputs[1, :, 0]}
        named |= self.members.named()
        if self._regression:
            mean, var, bounds = torch.split(self.target, [1, 1, 2])
            named |= {"target.mean": mean, "target.var": var, "target.range": bounds}
        if self._ensemble is not None:
            named |= {"mixture.weights": self.mixture, "mixture.error_scale": self.error_scale}
        if self._replays:
            named |= {"memory.x": self.memory_x, "memory.y": self.memory_y}
        return named

    def predict(self, row: Tensor) -> Tensor:
        """Return whether a row has a prediction, followed by the prediction: (1 + C,)."""
        x = row[: self.width].view(self._shape)
        x = torch.where(x.isnan(), self.inputs[0], x)
        (z,) = self._standardize(x[None], self.inputs[None])
        outputs, sound = self.members.predict(z)
        mixed, some = self._mix(self._values(outputs), sound)
        return torch.cat([some.to(mixed.dtype).view(1), mixed])

    def learn(self, row: Tensor, *, predict: bool) -> Tensor:
        """Learn a row; return whether it was learned, followed by the prediction made before: (1 + C,).

        Without `predict`, a module skips the forward pass of the prediction, and (1,) is returned.
        """
        rest = row[self.width :]
        y, weight, new_inputs, new_target = rest[:NEW_WEIGHTS].unbind()
        places = rest[LABEL:].to(torch.int64)
        z, inputs = self._count_inputs(row[: self.width].view(self._shape), new_inputs)
        goal, target = self._count_target(y, new_target)
        outputs, sound, alive = self.members.propose(z, goal, weight, predict=predict)
        accepted = alive & ~self.halted
        if outputs is not None and sound is not None:
            values = self._values(outputs)
            mixed, some = self._mix(values, sound)
            accepted = accepted & some
        learned = accepted.any()
        torch.logical_not(learned, out=self.halted)
        self.members.commit(accepted)
        if self._ensemble is not None and sound is not None:
            losses, weighed = self._losses(values, mixed, y, places[:1], learned)
            self._weigh(self._ensemble, losses, accepted & sound, weighed)
        write(self.inputs, inputs, learned)
        if self._regression:
            write(self.target, target, learned)
        if self._ensemble is not None and self._replays:
            self._remember(z[1], goal, weight, torch.where(learned, places[SLOT - LABEL], self._nowhere))
            self._replay(self._ensemble, places[DRAWS - LABEL :], learned)
        done = learned.to(self.inputs.dtype).view(1)
        return done if outputs is None else torch.cat([done, mixed])

    def average(self, row: Tensor) -> None:
        """Update the running means of the weights after a row, unless it was refused."""
        if self._ensemble is not None:
            self._ensemble.average(row[self.width + NEW_WEIGHTS], ~self.halted)

    def _count_inputs(self, x: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Return an input standardized without and with itself, (2, n), and the statistics with it."""
        missing = x.isnan()
        mean, var = self.inputs
        filled = torch.where(missing, mean, x)
        if self._shape[1] > 1:
            own_var, own_mean = torch.var_mean(filled, dim=1, correction=0, keepdim=True)
            both = torch.stack([mean, var, *stepped(mean, var, new, own_mean, own_var)])
            both = both.view(2, *self.inputs.shape)
            filled = torch.where(missing, both[:, 0], x)
        else:  # a missing value is at the mean and does not move it
            both = torch.stack([mean, var, *stepped(mean, var, new, filled)]).view(2, *self.inputs.shape)
        return self._standardize(filled, both), both[1]

    def _standardize(self, x: Tensor, statistics: Tensor) -> Tensor:
        """Return inputs, ([B,] channels, positions), standardized by B statistics, (B, 2, channels, 1)."""
        if self._spec.standardize:
            mean, var = statistics.unbind(1)
            x = torch.where(var > 0.0, (x - mean) / var.sqrt(), self._zero).clamp(-INPUT_CLIP, INPUT_CLIP)
        return x.expand(len(statistics), -1, -1).flatten(1).to(self._dtype)

    def _count_target(self, y: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Return the goal of the step, and the statistics of targets with this one."""
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
            return torch.softmax(outputs + self.members.floor, dim=1)
        mean, var, low, high = self.target.unbind()
        margin = (high - low) / 4.0
        return (mean + var.sqrt() * outputs).clamp(low - margin, high + margin)

    def _mix(self, values: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted mean of the sound members' predictions, (C,), and whether there is one, ()."""
        if self._ensemble is None:
            return values[0], sound[0]
        weights = self.mixture * sound
        total = weights.sum()
        return weights @ torch.where(sound[:, None], values, self._zero) / total, total > 0.0

    def _losses(
        self, values: Tensor, mixed: Tensor, y: Tensor, label: Tensor, learned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the members' losses, (M,), and whether they update the mixture."""
        if not self._regression:
            return (-values.index_select(1, label)[:, 0].log()).clamp(max=MAX_LOSS), learned
        spread = self.target[1]
        errors = (y - torch.cat([values[:, 0], mixed])).abs() / spread.sqrt()
        losses = (errors[:-1] / self.error_scale.clamp(min=ERROR_FLOOR)).clamp(max=MAX_LOSS)
        weighed = learned & (spread > 0.0)
        moved = self.error_scale + (1.0 - ERROR_RETENTION) * (errors[-1] - self.error_scale)
        write(self.error_scale, moved, weighed)
        return losses, weighed

    def _weigh(self, ensemble: MLPEnsemble, losses: Tensor, sound: Tensor, weighed: Tensor) -> None:
        """Update the mixture by the losses; a member that diverged restarts from the best."""
        losses = torch.where(sound, losses, self._lost)
        raised = self.mixture * torch.exp(-ETA * (losses - losses.min()))  # as `mixture.mix`
        weights = (1.0 - SHARE) * (raised / raised.sum()) + SHARE / len(raised)
        write(self.mixture, weights, weighed)
        best = torch.where(sound, weights, self._unfit).argmax()
        ensemble.recover(~sound & weighed, best)

    def _remember(self, z: Tensor, goal: Tensor, weight: Tensor, slot: Tensor) -> None:
        """Write a sample to its place in the replay buffer."""
        self.memory_x.index_copy_(0, slot.view(1), z[None])
        self.memory_y.index_copy_(0, slot.view(1), torch.stack([goal, weight])[None])

    def _replay(self, ensemble: MLPEnsemble, draws: Tensor, learned: Tensor) -> None:
        """Step the members that replay on samples of the replay buffer."""
        inputs = self.memory_x.index_select(0, draws)
        rest = self.memory_y.index_select(0, draws)
        for z, (goal, weight) in zip(inputs, rest, strict=True):
            ensemble.replay(z, goal, weight, learned)
