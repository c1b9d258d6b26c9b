"""Engine of multilayer perceptrons on the CPU, compiled by numba: all members in one call."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigurationError, NonFiniteStateError
from ..jit import announced
from ..network import entry_start, mlp_start
from ..values import Vector
from . import numba_step
from .base import NOT_FINITE, Engine, LearnerSpec
from .numba_kernels import GELU, NONE, NORM, PAPER, RELU, TANH, Reals
from .numba_step import Buffers

_ACTIVATIONS = {"relu": RELU, "tanh": TANH, "gelu": GELU}
_STEP_SCALES = {"norm": NORM, "paper": PAPER, "none": NONE}
_MOMENTS = ("inputs.", "target.", "moments.")
_NO_PREDICTIONS = np.zeros((0, 0))


class NumbaEngine(Engine):
    """Learner with a multilayer perceptron, in flat arrays (`Buffers`).

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner; ``spec.network`` is ``"mlp"``.
    dtype : torch.dtype
        float32, or float64 for tests of exactness.
    """

    name = "numba"
    device = "cpu"

    def __init__(self, spec: LearnerSpec, dtype: torch.dtype = torch.float32) -> None:
        self.spec = spec
        self._real = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
        self._members = spec.members
        self._memory = spec.memory if spec.replayed else 0
        self._averaging = [k for k, each in enumerate(self._members) if each.averages]
        self._inputs = 0 if spec.input_shape is None else math.prod(spec.input_shape)
        if self._real not in _COMPILED:
            _compile(self._buffers)

    @functools.cached_property
    def _buffers(self) -> Buffers:
        """Return the arrays of an untrained learner, with initial parameters.

        The first sample, or a state, replaces them by larger ones. A learner that is never used has none.
        """
        made = self._allocate(self._inputs, 0)
        parameters = self._parameters(made)
        for k in range(len(self._members)):
            for name, drawn in mlp_start(self.spec.hidden, (self.spec.seed, k), self._inputs):
                parameters[f"network.{name}"][k] = drawn.numpy()
        made.average[:] = made.params[self._averaging]
        return made

    @property
    def _used(self) -> bool:
        """Whether the arrays exist."""
        return "_buffers" in vars(self)

    def _allocate(self, inputs: int, outputs: int) -> Buffers:
        """Return the arrays of an untrained learner, with zeros in place of its parameters."""
        spec, real, count = self.spec, self._real, len(self._members)
        sizes = [inputs, *spec.hidden, outputs]
        numbers = sum(n * m + m for n, m in itertools.pairwise(sizes))
        regression = spec.task == "regression"
        scalars = np.zeros(14)
        settings = [numba_step.RHO, numba_step.EPS_REL, numba_step.EPS_ABS]
        scalars[settings] = spec.rho, spec.eps_rel, spec.eps_abs
        scalars[[numba_step.ENTRY_WEIGHT, numba_step.ENTRY_PRIOR, numba_step.ERROR_SCALE]] = 1.0
        scalars[[numba_step.TARGET_LOW, numba_step.TARGET_HIGH]] = math.inf, -math.inf
        scalars[numba_step.PREDICTED] = -1.0
        rows = np.ones((7, count))
        rows[numba_step.RATE] = [each.rate for each in self._members]
        rows[numba_step.REPLAYS] = [each.replays for each in self._members]
        rows[numba_step.AVERAGE] = -1.0
        rows[numba_step.AVERAGE, self._averaging] = np.arange(len(self._averaging))
        rows[numba_step.WEIGHT] = 1.0 / count
        rows[numba_step.LOSS] = 0.0
        config = [
            regression,
            _ACTIVATIONS[spec.activation],
            _STEP_SCALES[spec.step_scale],
            spec.standardize,
            spec.replay,
            spec.seed,
        ]
        return Buffers(
            sizes=np.array(sizes),
            config=np.array(config, dtype=np.int64),
            scalars=scalars,
            members=rows,
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
        """Number of weights and biases of all members, without the running means."""
        return self._buffers.params.size if self._used else self.spec.parameters(0, 0)

    @property
    def mixture(self) -> NDArray[np.float64]:
        """Weights of the members, with sum 1."""
        count = len(self._members)
        return self._buffers.members[numba_step.WEIGHT].copy() if self._used else np.full(count, 1.0 / count)

    def grow(self, inputs: Sequence[str], outputs: int) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""
        if not inputs and not outputs:
            return
        if inputs and self.spec.input_shape is not None:
            raise ConfigurationError("input_shape", "a network of fixed input shape cannot grow inputs")
        old = self._buffers
        n, c = len(old.inputs[0]), len(old.mixed)
        new = self._allocate(n + len(inputs), c + outputs)
        before, parameters = self._parameters(old), self._parameters(new)
        for name, part in parameters.items():
            part[tuple(slice(size) for size in before[name].shape)] = before[name]
            if outputs and c and name.endswith("head.bias"):
                part[:, c:] = part[:, :c].min(axis=1, keepdims=True)
        if inputs and c == 0 and self.spec.hidden:  # the first sample
            for k in range(len(self._members)):
                start = entry_start((self.spec.seed, k), inputs, self.spec.hidden[0])
                for name, drawn in zip(("body.1.weight", "body.1.bias"), start, strict=True):
                    parameters[f"network.{name}"][k] = drawn.numpy()
            new.average[:] = new.params[self._averaging]
        new.entry[:, :n], new.inputs[:, :n] = old.entry, old.inputs
        new.scalars[:], new.members[:] = old.scalars, old.members
        new.hidden[:], new.target[:] = old.hidden, old.target
        new.scalars[numba_step.PREDICTED] = -1.0  # the latest prediction had other sizes
        memory = np.zeros((len(old.memory_x), n + len(inputs)), self._real)
        memory[:, :n] = old.memory_x
        self._buffers = new._replace(memory_x=memory, memory_y=old.memory_y)

    def snapshot(self) -> Any:
        """Return what `restore` needs to undo growth; valid until a row is learned."""
        return self._buffers  # growth allocates new ones

    def restore(self, snapshot: Any) -> None:
        """Undo growth, and refused steps, since `snapshot`: the state has equal bits."""
        self._buffers = snapshot

    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,), or the prediction, of shape (1,)."""
        predictions = np.empty((1, len(self._buffers.mixed)))
        if numba_step.predict(x.reshape(1, -1), predictions, *self._buffers) == 0:
            raise NonFiniteStateError(NOT_FINITE)
        row: Vector = predictions[0]
        return row

    def learn(
        self, x: Vector, targets: Vector, weights: Vector, *, predict: bool = False
    ) -> tuple[int, Vector]:
        """Learn rows in order, one step each, up to the first refused row."""
        predictions = np.empty((len(x), len(self._buffers.mixed))) if predict else _NO_PREDICTIONS
        if self._memory:
            self._extend_memory(len(x))
        rows = x if x.ndim == 2 else x.reshape(len(x), -1)
        return numba_step.learn(rows, targets, weights, predictions, *self._buffers), predictions

    def moments(self) -> dict[str, Tensor]:
        """Return means and variances in the state: of the raw inputs, and of each layer by member."""
        found = {"inputs.mean": self._buffers.inputs[0], "inputs.var": self._buffers.inputs[1]}
        for layer, moments, _, _ in self._layer_moments():
            full = np.broadcast_to(moments, (2, len(self._members), moments.shape[-1]))
            found |= {f"moments.{layer}.mean": full[0], f"moments.{layer}.var": full[1]}
        return {name: torch.from_numpy(np.array(value, order="C")) for name, value in found.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes, on the CPU."""
        b, count = self._buffers, len(self._members)
        state = _moments_state("inputs", b.inputs, b.scalars[numba_step.INPUTS_WEIGHT], 0.0)
        if self.spec.task == "regression":
            state |= _moments_state("target", b.target, b.scalars[numba_step.TARGET_WEIGHT], 0.0)
            state["target.range"] = b.scalars[[numba_step.TARGET_LOW, numba_step.TARGET_HIGH]]
        for layer, moments, weight, prior in self._layer_moments():
            full = np.broadcast_to(moments, (2, count, moments.shape[-1]))
            state |= _moments_state(f"moments.{layer}", full, weight, prior)
        state |= self._parameters(b)
        if count > 1:
            state["mixture.weights"] = b.members[numba_step.WEIGHT]
            state["mixture.error_scale"] = b.scalars[numba_step.ERROR_SCALE]
        if self._memory:
            rows = min(int(b.scalars[numba_step.REMEMBERED]), self._memory)
            count_ = np.array(b.scalars[numba_step.REMEMBERED], np.int64)
            state |= {"memory.x": b.memory_x[:rows], "memory.y": b.memory_y[:rows], "memory.count": count_}
        state["step"] = np.array(b.scalars[numba_step.STEP], np.int64)
        return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}

    def _untrained(self) -> Self:
        dtype = torch.float64 if self._real == np.float64 else torch.float32
        return type(self)(self.spec, dtype)

    def _adopt(self, fresh: Self) -> None:
        self._buffers = fresh._buffers

    def _read(self, state: Mapping[str, Tensor]) -> None:
        self._copy({name: tensor.numpy() for name, tensor in state.items()})

    def _copy(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Copy a state into the arrays."""
        for name, value in state.items():
            if name.startswith(_MOMENTS) and name.endswith("weight") and not (value >= 0.0).all():
                raise ValueError(f"{name} is negative")
        b = self._buffers = self._allocate(len(state["inputs.mean"]), state["network.head.bias"].shape[1])
        b.inputs[:] = state["inputs.mean"], state["inputs.var"]
        b.scalars[numba_step.INPUTS_WEIGHT] = state["inputs.weight"]
        if self.spec.task == "regression":
            b.target[:] = state["target.mean"], state["target.var"]
            b.scalars[numba_step.TARGET_WEIGHT] = state["target.weight"]
            b.scalars[[numba_step.TARGET_LOW, numba_step.TARGET_HIGH]] = state["target.range"]
        for name, part in self._parameters(b).items():
            part[:] = state[name]
        for i, (layer, moments, weight, prior) in enumerate(self._layer_moments()):
            stacked = np.stack([state[f"moments.{layer}.mean"], state[f"moments.{layer}.var"]])
            moments[:] = stacked[:, : moments.shape[1]]  # one set where the members share them
            weight[:], prior[:] = state[f"moments.{layer}.weight"], state[f"moments.{layer}.prior_weight"]
            if i == 0:
                b.scalars[[numba_step.ENTRY_WEIGHT, numba_step.ENTRY_PRIOR]] = weight[0], prior[0]
        if len(self._members) > 1:
            b.members[numba_step.WEIGHT] = state["mixture.weights"]
            b.scalars[numba_step.ERROR_SCALE] = state["mixture.error_scale"]
        if self._memory:
            b.scalars[numba_step.REMEMBERED] = state["memory.count"]
            memory_x, memory_y = state["memory.x"].astype(self._real), state["memory.y"].astype(np.float64)
            self._buffers = b._replace(memory_x=memory_x, memory_y=memory_y)
        b.scalars[numba_step.STEP] = state["step"]

    def _layer_moments(self) -> Iterator[tuple[str, Reals, NDArray[np.float64], NDArray[np.float64]]]:
        """Yield the name of each layer, its moments (2, M or 1, n), and their weights by member."""
        b, count = self._buffers, len(self._members)
        first, *later = self.spec.layers
        weight, prior = (
            np.full(count, b.scalars[i]) for i in (numba_step.ENTRY_WEIGHT, numba_step.ENTRY_PRIOR)
        )
        yield first, b.entry[:, None], weight, prior
        start = 0
        for layer, width in zip(later, self.spec.hidden, strict=True):
            part = b.hidden[:, :, start : start + width]
            yield layer, part, b.members[numba_step.HIDDEN_WEIGHT], b.members[numba_step.HIDDEN_PRIOR]
            start += width

    def _extend_memory(self, rows: int) -> None:
        """Extend the replay buffer for `rows` more samples, by a quarter at least, up to its capacity."""
        old = self._buffers
        have, need = len(old.memory_y), int(old.scalars[numba_step.REMEMBERED]) + rows
        if have < min(need, self._memory):
            size = min(max(need, have + have // 4), self._memory)
            memory_x, memory_y = np.zeros((size, old.memory_x.shape[1]), self._real), np.zeros((size, 2))
            memory_x[:have], memory_y[:have] = old.memory_x, old.memory_y
            self._buffers = old._replace(memory_x=memory_x, memory_y=memory_y)

    def _parameters(self, b: Buffers) -> dict[str, Reals]:
        """Return views of the parameters and of their running means, by their names in the state."""
        named = self._views("network", b.params, b.sizes.tolist())
        if self._averaging:
            named |= self._views("average", b.average, b.sizes.tolist())
        return named

    def _views(self, prefix: str, rows: Reals, sizes: list[int]) -> dict[str, Reals]:
        """Return views of weights, (M, outputs, inputs), and biases, (M, outputs), in rows of parameters."""
        views: dict[str, Reals] = {}
        offset = 0
        for layer, (n, m) in zip(self.spec.layers, itertools.pairwise(sizes), strict=True):
            weight, offset = rows[:, offset : offset + n * m], offset + n * m
            views[f"{prefix}.{layer}.weight"] = weight.reshape(len(rows), m, n)
            views[f"{prefix}.{layer}.bias"], offset = rows[:, offset : offset + m], offset + m
        return views


#: Precisions whose kernels this process has compiled.
_COMPILED: set[np.dtype[Any]] = set()


def _compile(b: Buffers) -> None:
    """Compile the kernels, or load them from the cache, by a call without rows."""
    rows, column = np.zeros((0, len(b.entry[0]))), np.zeros(0)
    with announced():
        numba_step.learn(rows, column, column, _NO_PREDICTIONS, *b)
        numba_step.predict(rows, _NO_PREDICTIONS, *b)
    _COMPILED.add(b.params.dtype)


def _moments(shape: tuple[int, ...], real: np.dtype[Any]) -> Reals:
    """Return initial running moments: means 0, variances 1."""
    return np.stack([np.zeros(shape, real), np.ones(shape, real)])


def _moments_state(prefix: str, moments: Reals, weight: Any, prior: Any) -> dict[str, NDArray[Any]]:
    """Return running moments by their names in the state."""
    return {
        f"{prefix}.mean": moments[0],
        f"{prefix}.var": moments[1],
        f"{prefix}.weight": np.asarray(weight, np.float64),
        f"{prefix}.prior_weight": np.asarray(prior, np.float64),
    }
