"""The reference engine: any module, through `BNP` and torch's autograd."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..encoding import Vector
from ..errors import NonFiniteStateError, StateError
from ..mixture import ERROR_FLOOR, ERROR_RETENTION, MAX_LOSS, average_share, draw, mix
from ..moments import RunningMoments
from .base import INPUT_CLIP, LearnerSpec
from .memory import Memory
from .replica import Replica
from .state import flatten, unflatten
from .targets import Targets


def input_layout(spec: LearnerSpec) -> tuple[int, int]:
    """Return how many inputs have statistics of their own, and how many positions share each of them.

    Every input of a multilayer perceptron has its own. Other networks get images or signals: there the first
    axis of three or more holds the channels, and the positions of a channel share its statistics.
    """
    shape = spec.input_shape
    if shape is None:
        return 0, 1
    if spec.network == "mlp" or len(shape) == 1:
        return math.prod(shape), 1
    channels = shape[0] if len(shape) > 2 else 1
    return channels, math.prod(shape) // channels


class AutogradEngine:
    """Copies of a network, each trained through `BNP` and autograd.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how.
    device : str
        ``"cpu"`` or ``"cuda"``.
    dtype : torch.dtype
        float32, or float64 for tests of exactness.

    Notes
    -----
    Tensors of the copies are stacked along a leading axis in `state_dict`.
    """

    name = "autograd"

    def __init__(self, spec: LearnerSpec, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.spec = spec
        self.device = device
        self._dtype = dtype
        channels, self._positions = input_layout(spec)
        self._inputs = RunningMoments(channels, rho=1.0, prior=0.0, dtype=torch.float64)
        self._targets = Targets() if spec.task == "regression" else None
        copies = spec.copies
        self._replays = [each.replays for each in copies]
        self._averaging = [k for k, each in enumerate(copies) if each.averages]
        self.replicas = [Replica(spec, k, each, device, dtype) for k, each in enumerate(copies)]
        self._weights = np.full(len(copies), 1.0 / len(copies))
        self._error_scale = 1.0
        self._step = 0
        self._memory = Memory(spec.memory, dtype) if any(self._replays) else None

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of all copies, their running means aside."""
        return sum(replica.num_parameters for replica in self.replicas)

    @property
    def mixture(self) -> Vector:
        """Weight of each copy, summing to 1."""
        return self._weights.copy()

    def grow(self, inputs: Sequence[str], outputs: int) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""
        self._inputs.grow(len(inputs))
        for replica in self.replicas:
            replica.grow(inputs, outputs)
        if self._memory is not None:
            self._memory.grow(len(inputs))

    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,), or the prediction, of shape (1,)."""
        return self._mix(self._values(x))

    def fork(self) -> AutogradEngine:
        """Return an engine in the same state that can grow and learn while this one stays as it is."""
        fork = AutogradEngine(self.spec, self.device, self._dtype)
        fork.load_state_dict(self.state_dict())
        return fork

    def learn(
        self, x: Vector, targets: Vector, weights: Vector, *, predict: bool = False
    ) -> tuple[int, Vector]:
        """Learn rows in order, each its own step, up to the first that is refused."""
        predictions = np.empty((len(x) if predict else 0, self.replicas[0].network.head.out_features))
        for t, row in enumerate(x):
            try:
                losses = error = None
                if predict or len(self.replicas) > 1:
                    values = self._values(row)
                    mixed = self._mix(values)
                    losses, error = self._losses(values, mixed, float(targets[t]))
                    if predict:
                        predictions[t] = mixed
                self._learn_row(row, float(targets[t]), float(weights[t]), losses, error)
            except NonFiniteStateError:
                return t, predictions
        return len(x), predictions

    def _values(self, x: Vector) -> list[Vector | None]:
        """Return what each copy predicts for a raw input; None for one that is not finite."""
        z = self._standardize(x, self._inputs)
        values: list[Vector | None] = []
        for replica in self.replicas:
            out: Vector = replica.outputs(z).numpy()
            if not np.isfinite(out).all():
                values.append(None)
            elif self._targets is not None:
                values.append(self._targets.restore(out))
            else:
                exponentials = np.exp(out - out.max())
                values.append(exponentials / exponentials.sum())
        return values

    def _mix(self, values: Sequence[Vector | None]) -> Vector:
        """Return the weighted mean of the copies' predictions."""
        finite = [(w, value) for w, value in zip(self._weights, values, strict=True) if value is not None]
        total = sum(w for w, _ in finite)
        if total <= 0.0:
            raise NonFiniteStateError("the network's outputs are not finite: use a smaller lr")
        mixed: Vector = sum(w * value for w, value in finite) / total
        return mixed

    def _losses(
        self, values: Sequence[Vector | None], mixed: Vector, y: float
    ) -> tuple[Vector, float | None]:
        """Return each copy's loss (∞ if it is not finite), and a regression's own absolute error."""
        losses = np.full(len(values), math.inf)
        spread = 1.0 if self._targets is None else self._targets.moments.var.item()
        for k, value in enumerate(values):
            if value is None:
                continue
            if self._targets is None:
                p = float(value[int(y)])
                losses[k] = min(-math.log(p), MAX_LOSS) if p > 0.0 else MAX_LOSS
            elif spread > 0.0:
                error = abs(y - float(value[0])) / math.sqrt(spread)
                losses[k] = min(error / max(self._error_scale, ERROR_FLOOR), MAX_LOSS)
            else:
                losses[k] = 0.0
        if self._targets is None or spread <= 0.0:
            return losses, None
        return losses, abs(y - float(mixed[0])) / math.sqrt(spread)

    def _learn_row(
        self, x: Vector, y: float, weight: float, losses: Vector | None, error: float | None
    ) -> None:
        """Learn one sample, or change nothing if no copy is finite on it."""
        inputs, targets = copy.copy(self._inputs), copy.copy(self._targets)
        inputs.update(self._fill(x, inputs).T)
        z = self._standardize(x, inputs)
        goal = y if targets is None else targets.standardize(y)
        alive = [replica.step(z, goal, weight) for replica in self.replicas]
        if not any(alive):
            raise NonFiniteStateError("the step would make the state non-finite: use a smaller lr")
        self._inputs, self._targets = inputs, targets
        self._step += 1
        if losses is not None and len(alive) > 1:
            losses[~np.array(alive)] = math.inf
            self._update_mixture(losses, error)
        if self._memory is not None:
            self._memory.add(z.flatten(1), goal, weight)  # as the other engines keep an array
            self._replay(self._memory)
        if share := average_share(self._step):
            for replica in self.replicas:
                replica.average(share)

    def _update_mixture(self, losses: Vector, error: float | None) -> None:
        """Weigh the copies by their losses; one that diverged starts again from the best."""
        if self._targets is not None:
            if error is None:  # the targets have no spread yet
                return
            self._error_scale += (1.0 - ERROR_RETENTION) * (error - self._error_scale)
        mix(self._weights, losses)
        best = int(np.argmax(np.where(losses < math.inf, self._weights, -1.0)))
        for k in np.flatnonzero(losses == math.inf):
            self.replicas[k].start_again_from(self.replicas[best])

    def _replay(self, memory: Memory) -> None:
        for turn in range(self.spec.replay):
            z, goal, weight = memory.get(draw(self.spec.seed, self._step, turn, len(memory)))
            for replica, replays in zip(self.replicas, self._replays, strict=True):
                if replays:
                    replica.step(z.to(self.device), goal, weight, replayed=True)

    def _fill(self, x: Vector, moments: RunningMoments) -> Tensor:
        """Return the input as (channels, positions), with the running mean in the place of missing values."""
        values = torch.from_numpy(x).reshape(-1, self._positions)
        return torch.where(values.isnan(), moments.mean[:, None], values)

    def _standardize(self, x: Vector, moments: RunningMoments) -> Tensor:
        z = self._fill(x, moments)
        if self.spec.standardize:
            scale = moments.var.sqrt()[:, None]
            z = ((z - moments.mean[:, None]) / scale).where(scale > 0, 0.0).clamp(-INPUT_CLIP, INPUT_CLIP)
        return z.to(self._dtype).view(1, *(self.spec.input_shape or (-1,))).to(self.device)

    def moments(self) -> dict[str, Tensor]:
        """Return the means and variances in the state: of the raw inputs, and of each layer's by copy."""
        found = {"inputs.mean": self._inputs.mean.cpu().clone(), "inputs.var": self._inputs.var.cpu().clone()}
        for layer in self.replicas[0].bnp.moments:
            own = [replica.bnp.moments[layer] for replica in self.replicas]
            found[f"moments.{layer}.mean"] = torch.stack([each.mean for each in own]).cpu()
            found[f"moments.{layer}.var"] = torch.stack([each.var for each in own]).cpu()
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes, on the CPU."""
        state = flatten("inputs", self._inputs)
        if self._targets is not None:
            state |= self._targets.state_dict()
        stacks = [replica.state_dict() for replica in self.replicas]
        names = dict.fromkeys(name for stack in stacks for name in stack)  # running means: not of each copy
        state |= {name: torch.stack([stack[name] for stack in stacks if name in stack]) for name in names}
        if len(self.replicas) > 1:
            state["mixture.weights"] = torch.from_numpy(self._weights.copy())
            state["mixture.error_scale"] = torch.tensor(self._error_scale, dtype=torch.float64)
        if self._memory is not None:
            state |= self._memory.state_dict()
        state["step"] = torch.tensor(self._step)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned, growing or shrinking to its size."""
        fresh = AutogradEngine(self.spec, self.device, self._dtype)
        try:
            fresh._take(state)
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            raise StateError(f"the state does not fit this network: {error}") from error
        taken = fresh.state_dict()
        if taken.keys() != state.keys() or any(taken[k].shape != state[k].shape for k in taken):
            raise StateError("the state does not fit this network: it has other tensors")
        vars(self).update(vars(fresh))  # network and hooks together: hooked twice, inputs would count twice

    def _take(self, state: Mapping[str, Tensor]) -> None:
        """Fill a fresh engine."""
        columns = len(state["inputs.mean"]) - len(self._inputs.mean)
        self.grow([str(i) for i in range(columns)], state["network.head.bias"].shape[1])
        unflatten("inputs", state, self._inputs)
        if self._targets is not None:
            self._targets.load_state_dict(state)
        for k, replica in enumerate(self.replicas):
            own = {name: v[k] for name, v in state.items() if name.startswith(("moments.", "network."))}
            if k in self._averaging:
                row = self._averaging.index(k)
                own |= {name: v[row] for name, v in state.items() if name.startswith("average.")}
            replica.load_state_dict(own)
        if len(self.replicas) > 1:
            self._weights = state["mixture.weights"].numpy().copy()
            self._error_scale = float(state["mixture.error_scale"])
        if self._memory is not None:
            self._memory.load_state_dict(state)
        self._step = int(state["step"])
