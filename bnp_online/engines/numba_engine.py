"""The fused engine on the CPU: multilayer perceptrons, all copies in one compiled call."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..encoding import Vector
from ..errors import ConfigurationError, NonFiniteStateError, StateError
from ..jit import announced
from ..network import entry_start, mlp
from . import numba_buffers, numba_step
from .base import Engine, LearnerSpec
from .numba_buffers import Buffers
from .numba_kernels import GELU, NONE, NORM, PAPER, RELU, TANH, Reals

_ACTIVATIONS = {"relu": RELU, "tanh": TANH, "gelu": GELU}
_STEP_SCALES = {"norm": NORM, "paper": PAPER, "none": NONE}
_MOMENTS = ("inputs.", "target.", "moments.")
_NO_PREDICTIONS = np.zeros((0, 0))


class CompiledEngine(Engine):
    """Copies of a multilayer perceptron in flat buffers, stepped by `fused.learn`.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how; ``spec.network`` is ``"mlp"``.
    dtype : torch.dtype
        float32, or float64 for tests of exactness.

    Notes
    -----
    Its state is that of `AutogradEngine`: either engine reads what the other wrote.
    """

    name = "compiled"
    device = "cpu"

    def __init__(self, spec: LearnerSpec, dtype: torch.dtype = torch.float32) -> None:
        self.spec = spec
        self._real = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
        self._copies = spec.copies
        self._memory = spec.memory if any(each.replays for each in self._copies) else 0
        self._averaging = [k for k, each in enumerate(self._copies) if each.averages]
        inputs = 0 if spec.input_shape is None else math.prod(spec.input_shape)
        self._allocate(inputs, 0)
        parameters = self._parameters()
        for k in range(len(self._copies)):
            network = mlp(spec.hidden, spec.activation, (spec.seed, k), inputs)
            for name, parameter in network.named_parameters():
                parameters[f"network.{name}"][k] = parameter.detach().numpy()
        self._buffers.average[:] = self._buffers.params[self._averaging]
        _compile(self._buffers)

    def _allocate(self, inputs: int, outputs: int) -> None:
        """Lay out the buffers of a learner that has learned nothing."""
        spec, real, count = self.spec, self._real, len(self._copies)
        sizes = [inputs, *spec.hidden, outputs]
        numbers = sum(n * m + m for n, m in _pairs(sizes))
        regression = spec.task == "regression"
        scalars = np.zeros(14)
        scalars[[numba_buffers.RHO, numba_buffers.EPS_REL, numba_buffers.EPS_ABS]] = (
            spec.rho,
            spec.eps_rel,
            spec.eps_abs,
        )
        scalars[[numba_buffers.ENTRY_WEIGHT, numba_buffers.ENTRY_PRIOR, numba_buffers.ERROR_SCALE]] = 1.0
        scalars[[numba_buffers.TARGET_LOW, numba_buffers.TARGET_HIGH]] = math.inf, -math.inf
        scalars[numba_buffers.PREDICTED] = -1.0
        copy_rows = np.ones((7, count))
        copy_rows[numba_buffers.RATE] = [each.rate for each in self._copies]
        copy_rows[numba_buffers.REPLAYS] = [each.replays for each in self._copies]
        copy_rows[numba_buffers.AVERAGE] = -1.0
        copy_rows[numba_buffers.AVERAGE, self._averaging] = np.arange(len(self._averaging))
        copy_rows[numba_buffers.WEIGHT] = 1.0 / count
        copy_rows[numba_buffers.LOSS] = 0.0
        config = [
            regression,
            _ACTIVATIONS[spec.activation],
            _STEP_SCALES[spec.step_scale],
            spec.standardize,
            spec.replay,
            spec.seed,
        ]
        self._buffers = Buffers(
            sizes=np.array(sizes),
            config=np.array(config, dtype=np.int64),
            scalars=scalars,
            copies=copy_rows,
            params=np.zeros((count, numbers), real),
            average=np.zeros((len(self._averaging), numbers), real),
            hidden=_moments((count, sum(spec.hidden)), real),
            entry=_moments((inputs,), real),
            inputs=np.zeros((2, inputs)),
            target=np.zeros((2, 1)),
            backup_entry=np.zeros((2, inputs), real),
            backup_inputs=np.zeros((2, inputs)),
            memory_x=np.zeros((0, inputs), real),
            memory_y=np.zeros((0, 2)),
            latest=np.zeros(inputs),
            outputs=np.zeros((count, outputs)),
            scratch=np.zeros((6, sum(sizes)), real),
            live=np.zeros(sum(sizes), np.int64),
            mixed=np.zeros(outputs),
        )

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of all copies, their running means aside."""
        return self._buffers.params.size

    @property
    def mixture(self) -> NDArray[np.float64]:
        """Weight of each copy, summing to 1."""
        weights: Vector = self._buffers.copies[numba_buffers.WEIGHT].copy()
        return weights

    def fork(self) -> CompiledEngine:
        """Return an engine in the same state that can grow and learn while this one stays as it is."""
        fork = copy(self)
        fork._buffers = Buffers(**{name: array.copy() for name, array in self._buffers._asdict().items()})
        return fork

    def grow(self, inputs: Sequence[str], outputs: int) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""
        if not inputs and not outputs:
            return
        if inputs and self.spec.input_shape is not None:
            raise ConfigurationError("input_shape", "a network of fixed input shape cannot grow inputs")
        old, before = self._buffers, self._parameters()
        n, c = len(old.inputs[0]), len(old.mixed)
        self._allocate(n + len(inputs), c + outputs)
        new, parameters = self._buffers, self._parameters()
        for name, part in parameters.items():
            part[tuple(slice(size) for size in before[name].shape)] = before[name]
            if outputs and c and name.endswith("head.bias"):
                part[:, c:] = part[:, :c].min(axis=1, keepdims=True)
        if inputs and c == 0 and self.spec.hidden:  # the first sample
            for k in range(len(self._copies)):
                start = entry_start((self.spec.seed, k), inputs, self.spec.hidden[0])
                for name, drawn in zip(("body.1.weight", "body.1.bias"), start, strict=True):
                    parameters[f"network.{name}"][k] = drawn.numpy()
            new.average[:] = new.params[self._averaging]
        for source, target in ((old.entry, new.entry), (old.inputs, new.inputs)):
            target[:, :n] = source
        for source, target in (
            (old.scalars, new.scalars),
            (old.copies, new.copies),
            (old.hidden, new.hidden),
            (old.target, new.target),
        ):
            target[:] = source
        new.scalars[numba_buffers.PREDICTED] = -1.0  # the latest prediction was of other sizes
        memory = np.zeros((len(old.memory_x), n + len(inputs)), self._real)
        memory[:, :n] = old.memory_x
        self._buffers = new._replace(memory_x=memory, memory_y=old.memory_y)

    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,), or the prediction, of shape (1,)."""
        predictions = np.empty((1, len(self._buffers.mixed)))
        if numba_step.predict(x.reshape(1, -1), predictions, *self._buffers) == 0:
            raise NonFiniteStateError("the network's outputs are not finite: use a smaller lr")
        row: Vector = predictions[0]
        return row

    def learn(
        self, x: Vector, targets: Vector, weights: Vector, *, predict: bool = False
    ) -> tuple[int, Vector]:
        """Learn rows in order, each its own step, up to the first that is refused."""
        predictions = np.empty((len(x), len(self._buffers.mixed))) if predict else _NO_PREDICTIONS
        if self._memory:
            self._make_room(len(x))
        rows = x if x.ndim == 2 else x.reshape(len(x), -1)
        return numba_step.learn(rows, targets, weights, predictions, *self._buffers), predictions

    def moments(self) -> dict[str, Tensor]:
        """Return the means and variances in the state: of the raw inputs, and of each layer's by copy."""
        found = {"inputs.mean": self._buffers.inputs[0], "inputs.var": self._buffers.inputs[1]}
        for layer, moments, _, _ in self._layer_moments():
            full = np.broadcast_to(moments, (2, len(self._copies), moments.shape[-1]))
            found |= {f"moments.{layer}.mean": full[0], f"moments.{layer}.var": full[1]}
        return {name: torch.from_numpy(np.array(value, order="C")) for name, value in found.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes."""
        b, count = self._buffers, len(self._copies)
        state = _moments_state("inputs", b.inputs, b.scalars[numba_buffers.INPUTS_WEIGHT], 0.0)
        if self.spec.task == "regression":
            state |= _moments_state("target", b.target, b.scalars[numba_buffers.TARGET_WEIGHT], 0.0)
            state["target.range"] = b.scalars[[numba_buffers.TARGET_LOW, numba_buffers.TARGET_HIGH]]
        for layer, moments, weight, prior in self._layer_moments():
            full = np.broadcast_to(moments, (2, count, moments.shape[-1]))
            state |= _moments_state(f"moments.{layer}", full, weight, prior)
        state |= self._parameters()
        if count > 1:
            state["mixture.weights"] = b.copies[numba_buffers.WEIGHT]
            state["mixture.error_scale"] = b.scalars[numba_buffers.ERROR_SCALE]
        if self._memory:
            rows = min(int(b.scalars[numba_buffers.REMEMBERED]), self._memory)
            count_ = np.array(b.scalars[numba_buffers.REMEMBERED], np.int64)
            state |= {"memory.x": b.memory_x[:rows], "memory.y": b.memory_y[:rows], "memory.count": count_}
        state["step"] = np.array(b.scalars[numba_buffers.STEP], np.int64)
        return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned, growing or shrinking to its size."""
        fresh = CompiledEngine(self.spec, torch.float64 if self._real == np.float64 else torch.float32)
        try:
            fresh._take({name: tensor.numpy() for name, tensor in state.items()})
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"the state does not fit this network: {error}") from error
        taken = fresh.state_dict()
        if taken.keys() != state.keys() or any(taken[k].shape != state[k].shape for k in taken):
            raise StateError("the state does not fit this network: it has other tensors")
        self._buffers = fresh._buffers

    def _take(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Fill a fresh engine."""
        for name, value in state.items():
            if name.startswith(_MOMENTS) and name.endswith("weight") and not (value >= 0.0).all():
                raise ValueError(f"{name} is negative")
        self._allocate(len(state["inputs.mean"]), state["network.head.bias"].shape[1])
        b = self._buffers
        b.inputs[:] = state["inputs.mean"], state["inputs.var"]
        b.scalars[numba_buffers.INPUTS_WEIGHT] = state["inputs.weight"]
        if self.spec.task == "regression":
            b.target[:] = state["target.mean"], state["target.var"]
            b.scalars[numba_buffers.TARGET_WEIGHT] = state["target.weight"]
            b.scalars[[numba_buffers.TARGET_LOW, numba_buffers.TARGET_HIGH]] = state["target.range"]
        for name, part in self._parameters().items():
            part[:] = state[name]
        for i, (layer, moments, weight, prior) in enumerate(self._layer_moments()):
            stacked = np.stack([state[f"moments.{layer}.mean"], state[f"moments.{layer}.var"]])
            moments[:] = stacked[:, : moments.shape[1]]  # one set where the copies share them
            weight[:], prior[:] = state[f"moments.{layer}.weight"], state[f"moments.{layer}.prior_weight"]
            if i == 0:
                b.scalars[[numba_buffers.ENTRY_WEIGHT, numba_buffers.ENTRY_PRIOR]] = weight[0], prior[0]
        if len(self._copies) > 1:
            b.copies[numba_buffers.WEIGHT] = state["mixture.weights"]
            b.scalars[numba_buffers.ERROR_SCALE] = state["mixture.error_scale"]
        if self._memory:
            b.scalars[numba_buffers.REMEMBERED] = state["memory.count"]
            memory_x, memory_y = state["memory.x"].astype(self._real), state["memory.y"].astype(np.float64)
            self._buffers = b._replace(memory_x=memory_x, memory_y=memory_y)
        b.scalars[numba_buffers.STEP] = state["step"]

    def _layer_moments(self) -> Iterator[tuple[str, Reals, NDArray[np.float64], NDArray[np.float64]]]:
        """Yield each layer's name, its moments (2, M or 1, n), and by copy their weight and pseudo-sample."""
        b, count = self._buffers, len(self._copies)
        first, *later = self._layers()
        weight, prior = (
            np.full(count, b.scalars[i]) for i in (numba_buffers.ENTRY_WEIGHT, numba_buffers.ENTRY_PRIOR)
        )
        yield first, b.entry[:, None], weight, prior
        start = 0
        for layer, width in zip(later, self.spec.hidden, strict=True):
            part = b.hidden[:, :, start : start + width]
            yield layer, part, b.copies[numba_buffers.HIDDEN_WEIGHT], b.copies[numba_buffers.HIDDEN_PRIOR]
            start += width

    def _make_room(self, rows: int) -> None:
        """Let the memory grow towards its capacity, by a quarter at a time."""
        old = self._buffers
        have, need = len(old.memory_y), int(old.scalars[numba_buffers.REMEMBERED]) + rows
        if have < min(need, self._memory):
            size = min(max(need, have + have // 4), self._memory)
            memory_x, memory_y = np.zeros((size, old.memory_x.shape[1]), self._real), np.zeros((size, 2))
            memory_x[:have], memory_y[:have] = old.memory_x, old.memory_y
            self._buffers = old._replace(memory_x=memory_x, memory_y=memory_y)

    def _layers(self) -> list[str]:
        return [*(f"body.{2 * i + 1}" for i in range(len(self.spec.hidden))), "head"]

    def _parameters(self) -> dict[str, Reals]:
        """Return views of the copies' parameters and of their running means, by their names in the state."""
        named = self._views("network", self._buffers.params)
        if self._averaging:
            named |= self._views("average", self._buffers.average)
        return named

    def _views(self, prefix: str, rows: Reals) -> dict[str, Reals]:
        """Return views of weights, (M, outputs, inputs), and biases, (M, outputs), in rows of numbers."""
        views: dict[str, Reals] = {}
        offset = 0
        for layer, (n, m) in zip(self._layers(), _pairs(self._buffers.sizes.tolist()), strict=True):
            weight, offset = rows[:, offset : offset + n * m], offset + n * m
            views[f"{prefix}.{layer}.weight"] = weight.reshape(len(rows), m, n)
            views[f"{prefix}.{layer}.bias"], offset = rows[:, offset : offset + m], offset + m
        return views


#: The precisions for which this process has the kernels.
_COMPILED: set[np.dtype[Any]] = set()


def _compile(b: Buffers) -> None:
    """Compile the kernels, or load them from the cache, by calling them with no rows."""
    if b.params.dtype not in _COMPILED:
        rows, column = np.zeros((0, len(b.entry[0]))), np.zeros(0)
        with announced():
            numba_step.learn(rows, column, column, _NO_PREDICTIONS, *b)
            numba_step.predict(rows, _NO_PREDICTIONS, *b)
        _COMPILED.add(b.params.dtype)


def _pairs(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(sizes)


def _moments(shape: tuple[int, ...], real: np.dtype[Any]) -> Reals:
    """Return the start of running moments: means 0, variances 1."""
    return np.stack([np.zeros(shape, real), np.ones(shape, real)])


def _moments_state(prefix: str, moments: Reals, weight: Any, prior: Any) -> dict[str, NDArray[Any]]:
    """Return running moments under the names that `RunningMoments.state_dict` gives them."""
    return {
        f"{prefix}.mean": moments[0],
        f"{prefix}.var": moments[1],
        f"{prefix}.weight": np.asarray(weight, np.float64),
        f"{prefix}.prior_weight": np.asarray(prior, np.float64),
    }
