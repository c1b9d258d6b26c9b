"""The fused engine on the GPU: a whole step captured once in a CUDA graph, and replayed for every row."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..encoding import Vector
from ..errors import ConfigurationError, NonFiniteStateError, StateError
from ..mixture import average_share, draw
from .autograd import input_layout
from .base import LearnerSpec
from .mlp_ensemble import BatchedCopies
from .program import Program, Size, Tenant
from .torch_step import DRAWS, LABEL, NEW_INPUTS, NEW_TARGET, NEW_WEIGHTS, SAMPLE_WEIGHT, SLOT, TARGET

#: Least room for inputs and for outputs, in which a learner grows without a new capture.
LEAST_INPUTS, LEAST_OUTPUTS = 32, 8
_HEAD_BIAS = ("network.head.bias", "average.head.bias")
_HEAD = (*_HEAD_BIAS, "network.head.weight", "average.head.weight")


def room(size: int, least: int) -> int:
    """Return for how many a learner of a size has room: a fixed rule, so that equal sizes give equal bits.

    Rounded up to a multiple of `least`, and of a quarter of the greatest power of two that is not larger: so
    a third at most stays empty, and a stream of new features causes few captures.
    """
    grain = max(least, (1 << size.bit_length()) // 8)
    return -(-size // grain) * grain


class GraphedEngine:
    """Copies of a network on a GPU, stepped by a CUDA graph.

    Rows are staged on the device, the graph is replayed for each, and the results are read back together: the
    host waits once for a call of up to `program.MOST_ROWS` rows. Multilayer perceptrons run all their copies
    in one graph; any other module is captured with its backward pass, one copy at a fixed rate.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how.
    device : str
        ``"cuda"``. On ``"cpu"`` the same step runs without a graph, which is how it is tested there.
    dtype : torch.dtype
        float32, or float64 for tests of exactness.

    Notes
    -----
    Its state is that of `AutogradEngine`: either engine reads what the other wrote. A module must do the same
    work for every input, and leave the host out of it; a prediction and a step are captured when they are
    first wanted, and again after growth beyond the `room` that there is.
    """

    name = "graphed"

    def __init__(self, spec: LearnerSpec, device: str = "cuda", dtype: torch.dtype = torch.float32) -> None:
        self.spec = spec
        self.device = device
        self._dtype = dtype
        self._grows = spec.network == "mlp" and spec.input_shape is None
        self._replay = spec.replay if any(each.replays for each in spec.copies) else 0
        self._averages = any(each.averages for each in spec.copies)
        self._channels, self._positions = input_layout(spec)
        self._outputs = 0
        self._step = self._remembered = 0
        self._inputs_weight = self._targets_weight = 0.0
        self._move_in()
        if isinstance(self._program.copies, BatchedCopies):
            self._program.copies.start(self._channels)

    def _size(self) -> Size:
        """Return the size of the program that the learner needs."""
        inputs = room(self._channels, LEAST_INPUTS) if self._grows else self._channels
        outputs = self._outputs if self.spec.task == "regression" else room(self._outputs, LEAST_OUTPUTS)
        return Size(inputs, self._positions, outputs)

    def _move_in(self) -> None:
        """Take a program of the right size, with nothing in it yet."""
        self._program = Program(self.spec, self._size(), self._replay, self.device, self._dtype)
        self._tenant = Tenant({})
        self._program.seat(self._tenant)

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of all copies, their running means aside."""
        named = self._named()
        return sum(named[name].numel() for name in self._program.copies.parameters)

    @property
    def mixture(self) -> Vector:
        """Weight of each copy, summing to 1."""
        self._program.seat(self._tenant)
        weights: Vector = self._program.step.mixture.to("cpu", copy=True).numpy()
        return weights

    def fork(self) -> GraphedEngine:
        """Return an engine in the same state that can grow and learn while this one stays as it is."""
        self._program.seat(self._tenant)
        fork = copy.copy(self)
        fork._tenant = Tenant({name: t.clone() for name, t in self._program.step.tensors.items()})
        return fork

    @torch.no_grad()
    def grow(self, inputs: Sequence[str], outputs: int) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""
        if inputs and not self._grows:
            raise ConfigurationError("input_shape", "a network of fixed input shape cannot grow inputs")
        before, n, c = self._named(), self._channels, self._outputs
        self._channels, self._outputs = n + len(inputs), c + outputs
        if self._size() != self._program.size:
            self._move_in()
            self._open([""] * n, 0, c, 0)
            for name, value in self._named().items():
                value[tuple(slice(size) for size in before[name].shape)] = before[name]
        self._open(inputs, n, outputs, c)

    def _open(self, inputs: Sequence[str], n: int, outputs: int, c: int) -> None:
        """Put inputs and outputs to use for which there is room, n and c being in use."""
        copies = self._program.copies
        if inputs and isinstance(copies, BatchedCopies):
            copies.add_inputs(inputs, n, first=self._step == 0 and c == 0)
        copies.floor[c : c + outputs] = 0.0
        if c > 0 and outputs:
            for name, bias in copies.named().items():
                if name in _HEAD_BIAS:
                    bias[:, c : c + outputs] = bias[:, :c].amin(dim=1, keepdim=True)

    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,), or the prediction, of shape (1,)."""
        self._program.seat(self._tenant)
        found, *values = self._program.predict(x.reshape(-1))
        if not found:
            raise NonFiniteStateError("the network's outputs are not finite: use a smaller lr")
        return np.array(values[: self._outputs])

    def learn(
        self, x: Vector, targets: Vector, weights: Vector, *, predict: bool = False
    ) -> tuple[int, Vector]:
        """Learn rows in order, each its own step, up to the first that is refused."""
        self._program.seat(self._tenant)
        rows, most = x.reshape(len(x), -1), self._program.rows
        predictions = np.empty((len(x), self._outputs) if predict else (0, 0))
        total = 0
        for start in range(0, len(x), most):
            part = slice(start, start + most)
            rest = self._work_out(targets[part], weights[part])
            done, values = self._program.learn(rows[part], rest, predict=predict)
            if predict:
                predictions[part] = values[:, : self._outputs]
            total += done
            self._count(done)
            if done < len(rest):
                break
        return total, predictions

    def _work_out(self, targets: Vector, weights: Vector) -> Vector:
        """Return what is staged beside the inputs of rows."""
        rest = np.empty((len(targets), DRAWS + self._replay))
        after = np.arange(1, len(targets) + 1)
        rest[:, TARGET], rest[:, SAMPLE_WEIGHT] = targets, weights
        rest[:, NEW_INPUTS] = 1.0 / (self._inputs_weight + after)
        rest[:, NEW_TARGET] = 1.0 / (self._targets_weight + after)
        steps = range(self._step + 1, self._step + 1 + len(targets))
        rest[:, NEW_WEIGHTS] = [average_share(step) if self._averages else 0.0 for step in steps]
        rest[:, LABEL] = 0.0 if self.spec.task == "regression" else targets
        rest[:, SLOT] = (self._remembered + after - 1) % self.spec.memory
        for turn in range(self._replay):
            for i in range(len(targets)):
                remembered = min(self._remembered + i + 1, self.spec.memory)
                rest[i, DRAWS + turn] = draw(self.spec.seed, self._step + i + 1, turn, remembered)
        return rest

    def _count(self, rows: int) -> None:
        """Count rows that were learned."""
        self._step += rows
        self._remembered += rows
        self._inputs_weight += rows
        self._targets_weight += rows

    def _named(self) -> dict[str, Tensor]:
        """Return views of everything that learning changes on the device, without the room."""
        self._program.seat(self._tenant)
        named = self._program.step.named()
        return {name: value[self._window(name, value)] for name, value in named.items()}

    def _window(self, name: str, value: Tensor) -> tuple[slice, ...]:
        """Return the part of a tensor that is in use."""
        used = list(value.shape)
        entry = "body.1" if self.spec.hidden else "head"
        by_input = {f"{kind}.{entry}.weight" for kind in ("network", "average")}
        by_input |= {f"moments.{entry}.mean", f"moments.{entry}.var", "memory.x"}
        if name in ("inputs.mean", "inputs.var") or (self.spec.network == "mlp" and name in by_input):
            used[-1] = self._channels
        if name in _HEAD:
            used[1] = self._outputs
        if name.startswith("memory."):
            used[0] = min(self._remembered, self.spec.memory)
        return tuple(slice(size) for size in used)

    def moments(self) -> dict[str, Tensor]:
        """Return the means and variances in the state: of the raw inputs, and of each layer's by copy."""
        return {
            name: value.clone().cpu()
            for name, value in self._named().items()
            if name.startswith(("inputs.", "moments.")) and name.endswith((".mean", ".var"))
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes, on the CPU."""
        named = self._named()
        state = {name: v.clone(memory_format=torch.contiguous_format).cpu() for name, v in named.items()}
        exact = {"inputs.weight": self._inputs_weight, "inputs.prior_weight": 0.0}
        if self.spec.task == "regression":
            exact |= {"target.weight": self._targets_weight, "target.prior_weight": 0.0}
        state |= {name: torch.tensor(value, dtype=torch.float64) for name, value in exact.items()}
        if self._replay:
            state["memory.count"] = torch.tensor(self._remembered)
        return state | {"step": torch.tensor(self._step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned, growing or shrinking to its size."""
        fresh = GraphedEngine(self.spec, self.device, self._dtype)
        try:
            fresh._take(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise StateError(f"the state does not fit this network: {error}") from error
        taken = fresh.state_dict()
        if taken.keys() != state.keys() or any(taken[k].shape != state[k].shape for k in taken):
            raise StateError("the state does not fit this network: it has other tensors")
        if fresh._program.size == self._program.size:  # ours may be captured: only the numbers move
            fresh._tenant = Tenant(fresh._program.step.tensors)
            fresh._program = self._program
        vars(self).update(vars(fresh))

    @torch.no_grad()
    def _take(self, state: Mapping[str, Tensor]) -> None:
        """Fill a fresh engine."""
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} is no tensor")
            counts = name.startswith(("inputs.", "target.", "moments.")) and name.endswith("weight")
            if counts and not bool((value >= 0.0).all() and value.isfinite().all()):
                raise ValueError(f"{name} is not finite and ≥ 0")
        if self._grows:
            self._channels = len(state["inputs.mean"])
        self._outputs = state["network.head.bias"].shape[1]
        self._step, self._inputs_weight = int(state["step"]), float(state["inputs.weight"])
        if self.spec.task == "regression":
            self._targets_weight = float(state["target.weight"])
        if self._replay:
            self._remembered = int(state["memory.count"])
        self._move_in()
        self._open([""] * self._channels, 0, self._outputs, 0)
        for name, value in self._named().items():
            value.copy_(state[name])
