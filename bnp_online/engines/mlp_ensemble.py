"""All copies of a multilayer perceptron, stacked, stepped together as tensor operations without a branch.

What the layers do alike is done for all of them at once, on their inputs (or outputs) side by side: on a GPU
a step costs what its kernels take to start, hardly what they compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from ..network import entry_start, mlp
from .base import ERROR_CLIP, LearnerSpec
from .numba_kernels import LARGEST
from .numba_step import LARGEST_RATE
from .stacked import Rows, Stack, numbers_of_a_copy
from .static_moments import PRIOR, WEIGHT, advance, write


class Proposal(NamedTuple):
    """What copies say of a sample before anything is written.

    Attributes
    ----------
    outputs : (M, C)
        For the prediction.
    sound : bool (M,)
        Whether they can be used.
    alive : bool (M,)
        Whether the copy can take the step, and stay finite.
    """

    outputs: Tensor
    sound: Tensor
    alive: Tensor


class BatchedCopies:
    """The copies of a multilayer perceptron, with room for inputs and outputs to come.

    The running means of those that average stand in rows before theirs: `averages`, then the copies in their
    order, which begins with those that do not average. So what predicts and what learns are one slice each,
    and a sample that is to be predicted and learned goes through all rows at once.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how; ``spec.network`` is ``"mlp"``.
    inputs, outputs : int
        For how many there is room. Those that are not there yet have the input 0, the variance 0 and the
        weights 0, and the logit −∞: so they add nothing to any sum or maximum.
    device, dtype
        Of the copies.

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
        count, layers = len(spec.copies), len(sizes) - 1
        self._means = means = sum(each.averages for each in spec.copies)
        numbers = torch.zeros(means + count, numbers_of_a_copy(sizes), device=device, dtype=dtype)
        counts = torch.ones(count, layers, 2, device=device, dtype=torch.float64)
        self.floor = torch.full((outputs,), -math.inf, device=device, dtype=dtype)
        self._fan_in = torch.tensor([0, *spec.hidden], device=device, dtype=dtype).clamp(min=1.0)
        self.tensors = {"copies": numbers, "counts": counts, "floor": self.floor, "fan_in": self._fan_in}
        rates = torch.tensor([each.rate for each in spec.copies], device=device, dtype=torch.float64)
        still = sum(not each.replays for each in spec.copies)  # those that replay come last
        self._every = Rows(sizes, numbers)
        self._averages, self._averaging = Rows(sizes, numbers[:means]), Rows(sizes, numbers[count:])
        self._predicting = Rows(sizes, numbers[:count])
        self._all = Stack(sizes, numbers[means:], counts, rates)
        self._replaying = Stack(sizes, numbers[means + still :], counts[still:], rates[still:])
        self._all.var[:, inputs:] = 1.0

    def _make_constants(self, device: str, dtype: torch.dtype) -> None:
        """Make what says which layer an input or output belongs to, and what moves in a step."""
        sizes = self._sizes
        number = torch.arange(len(sizes) - 1, device=device)
        self._layer_of_input = _numbers(sizes[:-1], device)
        self._layer_of_output = _numbers(sizes[1:], device)
        self._by_input = (self._layer_of_input[:, None] == number).to(dtype)
        self._by_output = (self._layer_of_output[:, None] == number).to(dtype)
        self._classes = torch.arange(sizes[-1], device=device, dtype=torch.float64)
        self._zero = torch.zeros((), device=device, dtype=dtype)
        self._moves = number >= 0  # all moments, in the step of a new sample
        self._moves_replayed = number > 0  # those of the first layer have counted it before

    def start(self, inputs: int) -> None:
        """Draw the random start of every copy, with so many inputs and no outputs."""
        named = self.named()
        for k in range(len(self._spec.copies)):
            network = mlp(self._spec.hidden, self._spec.activation, (self._spec.seed, k), inputs)
            for name, parameter in network.named_parameters():
                window = tuple(slice(size) for size in parameter.shape)
                named[f"network.{name}"][k][window] = parameter.detach().to(named[f"network.{name}"])
        self._averages.parameters.copy_(self._averaging.parameters)
        self.add_inputs([str(i) for i in range(inputs)], 0, first=False)

    def add_inputs(self, names: Sequence[str], before: int, *, first: bool) -> None:
        """Put inputs to use, `before` being there; at random (by name) if they are the first sample's."""
        after = before + len(names)
        self._all.var[:, before:after] = 1.0
        self._fan_in[0] = max(after, 1)
        if not (first and self._spec.hidden):
            return
        for k in range(len(self._spec.copies)):
            weight, bias = entry_start((self._spec.seed, k), names, self._spec.hidden[0])
            self._all.weights[0][k, :, before:after] = weight.to(self.floor)
            self._all.biases[0][k] = bias.to(self.floor)
        self._averages.parameters.copy_(self._averaging.parameters)

    def named(self) -> dict[str, Tensor]:
        """Return views of the copies' state, by its names, the room included."""
        part, named = self._all, self._parameters("network", self._all)
        if self._means:
            named |= self._parameters("average", self._averages)
        means, variances = (torch.split(t, self._sizes[:-1], dim=1) for t in (part.mean, part.var))
        for i, layer in enumerate(self._layers()):
            named[f"moments.{layer}.mean"] = means[i]
            named[f"moments.{layer}.var"] = variances[i]
            named[f"moments.{layer}.weight"] = part.counts[:, i, WEIGHT]
            named[f"moments.{layer}.prior_weight"] = part.counts[:, i, PRIOR]
        return named

    def _layers(self) -> list[str]:
        return [*(f"body.{2 * i + 1}" for i in range(len(self._spec.hidden))), "head"]

    def _parameters(self, prefix: str, rows: Rows) -> dict[str, Tensor]:
        named = {}
        for layer, weight, bias in zip(self._layers(), rows.weights, rows.biases, strict=True):
            named[f"{prefix}.{layer}.weight"], named[f"{prefix}.{layer}.bias"] = weight, bias
        return named

    @property
    def parameters(self) -> list[str]:
        """Names in `named` of what is trained."""
        return [name for name in self.named() if name.startswith("network.")]

    def predict(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return each copy's outputs for a standardized input, (M, C), and which copies are sound, (M,)."""
        _, outs, sound = self._run(self._predicting, z[:, None])
        return self._in_order(outs[:, self._hidden :, 0]), self._in_order(sound[:, 0])

    def _in_order(self, values: Tensor) -> Tensor:
        """Return what the rows that predict say, (M, …), in the order of the copies."""
        return torch.cat([values[self._means :], values[: self._means]]) if self._means else values

    def propose(self, z: Tensor, goal: Tensor, weight: Tensor) -> Proposal:
        """Run the copies on a sample and say which of them can take its step; nothing is written.

        Parameters
        ----------
        z : (2, n)
            The input as it was standardized before the sample was counted, for the prediction, and after.
        goal, weight : float64 ()
            Number of the class, or standardized target; weight of the sample.
        """
        ins, outs, sound = self._run(self._every, z.T)  # both at once: the weights are read once
        rates, count, means = self._all.rates * weight, len(self._all.rates), self._means
        alive = sound[means:, 1] & (rates < LARGEST_RATE)
        self._proposed = ins[means:, :, 1], outs[means:, :, 1], goal, rates
        predicted = self._in_order(outs[:count, self._hidden :, 0])
        return Proposal(predicted, self._in_order(sound[:count, 0]), alive)

    def commit(self, accepted: Tensor) -> None:
        """Take the proposed step of the copies that are `accepted`, (M,)."""
        self._step(self._all, *self._proposed, accepted, self._moves)
        del self._proposed  # memory of the graph's own

    def replay(self, z: Tensor, goal: Tensor, weight: Tensor, accepted: Tensor) -> None:
        """Let the copies that replay take a step on a remembered input, (n,), if `accepted`, ()."""
        part = self._replaying
        ins, outs, sound = self._run(part, z[:, None])
        rates = part.rates * weight
        able = sound[:, 0] & (rates < LARGEST_RATE) & accepted
        self._step(part, ins[..., 0], outs[..., 0], goal, rates, able, self._moves_replayed)

    def recover(self, lost: Tensor, best: Tensor) -> None:
        """Let the copies that are `lost`, (M,), start again from the `best`, the number of one, ().

        The running means of the lost start at its weights.
        """
        best, numbers, counts = best.view(1), self.tensors["copies"], self.tensors["counts"]
        rows = torch.cat([lost[len(lost) - self._means :], lost]) if self._means else lost
        write(numbers, numbers.index_select(0, best + self._means), rows[:, None])
        write(counts, counts.index_select(0, best), lost[:, None, None])

    def average(self, share: Tensor, learned: Tensor) -> None:
        """Count the latest weights into the running means by their share, (), if `learned`, ()."""
        means = self._averages.parameters
        write(means, torch.lerp(means, self._averaging.parameters, share.to(means.dtype)), learned)

    def _run(self, part: Rows, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run rows on inputs, (n, c).

        Returns
        -------
        (R, inputs, c), (R, outputs, c)
            Of all layers side by side.
        (R, c)
            Whether a row is sound: so small everywhere that no variance of it overflows. (Standardized
            inputs are clipped.)
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
        part: Stack,
        ins: Tensor,
        outs: Tensor,
        goal: Tensor,
        rates: Tensor,
        accepted: Tensor,
        moves: Tensor,
    ) -> None:
        """Let the accepted copies count their inputs, back-propagate, and descend: rank one a layer."""
        ins = torch.where(accepted[:, None], ins, part.mean)
        centred = self._count(part, ins, accepted[:, None] & moves)
        largest = torch.stack([_largest(v) for v in torch.split(part.var, self._sizes[:-1], dim=1)], dim=1)
        damping = largest * self._spec.eps_rel + self._spec.eps_abs
        u = centred / (part.var + damping.index_select(1, self._layer_of_input))
        norm, along = (torch.stack([centred, part.mean]) * u) @ self._by_input
        delta = self._back_propagate(part, ins, outs, goal)
        scale = rates.to(delta.dtype)[:, None] / self._divisor(norm)
        if self._regression:
            scale = scale / self._gain(delta)
        scales = torch.stack([scale, scale * (1.0 - along)]).index_select(2, self._layer_of_output)
        steps = torch.where(accepted[:, None], scales * delta, self._zero)
        columns = torch.split(u, self._sizes[:-1], dim=1)
        for i, rows in enumerate(torch.split(steps[0], self._sizes[1:], dim=1)):
            part.weights[i].addcmul_(rows[:, :, None], columns[i][:, None, :], value=-1.0)
        part.bias.sub_(steps[1])

    def _count(self, part: Stack, ins: Tensor, moves: Tensor) -> Tensor:
        """Step the moments of the layers that move, (M, layers), by their inputs; return these, centred."""
        share, moved = advance(part.counts, self._most)
        write(part.counts, moved, moves[..., None])
        new = (share * moves).to(ins.dtype).index_select(1, self._layer_of_input)
        difference = ins - part.mean
        part.mean.addcmul_(difference, new)
        centred = ins - part.mean
        part.var.lerp_(difference * centred, new)  # as `tensor_moments.stepped`
        return centred

    def _divisor(self, norm: Tensor) -> Tensor:
        """Return q² of each layer."""
        if self._spec.step_scale == "paper":
            return self._fan_in
        return norm + 1.0 if self._spec.step_scale == "norm" else torch.ones_like(self._fan_in)

    def _back_propagate(self, part: Stack, ins: Tensor, outs: Tensor, goal: Tensor) -> Tensor:
        """Return the gradient at the outputs of all layers, (M, outputs)."""
        logits = outs[:, self._hidden :]
        if self._regression:
            delta = (logits - goal).clamp(-ERROR_CLIP, ERROR_CLIP)
        else:
            delta = torch.softmax(logits + self.floor, dim=1) - (self._classes == goal).to(logits.dtype)
        deltas = [delta]
        hidden = self._slope(outs[:, : self._hidden], ins[:, self._sizes[0] :])
        slopes = torch.split(hidden, self._sizes[1:-1], dim=1)
        for weight, slope in zip(part.weights[:0:-1], reversed(slopes), strict=True):
            back = torch.bmm(weight.mT, deltas[0].unsqueeze(2)).squeeze(2)
            deltas.insert(0, back * slope)
        return torch.cat(deltas, dim=1)

    def _gain(self, delta: Tensor) -> Tensor:
        """Return ``max(1, ‖δ_l‖²/‖δ_L‖²)`` of each layer: how much its step is amplified on its way out."""
        squares = delta.square() @ self._by_output
        last = squares[:, -1:].clamp(min=torch.finfo(delta.dtype).tiny)  # where it is 0, so are the others
        return (squares / last).clamp(min=1.0)


def _largest(values: Tensor) -> Tensor:
    """Return the maximum of each row of values ≥ 0; 0 if there are none."""
    return values.amax(dim=1) if values.shape[1] > 0 else values.sum(dim=1)


def _numbers(sizes: Sequence[int], device: str) -> Tensor:
    """Return the number of each layer as often as its size says."""
    repeated = [layer for layer, size in enumerate(sizes) for _ in range(size)]
    return torch.tensor(repeated, device=device, dtype=torch.int64)
