"""All members of a multilayer perceptron, stacked, stepped together by tensor operations without branches.

The operations that the layers have in common run once for all layers, on their inputs (or outputs) side by
side: on a GPU the time of a step depends mainly on the number of kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from ..network import entry_start, mlp
from .base import ERROR_CLIP, LearnerSpec, Member
from .mlp_rows import LearningRows, Rows, aligned, shapes
from .numba_kernels import LARGEST
from .numba_members import LARGEST_RATE
from .static_moments import PRIOR, WEIGHT, advance, write


class Proposal(NamedTuple):
    """Prediction and feasibility of a step, before anything is written.

    Attributes
    ----------
    outputs : (M, C) or None
        Outputs for the prediction; None if it was not requested.
    sound : bool (M,) or None
        Whether the outputs are usable.
    alive : bool (M,)
        Whether a member stays finite in the step.
    """

    outputs: Tensor | None
    sound: Tensor | None
    alive: Tensor


class EntryStep(NamedTuple):
    """Step of the first layer, common to all members: ``W ← W − rate/q² · δ uᵀ``.

    Attributes
    ----------
    u : (n,)
        ``(z − μ)/σ̃²``.
    divisor : ()
        ``q²``.
    bias : ()
        ``1 − μᵀu``, the factor of the bias.
    """

    u: Tensor
    divisor: Tensor
    bias: Tensor


class MLPEnsemble:
    """Members of a multilayer perceptron, with spare inputs and outputs for growth.

    The first rows are the running means of the averaging members. The members follow; those that predict with
    their latest weights come first. The predicting rows are therefore one slice, and so are the learning
    rows. One pass over all rows serves a prediction and a step.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner; ``spec.network`` is ``"mlp"``.
    inputs, outputs : int
        Sizes, including spare ones. A spare input has the value 0, the variance 0 and the weights 0; a spare
        output has the logit −∞. They add nothing to any sum or maximum.
    device, dtype
        Device and precision.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Everything that changes, at fixed addresses.
    """

    def __init__(self, spec: LearnerSpec, inputs: int, outputs: int, device: str, dtype: torch.dtype) -> None:
        self._spec = spec
        self._sizes = sizes = [inputs, *spec.hidden, outputs]
        self._hidden = sum(spec.hidden)
        self._regression = spec.task == "regression"
        self._most = 1.0 / (1.0 - spec.rho) if spec.rho < 1.0 else math.inf
        self._make_constants(device, dtype)
        members, layers = spec.members, len(sizes) - 1
        averaging = [k for k, member in enumerate(members) if member.averages]
        self._means = means = len(averaging)
        self._averaging = torch.tensor(averaging, device=device, dtype=torch.int64)
        self._predictors = torch.tensor(_predictors(members), device=device, dtype=torch.int64)
        length = sum(aligned(math.prod(shape)) for shape in shapes(sizes))
        numbers = torch.zeros(means + len(members), length, device=device, dtype=dtype)
        counts = torch.ones(len(members), layers, 2, device=device, dtype=torch.float64)
        self.floor = torch.full((outputs,), -math.inf, device=device, dtype=dtype)
        self._fan_in = torch.tensor([0, *spec.hidden], device=device, dtype=dtype).clamp(min=1.0)
        self.tensors = {"members": numbers, "counts": counts, "floor": self.floor, "fan_in": self._fan_in}
        rates = torch.tensor([member.rate for member in members], device=device, dtype=torch.float64)
        plain = sum(not member.replays for member in members)  # those that replay come last
        self._every = Rows(sizes, numbers)
        self._averages = Rows(sizes, numbers[:means])
        self._predicting = Rows(sizes, numbers[: means + sum(member.latest for member in members)])
        self._all = LearningRows(sizes, numbers[means:], counts, rates)
        self._replaying = LearningRows(sizes, numbers[means + plain :], counts[plain:], rates[plain:])
        self._all.var[:, inputs:] = 1.0

    def _make_constants(self, device: str, dtype: torch.dtype) -> None:
        """Create the maps of inputs and outputs to layers, and the masks of the moments that move."""
        sizes = self._sizes
        number = torch.arange(len(sizes) - 1, device=device)
        self._layer_of_input = _numbers(sizes[:-1], device)
        self._layer_of_output = _numbers(sizes[1:], device)
        self._by_input = (self._layer_of_input[:, None] == number).to(dtype)
        self._by_output = (self._layer_of_output[:, None] == number).to(dtype)
        self._classes = torch.arange(sizes[-1], device=device, dtype=torch.float64)
        self._zero = torch.zeros((), device=device, dtype=dtype)
        self._entry = number == 0
        self._later = number > 0  # the first layer counted a replayed sample before

    def start(self, inputs: int) -> None:
        """Draw the random start of all members, with `inputs` inputs and no outputs."""
        named = self.named()
        for k in range(len(self._spec.members)):
            network = mlp(self._spec.hidden, self._spec.activation, (self._spec.seed, k), inputs)
            for name, parameter in network.named_parameters():
                window = tuple(slice(size) for size in parameter.shape)
                named[f"network.{name}"][k][window] = parameter.detach().to(named[f"network.{name}"])
        self._averages.parameters.copy_(self._latest_of_averaging())

    def _latest_of_averaging(self) -> Tensor:
        """Return the latest parameters of the averaging members."""
        return self._all.parameters.index_select(0, self._averaging)

    def add_inputs(self, names: Sequence[str], before: int, *, first: bool) -> None:
        """Use spare inputs, after `before` inputs in use; the first sample's start at random, by name."""
        after = before + len(names)
        self._all.var[:, before:after] = 1.0
        self._fan_in[0] = max(after, 1)
        if not (first and self._spec.hidden):
            return
        for k in range(len(self._spec.members)):
            weight, bias = entry_start((self._spec.seed, k), names, self._spec.hidden[0])
            self._all.weights[0][k, :, before:after] = weight.to(self.floor)
            self._all.biases[0][k] = bias.to(self.floor)
        self._averages.parameters.copy_(self._latest_of_averaging())

    def named(self) -> dict[str, Tensor]:
        """Return views of the state by name, including spare inputs and outputs."""
        part, named = self._all, self._named_parameters("network", self._all)
        if self._means:
            named |= self._named_parameters("average", self._averages)
        means, variances = (torch.split(t, self._sizes[:-1], dim=1) for t in (part.mean, part.var))
        for i, layer in enumerate(self._spec.layers):
            named[f"moments.{layer}.mean"] = means[i]
            named[f"moments.{layer}.var"] = variances[i]
            named[f"moments.{layer}.weight"] = part.counts[:, i, WEIGHT]
            named[f"moments.{layer}.prior_weight"] = part.counts[:, i, PRIOR]
        return named

    def _named_parameters(self, prefix: str, rows: Rows) -> dict[str, Tensor]:
        named = {}
        for layer, weight, bias in zip(self._spec.layers, rows.weights, rows.biases, strict=True):
            named[f"{prefix}.{layer}.weight"], named[f"{prefix}.{layer}.bias"] = weight, bias
        return named

    @property
    def parameters(self) -> list[str]:
        """Names of the trained tensors in `named`."""
        return [name for name in self.named() if name.startswith("network.")]

    @property
    def entry_weights(self) -> Tensor:
        """Weights of the first layer by member, (M, m, n)."""
        return self._all.weights[0]

    def predict(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the networks' predictions for a standardized input, (P, C), and their soundness, (P,).

        The order is that of `LearnerSpec.experts`.
        """
        _, outs, sound = self._run(self._predicting, z[:, None])
        return self._predicted(outs[..., 0], sound[:, 0])

    def _predicted(self, outs: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        outputs = outs[:, self._hidden :].index_select(0, self._predictors)
        return outputs, sound.index_select(0, self._predictors)

    def propose(self, z: Tensor, goal: Tensor, weight: Tensor, *, predict: bool) -> Proposal:
        """Run the members on a sample and find those that can take its step; write nothing.

        Parameters
        ----------
        z : (2, n)
            Input, standardized without the sample for the prediction, and with it for the step.
        goal, weight : float64 ()
            Class index or standardized target; sample weight.
        predict : bool
            Whether the prediction is needed. Here it is always made: one pass over the weights serves both.
        """
        ins, outs, sound = self._run(self._every, z.T)
        rates, means = self._all.rates * weight, self._means
        alive = sound[means:, 1] & (rates < LARGEST_RATE)
        self._proposed = ins[means:, :, 1], outs[means:, :, 1], goal, rates
        return Proposal(*self._predicted(outs[..., 0], sound[:, 0]), alive)

    def commit(self, accepted: Tensor) -> EntryStep:
        """Take the proposed step of the `accepted` members, (M,); return that of the first layer.

        The moments of the first layer are common to all members: they count every accepted sample.
        """
        moves = accepted[:, None] | (self._entry & accepted.any())
        used = moves.index_select(1, self._layer_of_input)
        entry = self._step(self._all, *self._proposed, accepted, used, moves)
        del self._proposed  # memory of the graph's own
        return entry

    def replay(self, z: Tensor, goal: Tensor, weight: Tensor, accepted: Tensor) -> None:
        """Step the members that replay on a sample of the replay buffer, (n,), if `accepted`, ()."""
        part = self._replaying
        ins, outs, sound = self._run(part, z[:, None])
        rates = part.rates * weight
        able = sound[:, 0] & (rates < LARGEST_RATE) & accepted
        moves = able[:, None] & self._later
        self._step(part, ins[..., 0], outs[..., 0], goal, rates, able, able[:, None], moves)

    def recover(self, lost: Tensor, best: Tensor) -> None:
        """Restart the `lost` members, (M,), from the `best`, an index of shape ().

        The running means of a lost member restart at the same weights.
        """
        best, numbers, counts = best.view(1), self.tensors["members"], self.tensors["counts"]
        rows = torch.cat([lost.index_select(0, self._averaging), lost])
        write(numbers, numbers.index_select(0, best + self._means), rows[:, None])
        write(counts, counts.index_select(0, best), lost[:, None, None])

    def average(self, share: Tensor, learned: Tensor) -> None:
        """Move the running means towards the latest weights by a share, (), if `learned`, ()."""
        means = self._averages.parameters
        write(means, torch.lerp(means, self._latest_of_averaging(), share.to(means.dtype)), learned)

    def _run(self, part: Rows, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run rows on inputs, (n, c).

        Returns
        -------
        (R, inputs, c), (R, outputs, c)
            Inputs and outputs of all layers side by side.
        (R, c)
            Soundness: all values are so small that no variance of them overflows. (Standardized inputs are
            clipped.)
        """
        ins, outs = [columns.expand(len(part.bias), -1, -1)], list[Tensor]()
        for weight, bias in zip(part.weights, part.biases, strict=True):
            if outs:
                ins.append(self._activate(outs[-1]))
            outs.append(torch.baddbmm(bias.unsqueeze(2), weight, ins[-1]))
        every = torch.cat(outs, dim=1)
        sound = (every.abs() < LARGEST).all(dim=1)
        if not self._spec.standardize:
            sound = sound & (columns.abs() < LARGEST).all(dim=0)
        return torch.cat(ins, dim=1), every, sound

    def _activate(self, outs: Tensor) -> Tensor:
        if self._spec.activation == "relu":
            return outs.relu()
        return outs.tanh() if self._spec.activation == "tanh" else F.gelu(outs)

    def _slope(self, outs: Tensor, activated: Tensor) -> Tensor:
        """Return the derivative of the activation."""
        if self._spec.activation == "relu":
            return (outs > 0.0).to(outs.dtype)
        if self._spec.activation == "tanh":
            return 1.0 - activated.square()
        density = torch.exp(-0.5 * outs.square()) * (1.0 / math.sqrt(2.0 * math.pi))
        return torch.addcmul(torch.special.ndtr(outs), outs, density)

    def _step(
        self,
        part: LearningRows,
        ins: Tensor,
        outs: Tensor,
        goal: Tensor,
        rates: Tensor,
        accepted: Tensor,
        used: Tensor,
        moves: Tensor,
    ) -> EntryStep:
        """Count the inputs of the accepted members, back-propagate, and step: rank one for each layer.

        Parameters
        ----------
        accepted : bool (M,)
            Members that take the step.
        used : bool (M, inputs) or (M, 1)
            Inputs of the layers to use; the others may be infinite.
        moves : bool (M, layers)
            Layers whose moments count their inputs.
        """
        ins = torch.where(used, ins, part.mean)
        centred = self._count(part, ins, moves)
        largest = torch.stack([_largest(v) for v in torch.split(part.var, self._sizes[:-1], dim=1)], dim=1)
        damping = largest * self._spec.eps_rel + self._spec.eps_abs
        u = centred / (part.var + damping.index_select(1, self._layer_of_input))
        norm, along = (torch.stack([centred, part.mean]) * u) @ self._by_input
        delta = self._back_propagate(part, ins, outs, goal)
        divisor = self._divisor(norm)
        scale = rates.to(delta.dtype)[:, None] / divisor
        if self._regression:
            scale = scale / self._gain(delta)
        of_bias = 1.0 - along
        scales = torch.stack([scale, scale * of_bias]).index_select(2, self._layer_of_output)
        steps = torch.where(accepted[:, None], scales * delta, self._zero)
        columns = torch.split(u, self._sizes[:-1], dim=1)
        for i, rows in enumerate(torch.split(steps[0], self._sizes[1:], dim=1)):
            part.weights[i].addcmul_(rows[:, :, None], columns[i][:, None, :], value=-1.0)
        part.bias.sub_(steps[1])
        return EntryStep(columns[0][0], divisor[..., 0].view(-1)[0], of_bias[0, 0])

    def _count(self, part: LearningRows, ins: Tensor, moves: Tensor) -> Tensor:
        """Step the moments selected by `moves`, (M, layers), by the inputs; return the centred inputs."""
        share, moved = advance(part.counts, self._most)
        write(part.counts, moved, moves[..., None])
        new = (share * moves).to(ins.dtype).index_select(1, self._layer_of_input)
        difference = ins - part.mean
        part.mean.addcmul_(difference, new)
        centred = ins - part.mean
        part.var.lerp_(difference * centred, new)  # as `static_moments.stepped`
        return centred

    def _divisor(self, norm: Tensor) -> Tensor:
        """Return q² of each layer."""
        if self._spec.step_scale == "paper":
            return self._fan_in
        return norm + 1.0 if self._spec.step_scale == "norm" else torch.ones_like(self._fan_in)

    def _back_propagate(self, part: LearningRows, ins: Tensor, outs: Tensor, goal: Tensor) -> Tensor:
        """Return the gradients at the outputs of all layers, (M, outputs)."""
        deltas = [self.output_gradient(outs[:, self._hidden :], goal)]
        hidden = self._slope(outs[:, : self._hidden], ins[:, self._sizes[0] :])
        slopes = torch.split(hidden, self._sizes[1:-1], dim=1)
        for weight, slope in zip(part.weights[:0:-1], reversed(slopes), strict=True):
            back = torch.bmm(weight.mT, deltas[0].unsqueeze(2)).squeeze(2)
            deltas.insert(0, back * slope)
        return torch.cat(deltas, dim=1)

    def output_gradient(self, logits: Tensor, goal: Tensor) -> Tensor:
        """Return the gradient of the loss at outputs, (R, C)."""
        if self._regression:
            return (logits - goal).clamp(-ERROR_CLIP, ERROR_CLIP)
        return torch.softmax(logits + self.floor, dim=1) - (self._classes == goal).to(logits.dtype)

    def _gain(self, delta: Tensor) -> Tensor:
        """Return the gain of each layer, ``max(1, ‖δ_l‖²/‖δ_L‖²)``; see `_OutputGradients`."""
        squares = delta.square() @ self._by_output
        last = squares[:, -1:].clamp(min=torch.finfo(delta.dtype).tiny)  # where it is 0, the others are 0
        return (squares / last).clamp(min=1.0)


def _largest(values: Tensor) -> Tensor:
    """Return the maximum of each row of values ≥ 0; 0 for an empty row."""
    return values.amax(dim=1) if values.shape[1] > 0 else values.sum(dim=1)


def _numbers(sizes: Sequence[int], device: str) -> Tensor:
    """Return the layer index of each position, for layers of these sizes."""
    repeated = [layer for layer, size in enumerate(sizes) for _ in range(size)]
    return torch.tensor(repeated, device=device, dtype=torch.int64)


def _predictors(members: Sequence[Member]) -> list[int]:
    """Return the row of each prediction: latest weights and running mean of each member, in order."""
    rows, means = list[int](), 0
    averaging = sum(member.averages for member in members)
    for k, member in enumerate(members):
        rows += [averaging + k] * member.latest + [means] * member.averages
        means += member.averages
    return rows
