"""Mixture of several members: networks, linear members, neighbours; memory and replay."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..mixture import FIRST_VALUES
from .base import LearnerSpec
from .linear_ensemble import LinearEnsemble
from .mlp_ensemble import MLPEnsemble
from .static_moments import write
from .torch_bins import Bins
from .torch_experts import Combined, Experts, predictions
from .torch_neighbours import RAW_TARGET, SAMPLE_WEIGHT, Neighbours
from .torch_sample import Sample


class Mixture:
    """Experts of a learner with several networks, and the memory.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner; it combines several networks.
    networks : MLPEnsemble
        The networks.
    inputs, outputs : int
        Sizes, including spare ones.
    device, dtype
        Device and precision.

    Attributes
    ----------
    experts : Experts
        Weights of the experts.
    classes : float64 ()
        Number of classes that a learned sample had.
    tensors : dict of str to Tensor
        Everything that changes, without the networks, at fixed addresses.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        networks: MLPEnsemble,
        inputs: int,
        outputs: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self._spec, self._networks = spec, networks
        self._regression = spec.task == "regression"
        self.experts = Experts(spec, outputs, device)
        size = (inputs, outputs, device, dtype)
        self._linear = LinearEnsemble(spec, *size) if spec.linear else None
        self._neighbours = Neighbours(spec, *size) if spec.neighbours else None
        self._bins = Bins(inputs, outputs, device, dtype) if spec.bins else None
        rows = spec.remembered + 1 if spec.remembered else 0  # the last row takes the samples not to be kept
        exact = torch.zeros((), device=device, dtype=torch.float64)
        self.classes = exact.clone()
        self._memory_x = torch.zeros(rows, inputs, device=device, dtype=dtype)
        self._memory_y = exact.new_zeros(rows, 4 if spec.neighbours else 2)
        self._nowhere = torch.full((), spec.remembered, device=device, dtype=torch.int64)
        self._always = torch.ones(1, device=device, dtype=torch.bool)
        count = len(spec.members) + len(spec.linear)
        self._lost = torch.zeros(count, device=device, dtype=torch.bool)
        self._missing = torch.full((), math.nan, device=device, dtype=dtype)
        self.tensors = {"classes": self.classes, "memory_x": self._memory_x, "memory_y": self._memory_y}
        for part in (self.experts, self._linear, self._neighbours, self._bins):
            self.tensors |= part.tensors if part is not None else {}

    def named(self) -> dict[str, Tensor]:
        """Return views of the state by name, including spare inputs and outputs."""
        named = dict(self.experts.tensors)
        if self._linear is not None:
            named |= self._linear.tensors
        if self._neighbours is not None:
            named["neighbours.metric"] = self._neighbours.metric
        if self._bins is not None:
            named |= self._bins.named()
        if len(self._memory_x):
            named |= {"memory.x": self._memory_x, "memory.y": self._memory_y}
        return named

    def add_inputs(self, before: int, after: int) -> None:
        """Use spare inputs."""
        if self._neighbours is not None:
            self._neighbours.add_inputs(before, after)
        if self._bins is not None:
            self._bins.add_inputs(before, after)

    def predict(self, z: Tensor, values: Tensor, remembered: Tensor, target: Tensor | None) -> Combined:
        """Return the predictions for a standardized input.

        Parameters
        ----------
        z, values : (n,)
            Standardized input; bounded values, where NaN marks a missing one.
        remembered : int64 ()
            Number of samples remembered.
        target : float64 (4,) or None
            Mean, variance and range of the targets of a regression.
        """
        outputs, sound = self._networks.predict(z)
        if self._linear is not None:
            linear, linear_sound, _ = self._linear.run(z[None])
            outputs, sound = torch.cat([outputs, linear[..., 0]]), torch.cat([sound, linear_sound[:, 0]])
        return self._combine(outputs, sound, z, values, remembered, target)

    def _combine(
        self,
        outputs: Tensor,
        sound: Tensor,
        z: Tensor,
        raw: Tensor,
        remembered: Tensor,
        target: Tensor | None,
    ) -> Combined:
        values = predictions(outputs, self._networks.floor, target)
        if self._neighbours is not None:
            memory = self._memory_x, self._memory_y
            voted, exist = self._neighbours.predict(z, raw.isnan(), memory, remembered, self.classes)
            values, sound = torch.cat([values, voted]), torch.cat([sound, exist])
        if self._bins is not None:
            outputs = self._bins.run(z, raw).outputs
            values = torch.cat([values, predictions(outputs, self._networks.floor, target)])
            sound = torch.cat([sound, self._always])
        return self.experts.combine(values, sound, self._networks.floor, target)

    def learn(
        self, sample: Sample, target: Tensor | None, allowed: Tensor, given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Learn a sample, except for the memory; return whether it was learned, and the prediction, (C,).

        Parameters
        ----------
        sample : Sample
            The sample.
        target : float64 (4,) or None
            Mean, variance and range of the targets of a regression, before the sample.
        allowed : bool ()
            Whether the sample may be learned.
        given : float64 (K, C) or None
            Earlier predictions of the experts, to judge them by.
        """
        z, goal, weight = sample.z, sample.goal, sample.weight
        outputs, sound, alive = self._networks.propose(z, goal, weight, predict=True)
        assert outputs is not None  # noqa: S101 (an ensemble always predicts)
        assert sound is not None  # noqa: S101 (as above)
        able = alive
        if self._linear is not None:
            linear, linear_sound, linear_able = self._linear.run(z, weight)
            outputs, sound = torch.cat([outputs, linear[..., 0]]), torch.cat([sound, linear_sound[:, 0]])
            able = torch.cat([alive, linear_able])
        found = self._combine(outputs, sound, z[0], sample.values, sample.remembered, target)
        able = able & allowed & found.exists
        accepted = able[: len(alive)]
        learned = accepted.any()
        entry = self._networks.commit(accepted)
        if self._linear is not None:
            gradient = self._networks.output_gradient(linear[..., 1], goal)
            self._linear.step(gradient, weight, entry, able[len(alive) :] & learned)
        if self._bins is not None:
            bins = self._bins.run(z[1], sample.values)
            gradient = self._networks.output_gradient(bins.outputs, goal)[0]
            self._bins.step(bins, gradient, weight, learned)
        lost, judged = self.experts.lost(found.sound, able), learned
        if given is not None:
            floor = self._networks.floor
            found, known = self.experts.recombine(found, given, sample.label, floor, target)
            judged = judged & known
        self._judge(sample, found, lost, target, judged)
        self._lost.copy_(lost)
        if target is None:
            write(self.classes, torch.maximum(self.classes, sample.y + 1.0), learned)
        return learned, found.mixed

    def _judge(
        self, sample: Sample, found: Combined, lost: Tensor, target: Tensor | None, judged: Tensor
    ) -> None:
        """Update the weights of the experts by a sample, if it is one to judge.

        In the second generation, a sample of a new class, or of weight 0, changes no weights.
        """
        if self._spec.stacks:
            judged = judged & (sample.weight > 0.0)
        if target is not None:
            judged = judged & (target[1] > 0.0)
        elif self._spec.stacks:
            judged = judged & (sample.y < self.classes)
        fit = self.experts.fit(found.sound, lost)
        self.experts.learn_stack(found, sample.y, sample.label, self.classes, sample.step, judged)
        self.experts.learn(found, sample.y, sample.label, target, fit, judged)

    def _restart(self, learned: Tensor) -> None:
        """Restart what diverged at the latest sample from the best of its kind, if `learned`, ().

        Networks do so only if one of them has not diverged.
        """
        best, best_linear = self.experts.best(self._lost)
        lost, count = self._lost & learned, len(self._spec.members)
        self._networks.recover(lost[:count] & ~self._lost[:count].all(), best)
        if self._linear is not None and best_linear is not None:
            self._linear.recover(lost[count:], best_linear)

    def revise(self, low: Tensor, high: Tensor, revised: Tensor) -> None:
        """Bound what an absurd target among the first may have changed, at the 20th target.

        Parameters
        ----------
        low, high : float64 ()
            Range of the first targets.
        revised : bool ()
            Whether this is the 20th target, and learned.
        """
        scale = self.experts.error_scale
        write(scale, scale.clamp(max=1.0), revised)
        if self._neighbours is not None:
            raw = self._memory_y[:FIRST_VALUES, RAW_TARGET]  # there were no more samples yet
            write(raw, raw.clamp(low, high), revised)

    def store(self, sample: Sample, learned: Tensor, mean: Tensor) -> None:
        """Write a sample to the memory, and replay.

        Parameters
        ----------
        sample : Sample
            The sample.
        learned : bool ()
            Whether it was learned.
        mean : (n,)
            Replayed values in place of missing ones.
        """
        if not len(self._memory_x):
            return
        slot = torch.where(learned, sample.slot, self._nowhere).view(1)
        z, y = sample.z[1], [sample.goal, sample.weight]
        if self._neighbours is not None:
            z = torch.where(sample.missing, self._missing, z)
            y += [sample.y, sample.missing.sum().to(torch.float64)]
        self._memory_x.index_copy_(0, slot, z[None])
        self._memory_y.index_copy_(0, slot, torch.stack(y)[None])
        if self._spec.replayed:
            self._replay(sample.draws, learned, mean)

    def _replay(self, draws: Tensor, learned: Tensor, mean: Tensor) -> None:
        """Step the networks that replay on samples of the memory."""
        inputs = self._memory_x.index_select(0, draws)
        if self._neighbours is not None:
            inputs = torch.where(inputs.isnan(), mean, inputs)
        rest = self._memory_y[:, : SAMPLE_WEIGHT + 1].index_select(0, draws)
        for z, (goal, weight) in zip(inputs, rest, strict=True):
            self._networks.replay(z, goal, weight, learned)

    def average(self, share: Tensor, learned: Tensor) -> None:
        """Update running means by a share, (), and restart what has diverged, if `learned`, ()."""
        self._networks.average(share, learned)
        self._restart(learned)

    def renew_metric(self, learned: Tensor) -> None:
        """Compute the neighbours' own metric anew from the network that it is of, if `learned`, ()."""
        if self._neighbours is not None and self._spec.hidden:
            self._neighbours.renew(self._networks.entry_weights[self._spec.metric_of], learned)
