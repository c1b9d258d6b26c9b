"""Engine of any network on torch: on the CPU, or on a GPU with the step captured in a CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigurationError, NonFiniteStateError
from ..mixture import average_share, draw
from ..values import Flag, Vector
from . import devices, torch_sample
from .base import NOT_FINITE, Engine, Explained, LearnerSpec
from .mlp_ensemble import MLPEnsemble
from .novelty import distances, standardized, tail_probability
from .numba_bins import BINS
from .numba_engine import NumbaEngine
from .torch_explanation import explain_module
from .torch_neighbours import MISSING
from .torch_runner import MOST_ROWS, Size, StepRunner
from .torch_sample import DRAWS, REMEMBERED

#: Least numbers of inputs and of outputs, spare ones included: growth within them needs no new capture.
LEAST_INPUTS, LEAST_OUTPUTS = 32, 8
#: Names of what belongs to outputs, and to inputs, in the state.
_KINDS = ("network", "average", "linear", "bins")
_HEAD_BIAS = tuple(f"{kind}.head.bias" for kind in _KINDS)
_HEAD = (*_HEAD_BIAS, *(f"{kind}.head.weight" for kind in _KINDS))
_BY_INPUT = (
    "linear.head.weight",
    "memory.x",
    "neighbours.metric",
    *(f"bounds.inputs.{name}" for name in ("first", "values", "largest", "joined", "clipped")),
)
#: Seconds that a call of many rows on a GPU takes at most, about, if another thread may end it early.
CALL_SECONDS = 0.005
#: Tensors that only a learned row changes: a snapshot leaves them out.
_REPLAY_BUFFER = ("memory_x", "memory_y")
#: Numbers of the state on the host.
_COUNTS = ("_channels", "_outputs", "_step", "_remembered", "_inputs_weight", "_targets_weight")


def input_layout(spec: LearnerSpec) -> tuple[int, int]:
    """Return the number of inputs with their own statistics, and of positions per input.

    Each input of a multilayer perceptron has its own statistics. Other networks read images or signals: the
    first of three or more axes holds the channels, and the positions of a channel share its statistics.
    """
    shape = spec.input_shape
    if shape is None:
        return 0, 1
    if spec.network == "mlp" or len(shape) == 1:
        return math.prod(shape), 1
    channels = shape[0] if len(shape) > 2 else 1
    return channels, math.prod(shape) // channels


def capacity(size: int, least: int) -> int:
    """Return the allocated size for a size in use: a fixed rule, so that equal sizes give equal bits.

    It is a multiple of `least`, and of an eighth of the next power of two. At most a third is spare. A stream
    of new features causes few captures of CUDA graphs.
    """
    grain = max(least, (1 << size.bit_length()) // 8)
    return -(-size // grain) * grain


def columns(
    spec: LearnerSpec,
    seeds: Sequence[int],
    steps: NDArray[np.int64],
    remembered: NDArray[np.int64],
    inputs_weight: Vector,
    targets_weight: Vector,
    targets: Vector,
    weights: Vector,
) -> Vector:
    """Return the columns of rows other than inputs; see `torch_sample`. Seeds and counts are of each row.

    Parameters
    ----------
    spec : LearnerSpec
        Settings; the seed is not used.
    seeds : (B,)
        Seed of the learner.
    steps, remembered : (B,)
        Numbers of samples learned and remembered, with this one.
    inputs_weight, targets_weight : (B,)
        Weights of the running moments, with this sample.
    targets, weights : (B,)
        Targets and sample weights.
    """
    at, memory, replayed = torch_sample, max(spec.remembered, 1), spec.replayed
    rest = np.empty((len(targets), at.DRAWS + replayed))
    rest[:, at.TARGET], rest[:, at.SAMPLE_WEIGHT] = targets, weights
    rest[:, at.NEW_INPUTS], rest[:, at.NEW_TARGET] = 1.0 / inputs_weight, 1.0 / targets_weight
    rest[:, at.NEW_WEIGHTS] = [average_share(step) for step in steps.tolist()] if spec.averages else 0.0
    rest[:, at.LABEL] = 0.0 if spec.task == "regression" else targets
    rest[:, at.SLOT] = (remembered - 1) % memory
    rest[:, at.STEP], rest[:, at.REMEMBERED] = steps, remembered - 1
    kept = np.minimum(remembered, memory).tolist()
    for turn in range(replayed):
        drawn = zip(seeds, steps.tolist(), kept, strict=True)
        rest[:, at.DRAWS + turn] = [draw(seed, step, turn, most) for seed, step, most in drawn]
    return rest


class TorchEngine(Engine):
    """Learner of any network on torch tensors.

    A multilayer perceptron runs all its members together (`MLPEnsemble`). Any other module runs as one member
    through autograd (`ModuleMember`). On a GPU the step can be captured in a CUDA graph: the host copies a
    block of rows to the device, replays the graph for each row, and waits once for the results.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner.
    device : str
        ``"cpu"``, ``"cuda"`` for the current GPU, or a GPU by its number, such as ``"cuda:1"``.
    dtype : torch.dtype
        float32, or float64 for tests of exactness.
    capture : bool
        Whether to capture the step on a GPU. A captured module must do the same work for every input, without
        the host.

    Attributes
    ----------
    activity : Activity
        Its work on a GPU.

    Raises
    ------
    ConfigurationError
        If the machine does not have the device.
    """

    name = "torch"
    activity: devices.Activity

    def __init__(
        self,
        spec: LearnerSpec,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        capture: bool = True,
    ) -> None:
        self.spec = spec
        self.device = devices.resolved(device)
        self.activity = devices.Activity()
        self.call_seconds = CALL_SECONDS if devices.is_gpu(self.device) else None
        self._dtype = dtype
        self._capture = capture and devices.is_gpu(self.device)
        self._grows = spec.network == "mlp" and spec.input_shape is None
        self._channels, self._positions = input_layout(spec)
        self._outputs = 0
        self._step = self._remembered = 0
        self._inputs_weight = self._targets_weight = 0.0
        self._twin: NumbaEngine | None = None  # a copy of the present state, once it was explained
        with self._on_device():
            self._runner = self._new_runner(self._size(self._channels, 0))
            if isinstance(self._runner.step.members, MLPEnsemble):
                self._runner.step.members.start(self._channels)
                self._runner.step.add_inputs([str(i) for i in range(self._channels)], 0, 0.0, first=False)

    def _on_device(self) -> AbstractContextManager[None]:
        """Make the device the current one, and translate its errors."""
        return devices.on(self.device)

    def _size(self, channels: int, outputs: int) -> Size:
        """Return the size to allocate for numbers of inputs and outputs in use."""
        inputs = capacity(channels, LEAST_INPUTS) if self._grows else channels
        spare = outputs if self.spec.task == "regression" else capacity(outputs, LEAST_OUTPUTS)
        return Size(inputs, self._positions, spare)

    def _new_runner(self, size: Size) -> StepRunner:
        return StepRunner(
            self.spec, size, self.device, self._dtype, capture=self._capture, activity=self.activity
        )

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of all members, without the running means."""
        named = self._named()
        parameters = [*self._runner.step.members.parameters, "linear.head.weight", "linear.head.bias"]
        parameters += ["bins.weight", "bins.head.bias"]
        return sum(named[name].numel() for name in parameters if name in named)

    @property
    def mixture(self) -> Vector:
        """Weights of the experts, with sum 1."""
        mixture = self._runner.step.mixture
        if mixture is None:
            return np.ones(1)
        with self._on_device():
            weights: Vector = mixture.experts.weights.to("cpu", copy=True).numpy()
        return weights

    @property
    def stack_share(self) -> float:
        """Share of the stack in the prediction; the hedge has the rest."""
        mixture = self._runner.step.mixture
        if mixture is None or not self.spec.stacks:
            return 0.0
        with self._on_device():
            return float(mixture.experts.shares[1])

    @torch.no_grad()
    def grow(self, inputs: Sequence[str], outputs: int, *, scaled: int = 0, unknown: bool = False) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""
        if inputs and not self._grows:
            raise ConfigurationError("input_shape", "a network of fixed input shape cannot grow inputs")
        self._twin = None
        with self._on_device():
            before = self.snapshot() if devices.is_gpu(self.device) else None
            try:
                self._grow(inputs, outputs, scaled=scaled, unknown=unknown)
            except torch.OutOfMemoryError:
                self.restore(before)
                raise

    def _grow(self, inputs: Sequence[str], outputs: int, *, scaled: int, unknown: bool) -> None:
        before, old, n, c = self._named(), self._runner.step.mixture, self._channels, self._outputs
        size = self._size(n + len(inputs), c + outputs)
        if size != self._runner.size:
            self._runner = self._new_runner(size)
            self._use([""] * n, 0, c, 0)
            for name, value in self._named().items():
                value[tuple(slice(size) for size in before[name].shape)] = before[name]
            if old is not None and self._runner.step.mixture is not None:
                self._runner.step.mixture.classes.copy_(old.classes)
        self._channels, self._outputs = n + len(inputs), c + outputs
        self._use(inputs, n, outputs, c, unknown=unknown)
        if unknown and self.spec.neighbours:
            named = self._named()
            named["memory.x"][:, n:] = math.nan
            named["memory.y"][:, MISSING] += len(inputs)
        if scaled:
            self._runner.step.scale_inputs(n + len(inputs) - scaled, n + len(inputs))

    def _use(self, inputs: Sequence[str], n: int, outputs: int, c: int, *, unknown: bool = False) -> None:
        """Use spare inputs and outputs, after n inputs and c outputs in use."""
        step = self._runner.step
        if inputs:
            weight = 0.0 if unknown else self._inputs_weight
            step.add_inputs(inputs, n, weight, first=self._step == 0 and c == 0)
        step.members.floor[c : c + outputs] = 0.0
        if c > 0 and outputs:
            for name, bias in step.named().items():
                if name in _HEAD_BIAS:
                    bias[:, c : c + outputs] = bias[:, :c].amin(dim=1, keepdim=True)

    def clipped(self) -> tuple[Vector, Vector]:
        """Return the numbers of values of each input, and of those that were clipped."""
        with self._on_device():
            named = self._named()
            values, clipped = (
                named[f"bounds.inputs.{name}"].cpu().numpy().copy() for name in ("values", "clipped")
            )
        return values, clipped

    def snapshot(self) -> Any:
        """Return what `restore` needs to undo growth; valid until a row is learned."""
        tensors = self._runner.step.tensors
        with self._on_device():
            kept = {name: value.clone() for name, value in tensors.items() if name not in _REPLAY_BUFFER}
        return self._runner, self._channels, self._outputs, kept

    @torch.no_grad()
    def restore(self, snapshot: Any) -> None:
        """Undo growth, and refused steps, since `snapshot`: the state has equal bits."""
        self._runner, self._channels, self._outputs, kept = snapshot
        self._twin = None
        with self._on_device():
            for name, value in kept.items():
                self._runner.step.tensors[name].copy_(value)

    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,), or the prediction, of shape (1,)."""
        row: Vector = self.predict_rows(x[None])[0]
        return row

    def predict_rows(self, x: Vector) -> Vector:
        """Return the predictions of rows, of shape (N, outputs)."""
        rows, most = x.reshape(len(x), math.prod(x.shape[1:])), self._runner.rows
        rest = np.zeros((min(len(x), most), DRAWS + self.spec.replayed))
        rest[:, REMEMBERED] = self._remembered
        found = np.empty((len(x), self._outputs))
        with self._on_device():
            for start in range(0, len(x), most):
                part = rows[start : start + most]
                values = self._runner.predict(part, rest[: len(part)])
                if not values[:, 0].all():
                    raise NonFiniteStateError(NOT_FINITE)
                found[start : start + most] = values[:, 1 : 1 + self._outputs]
        return found

    def experts(self, x: Vector) -> Vector:
        """Return the predictions of the experts, of shape (K, outputs); NaN where one has none."""
        with self._on_device():
            self.predict(x)
            return np.ascontiguousarray(self._runner.experts()[:, : self._outputs])

    def explain(
        self, x: Vector, groups: NDArray[np.int64], count: int, label: int = -1, *, quick: bool = False
    ) -> Explained:
        """Return how much each group of inputs moved the prediction.

        A multilayer perceptron is explained by the numba engine, from a copy of the state. Any other network
        is explained by its gradients.
        """
        step = self._runner.step
        if isinstance(step.members, MLPEnsemble):
            if self._twin is None:
                self._twin = NumbaEngine(self.spec, self._dtype)
                self._twin.load_state_dict(self.state_dict())
            return self._twin.explain(x, groups, count, label, quick=quick)
        with self._on_device():
            return explain_module(step, self.predict, x.reshape(-1), groups, count, label, quick=quick)

    def prepare_explanations(self) -> None:
        """Load the kernel of explanations, if a copy in the numba engine is explained."""
        if self.spec.network == "mlp":
            NumbaEngine(self.spec, self._dtype).prepare_explanations()

    @torch.no_grad()
    def novelty(self, x: Vector) -> float:
        """Return the tail probability of an input."""
        with self._on_device():
            named = self._named()
            mean, var = (named[f"inputs.{name}"].cpu().numpy() for name in ("mean", "var"))
            rows = named["memory.x"].cpu().numpy() if "memory.x" in named else np.empty((0, 1))
        z = standardized(x.reshape(len(mean), -1), mean, var)
        if not self.spec.standardize:
            rows = standardized(rows.T, mean, var).T
        return tail_probability(z, distances(rows, 1))

    def learn(
        self,
        x: Vector,
        targets: Vector,
        weights: Vector,
        *,
        predict: bool = False,
        given: Vector | None = None,
        pause: Flag | None = None,
    ) -> tuple[int, Vector]:
        """Learn rows in order, one step each, up to the first refused row or a pause."""
        known = given if self.spec.stacks else None
        predictions = np.empty((len(x), self._outputs) if predict else (0, 0))
        with self._on_device():
            total = self._learn(x, targets, weights, known, predictions, predict=predict, pause=pause)
        return total, predictions

    def _learn(
        self,
        x: Vector,
        targets: Vector,
        weights: Vector,
        given: Vector | None,
        predictions: Vector,
        *,
        predict: bool,
        pause: Flag | None,
    ) -> int:
        """Learn rows and write the predictions; return the number of rows learned."""
        runner, rows, total = self._runner, x.reshape(len(x), -1), 0
        most = runner.rows if given is None else runner.late_rows
        if devices.is_gpu(self.device):
            runner.prepare()  # now, and not in a later prediction: a server answers those on its event loop
        while total < len(x):
            part = slice(total, total + (most if pause is None else min(most, self._rows_of_a_call())))
            rest = self._columns(targets[part], weights[part])
            late = None if given is None else given[part]
            try:
                done, values = runner.learn(rows[part], rest, late, predict=predict, pause=pause)
            except torch.OutOfMemoryError:  # of a capture: this row was not begun
                if total == 0:
                    raise
                break
            if predict:
                predictions[part] = values[:, : self._outputs]
            total += done
            self.learned(done)
            if done < len(rest) or (pause is not None and pause[0]):
                break
        return total

    def _rows_of_a_call(self) -> int:
        """Return how many rows are learned before the flag of a pause is read."""
        if self.call_seconds is None:
            return MOST_ROWS
        rows, seconds = self.activity.rows, self.activity.seconds
        return max(1, int(self.call_seconds * rows / seconds)) if rows else 1

    def _columns(self, targets: Vector, weights: Vector) -> Vector:
        """Return the columns of rows other than inputs, such as targets and weights; see `torch_sample`."""
        after: NDArray[np.int64] = np.arange(1, len(targets) + 1)
        return columns(
            self.spec,
            [self.spec.seed] * len(targets),
            self._step + after,
            self._remembered + after,
            np.float64(self._inputs_weight) + after,
            np.float64(self._targets_weight) + after,
            targets,
            weights,
        )

    def learned(self, count: int) -> None:
        """Count rows that the runner has learned."""
        self._twin = None
        self._step += count
        self._remembered += count
        self._inputs_weight += count
        self._targets_weight += count

    def _named(self) -> dict[str, Tensor]:
        """Return views of the state on the device by name, without spare inputs and outputs."""
        return {name: value[self._in_use(name, value)] for name, value in self._runner.step.named().items()}

    def _in_use(self, name: str, value: Tensor) -> tuple[slice, ...]:
        """Return the slices of a tensor that are in use."""
        used = list(value.shape)
        entry = self.spec.layers[0]
        by_input = {f"{kind}.{entry}.weight" for kind in ("network", "average")}
        by_input |= {f"moments.{entry}.mean", f"moments.{entry}.var", *_BY_INPUT}
        if name in ("inputs.mean", "inputs.var") or (self.spec.network == "mlp" and name in by_input):
            used[-1] = self._channels
        if name in _HEAD:
            used[1] = self._outputs
        if name.startswith("bins."):
            binned = self.spec.binned(self._channels)
            used[0] = {"bins.weight": binned // BINS, "bins.squares": binned + 1}.get(name, used[0])
            used[-1] = self._outputs if name == "bins.weight" else used[-1]
        if name.startswith("memory."):
            used[0] = min(self._remembered, self.spec.remembered)
        return tuple(slice(size) for size in used)

    def moments(self) -> dict[str, Tensor]:
        """Return means and variances in the state: of the raw inputs, and of each layer by member."""
        with self._on_device():
            return {
                name: value.clone().cpu()
                for name, value in self._named().items()
                if name.startswith(("inputs.", "moments.")) and name.endswith((".mean", ".var"))
            }

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes, on the CPU."""
        with self._on_device():  # one tensor after another: a copy of all would take memory of the device
            state = {
                name: value.to("cpu").clone(memory_format=torch.contiguous_format)
                for name, value in self._named().items()
            }
        return state | self._counted()

    def state_copy(self) -> dict[str, Tensor]:
        """Return everything that learning changes, on the device."""
        with self._on_device():
            state = {n: v.clone(memory_format=torch.contiguous_format) for n, v in self._named().items()}
        return state | self._counted()

    def _counted(self) -> dict[str, Tensor]:
        """Return the numbers of the state that the host has."""
        exact = {"inputs.weight": self._inputs_weight, "inputs.prior_weight": 0.0}
        if self.spec.task == "regression":
            exact |= {"target.weight": self._targets_weight, "target.prior_weight": 0.0}
        counted = {name: torch.tensor(value, dtype=torch.float64) for name, value in exact.items()}
        if self.spec.remembered:
            counted["memory.count"] = torch.tensor(self._remembered)
        return counted | {"step": torch.tensor(self._step)}

    def _untrained(self) -> Self:
        """Return an untrained engine on the CPU: a state is checked there, and takes no memory of a GPU."""
        return type(self)(self.spec, "cpu", self._dtype, capture=False)

    @torch.no_grad()
    def _read(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} is not a tensor")
            counts = name.startswith(("inputs.", "target.", "moments.")) and name.endswith("weight")
            if counts and not bool((value >= 0.0).all() and value.isfinite().all()):
                raise ValueError(f"{name} is not finite and ≥ 0")
        if self._grows:
            self._channels = len(state["inputs.mean"])
        self._outputs = state["network.head.bias"].shape[1]
        self._step, self._inputs_weight = int(state["step"]), float(state["inputs.weight"])
        if self.spec.task == "regression":
            self._targets_weight = float(state["target.weight"])
        if self.spec.remembered:
            self._remembered = int(state["memory.count"])
        self._runner = self._new_runner(self._size(self._channels, self._outputs))
        self._use([""] * self._channels, 0, self._outputs, 0)
        for name, value in self._named().items():
            value.copy_(state[name])
        if self._runner.step.mixture is not None:
            self._runner.step.mixture.classes.fill_(self._outputs)

    @torch.no_grad()
    def _adopt(self, fresh: Self) -> None:
        runner = self._runner
        with self._on_device():
            if runner.size != fresh._runner.size:  # else the captures stay valid
                runner = self._new_runner(fresh._runner.size)
            for name, value in fresh._runner.step.tensors.items():
                runner.step.tensors[name].copy_(value)
        self._runner, self._twin = runner, None
        for name in _COUNTS:
            setattr(self, name, getattr(fresh, name))
