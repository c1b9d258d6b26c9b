"""Step of one row, as tensor operations on tensors at fixed addresses.

`RowStep.learn` does the whole work of a row: standardize, predict, step, update the weights of the experts,
fill the memory, replay. It fits a CUDA graph: it branches on no value, needs no value on the host, and copies
nothing between host and device. The constants of ``torch.where`` are tensors made once: from a number,
``torch.where`` fills a new tensor in each call.

The host computes in advance what depends only on the number of rows, and passes it beside the row: shares of
a new sample in cumulative moments, its place in the memory, the samples to replay, and the share of new
weights in running means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..mixture import FIRST_VALUES
from .base import INPUT_CLIP, TARGET_CLIP, LearnerSpec
from .mlp_ensemble import MLPEnsemble
from .module_member import ModuleMember
from .static_moments import stepped, write
from .torch_experts import predictions
from .torch_glitches import Bounded, Bounds
from .torch_mixture import Mixture
from .torch_sample import LABEL, NEW_WEIGHTS, REMEMBERED, Sample

Members: TypeAlias = MLPEnsemble | ModuleMember


class _Counted(NamedTuple):
    """Statistics of inputs and targets with a sample, and the bounded values that they count."""

    inputs: Tensor
    target: Tensor
    bounded: Bounded | None


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
    mixture : Mixture or None
        Experts and memory of a learner with several networks.
    experts : float64 (K, outputs) or None
        With a stack, the predictions of the experts in the latest prediction.
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
        self.members: Members
        self.mixture: Mixture | None = None
        if spec.network == "mlp":
            self.members = networks = MLPEnsemble(spec, channels, outputs, device, dtype)
            self.mixture = Mixture(spec, networks, channels, outputs, device, dtype) if spec.mixes else None
        else:
            self.members = ModuleMember(spec, outputs, device, dtype)
        self._bounds = Bounds(channels, int(self._regression), device) if spec.bounds else None
        exact = torch.zeros((), device=device, dtype=torch.float64)
        self.inputs = exact.new_zeros(2, channels, 1)
        self.target = exact.new_tensor([0.0, 0.0, math.inf, -math.inf])
        self._zero, self._no_input = exact.clone(), exact.to(dtype)
        self._missing = exact.new_full((), math.nan)
        self.experts = exact.new_zeros(len(spec.experts), outputs) if spec.stacks else None
        self.halted = torch.zeros((), device=device, dtype=torch.bool)
        self.tensors = self.members.tensors | {"inputs": self.inputs, "target": self.target}
        for part in (self.mixture, self._bounds):
            self.tensors |= part.tensors if part is not None else {}

    def named(self) -> dict[str, Tensor]:
        """Return views of the state by name, including spare inputs and outputs."""
        named = {"inputs.mean": self.inputs[0, :, 0], "inputs.var": self.inputs[1, :, 0]}
        named |= self.members.named()
        if self._regression:
            mean, var, bounds = torch.split(self.target, [1, 1, 2])
            named |= {"target.mean": mean, "target.var": var, "target.range": bounds}
        for part in (self.mixture, self._bounds):
            named |= part.named() if part is not None else {}
        return named

    def add_inputs(self, names: Sequence[str], before: int, samples: float, *, first: bool) -> None:
        """Use spare inputs; the first sample's start at random, by name.

        Parameters
        ----------
        names : sequence of str
            Names of the inputs.
        before : int
            Number of inputs in use.
        samples : float
            Number of samples learned without them.
        first : bool
            Whether these are the inputs of the first sample.
        """
        after = before + len(names)
        if isinstance(self.members, MLPEnsemble):
            self.members.add_inputs(names, before, first=first)
        if self.mixture is not None:
            self.mixture.add_inputs(before, after)
        if self._bounds is not None:
            self._bounds.add_inputs(before, after, samples)

    def scale_inputs(self, before: int, after: int) -> None:
        """Give inputs in use the mean 0 and the variance 1."""
        self.inputs[1, before:after] = 1.0
        if self._bounds is not None:
            self._bounds.values[before:after] = FIRST_VALUES
            self._bounds.largest[before:after] = INPUT_CLIP

    def predict(self, row: Tensor) -> Tensor:
        """Return whether a row has a prediction, followed by the prediction: (1 + C,)."""
        x = row[: self.width].view(self._shape)
        if self._bounds is not None:
            x = self._bounds.bound(x[:, 0], *self.inputs[..., 0].unbind())[:, None]
        missing = x.isnan()
        (z,) = self._standardize(torch.where(missing, self.inputs[0], x)[None], self.inputs[None])
        if self.mixture is None:
            outputs, sound = self.members.predict(z)
            mixed, exists = predictions(outputs, self.members.floor, self.target_seen)[0], sound[0]
        else:
            remembered = row[self.width + REMEMBERED].to(torch.int64)
            found = self.mixture.predict(z, x[:, 0], remembered, self.target_seen)
            mixed, exists = found.mixed, found.exists
            if self.experts is not None:
                self.experts.copy_(torch.where(found.sound[:, None], found.values, self._missing))
        return torch.cat([exists.to(mixed.dtype).view(1), mixed])

    def standardized(self, x: Tensor) -> Tensor:
        """Return raw inputs of a learner without bounds of values, (B, n), standardized."""
        values = x.to(self.inputs.device).view(-1, *self._shape)
        filled = torch.where(values.isnan(), self.inputs[0], values)
        return torch.cat([self._standardize(each[None], self.inputs[None]) for each in filled])

    @property
    def target_seen(self) -> Tensor | None:
        """Mean, variance and range of the targets of a regression."""
        return self.target if self._regression else None

    def learn(self, row: Tensor, *, predict: bool, given: Tensor | None = None) -> Tensor:
        """Learn a row; return whether it was learned, followed by the prediction made before: (1 + C,).

        Without `predict`, a module skips the forward pass of the prediction, and (1,) is returned. A mixture
        judges its experts by their predictions in `given`, (K, C).
        """
        sample, counted = self._read(row)
        if self.mixture is None:
            learned, mixed = self._learn_alone(sample, predict=predict)
        else:
            learned, mixed = self.mixture.learn(sample, self.target_seen, ~self.halted, given)
        torch.logical_not(learned, out=self.halted)
        if self._bounds is not None and counted.bounded is not None:
            after = self._columns(counted.inputs[0, :, 0], counted.target[0])
            self._bounds.admit(counted.bounded, self._moments()[0], after, learned)
            if self._spec.standardize:
                clipped = (sample.z[1].view(-1).abs() >= INPUT_CLIP) & ~sample.missing
                self._bounds.count_clipped(clipped, learned)
        write(self.inputs, counted.inputs, learned)
        if self._regression:
            write(self.target, counted.target, learned)
        if self.mixture is not None:
            if self._regression and counted.bounded is not None:
                revised = counted.bounded.twentieth[-1] & learned
                self.mixture.revise(counted.target[2], counted.target[3], revised)
            mean = self._no_input if self._spec.standardize else self.inputs[0, :, 0].to(self._dtype)
            self.mixture.store(sample, learned, mean)
        done = learned.to(self.inputs.dtype).view(1)
        return done if mixed is None else torch.cat([done, mixed])

    def _learn_alone(self, sample: Sample, *, predict: bool) -> tuple[Tensor, Tensor | None]:
        """Learn a sample with a single network; return whether it was learned, and the prediction, (C,)."""
        proposal = self.members.propose(sample.z, sample.goal, sample.weight, predict=predict)
        accepted, mixed = proposal.alive & ~self.halted, None
        if proposal.outputs is not None and proposal.sound is not None:
            accepted = accepted & proposal.sound[0]
            mixed = predictions(proposal.outputs, self.members.floor, self.target_seen)[0]
        self.members.commit(accepted)
        return accepted.any(), mixed

    def discard(self) -> None:
        """Discard a proposed step of a module: for lack of memory, it was not computed to the end."""
        if isinstance(self.members, ModuleMember):
            self.members.discard()

    def average(self, row: Tensor) -> None:
        """Update the running means of the weights after a row, unless it was refused."""
        if self.mixture is not None:
            self.mixture.average(row[self.width + NEW_WEIGHTS], ~self.halted)

    def renew_metric(self) -> None:
        """Renew the network's own metric after a row, unless it was refused."""
        if self.mixture is not None:
            self.mixture.renew_metric(~self.halted)

    def _read(self, row: Tensor) -> tuple[Sample, _Counted]:
        """Return the sample of a row, and the statistics with it."""
        rest = row[self.width :]
        y, weight, new_inputs, new_target = rest[:NEW_WEIGHTS].unbind()
        x = row[: self.width].view(self._shape)
        bounded = None
        if self._bounds is not None:
            bounded = self._bounds.bound_new(self._columns(x[:, 0], y), *self._moments())
            x = bounded.values[: self.width, None]
            y = bounded.values[-1] if self._regression else y
        missing = x.isnan()
        z, inputs = self._count_inputs(x, missing, new_inputs, bounded)
        goal, target = self._count_target(y, new_target, bounded)
        sample = Sample(z, x.reshape(-1), missing.view(-1), y, goal, weight, rest[LABEL:].to(torch.int64))
        return sample, _Counted(inputs, target, bounded)

    def _columns(self, of_inputs: Tensor, of_target: Tensor) -> Tensor:
        """Return values of the inputs, and of the target of a regression, side by side."""
        return torch.cat([of_inputs, of_target.view(1)]) if self._regression else of_inputs

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return the means and variances before the sample, of inputs and target."""
        mean, var = (self._columns(self.inputs[i, :, 0], self.target[i]) for i in range(2))
        return mean, var

    def _count_inputs(
        self, x: Tensor, missing: Tensor, new: Tensor, bounded: Bounded | None
    ) -> tuple[Tensor, Tensor]:
        """Return an input standardized without and with itself, (2, n), and the statistics with it."""
        mean, var = self.inputs
        filled = torch.where(missing, mean, x)
        if self._shape[1] > 1:
            own_var, own_mean = torch.var_mean(filled, dim=1, correction=0, keepdim=True)
            both = torch.stack([mean, var, *stepped(mean, var, new, own_mean, own_var)])
            both = both.view(2, *self.inputs.shape)
            filled = torch.where(missing, both[:, 0], x)
        else:  # a missing value is at the mean and does not move it
            after = stepped(mean, var, new, filled)
            if bounded is not None:
                after = bounded.revise(slice(self.width), *after)
            both = torch.stack([mean, var, *after]).view(2, *self.inputs.shape)
        return self._standardize(filled, both), both[1]

    def _standardize(self, x: Tensor, statistics: Tensor) -> Tensor:
        """Return inputs, ([B,] channels, positions), standardized by B statistics, (B, 2, channels, 1)."""
        if self._spec.standardize:
            mean, var = statistics.unbind(1)
            x = torch.where(var > 0.0, (x - mean) / var.sqrt(), self._zero).clamp(-INPUT_CLIP, INPUT_CLIP)
        return x.expand(len(statistics), -1, -1).flatten(1).to(self._dtype)

    def _count_target(self, y: Tensor, new: Tensor, bounded: Bounded | None) -> tuple[Tensor, Tensor]:
        """Return the goal of the step, and the statistics of targets with this one."""
        if not self._regression:
            return y, self.target
        mean, var, low, high = self.target.unbind()
        mean, var = stepped(mean, var, new, y)
        low, high = torch.minimum(low, y), torch.maximum(high, y)
        if bounded is not None:
            mean, var = bounded.revise(self.width, mean, var)
            low, high = bounded.revise_range(self.width, low, high)
        goal = torch.where(var > 0.0, (y - mean) / var.sqrt(), self._zero).clamp(-TARGET_CLIP, TARGET_CLIP)
        return goal, torch.stack([mean, var, low, high])
