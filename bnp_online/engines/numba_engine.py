"""Engine of multilayer perceptrons on the CPU, compiled by numba: all members in one call."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigurationError, NonFiniteStateError
from ..jit import announced, compile_elsewhere
from ..mixture import ETAS, FIRST_VALUES, STACK_TRACE
from ..network import entry_start, mlp_start
from ..threads import threads
from ..values import Flag, Vector
from . import explanation, numba_step
from .base import INPUT_CLIP, NOT_FINITE, Engine, Explained, LearnerSpec
from .explanation import ORDERS, QUICK_ORDERS
from .novelty import distances, standardized, tail_probability
from .numba_bins import BINS
from .numba_buffers import (
    ACTIVATION,
    AVERAGE,
    BOUNDED_VALUES,
    CAPACITY,
    CLASSES,
    CLIPPED,
    COEFFICIENTS,
    ENTRY_PRIOR,
    ENTRY_WEIGHT,
    EPS_ABS,
    EPS_REL,
    ERROR_SCALE,
    FACTS,
    FIRST,
    HIDDEN_PRIOR,
    HIDDEN_WEIGHT,
    INPUTS_WEIGHT,
    INVERSE,
    JOINED,
    LARGEST,
    METRIC,
    METRIC_OF,
    MISSING,
    MISSING_VALUES,
    NEIGHBOURS,
    OF_STEP,
    PREDICTED,
    RATE,
    RAW,
    REGRESSION,
    REMEMBERED,
    REPLAY,
    REPLAYS,
    RHO,
    RUN,
    SEED,
    STANDARDIZED,
    STEP,
    STEP_SCALE,
    TARGET_HIGH,
    TARGET_LOW,
    TARGET_WEIGHT,
    VALUES,
    VAR,
    WEIGHT,
    WEIGHTS,
    Buffers,
)
from .numba_kernels import BLOCK, GELU, NONE, NORM, PAPER, RELU, TANH, Reals, padded
from .numba_step import ADVANCE, FINISH

_ACTIVATIONS = {"relu": RELU, "tanh": TANH, "gelu": GELU}
_STEP_SCALES = {"norm": NORM, "paper": PAPER, "none": NONE}
_MOMENTS = ("inputs.", "target.", "moments.")
#: Rows of the bounds of values, by their names in the state.
_BOUNDS = {"values": VALUES, "largest": LARGEST, "joined": JOINED, "clipped": CLIPPED}
#: Arrays whose sizes do not depend on the inputs, and that a step changes.
_COPIED = ("scalars", "trajectories", "hidden", "target", "hedge", "stack")
#: Bytes of a cache line.
_LINE = 64
_NO_PREDICTIONS, _NOTHING_GIVEN = np.zeros((0, 0)), np.zeros((0, 0, 0))
#: Flag of a call without pauses.
_NO_PAUSE = np.zeros(1, np.int64)
#: All parts of `numba_step.learn`.
_WHOLE = np.zeros(5, np.int64)
#: Inputs, targets, weights, earlier predictions and predictions of no rows, their flag, and all parts.
NO_ROWS = (np.zeros((0, 0)), np.zeros(0), np.zeros(0), _NOTHING_GIVEN, _NO_PREDICTIONS, _NO_PAUSE, _WHOLE)
#: Least number of parameters of a mixture that learns several rows in a run: those of a smaller one are in
#: the cache anyway.
LEAST_PARAMETERS = 200_000


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
        self._memory, self._stacks = spec.remembered, spec.stacks
        self._averaging = [k for k, each in enumerate(self._members) if each.averages]
        self._inputs = 0 if spec.input_shape is None else math.prod(spec.input_shape)
        self._explaining: tuple[Buffers | None, int, explanation.Space] = None, 0, ()
        if self._real not in _LOADED:
            _load(self._buffers)

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
        numbers = sum(padded(n) * m + padded(m) for n, m in itertools.pairwise(sizes))
        experts = len(spec.experts)
        coefficients = experts + 1 if spec.stacks else 0
        bins = spec.binned(inputs)
        b = Buffers(
            sizes=np.array(sizes),
            config=self._config(),
            scalars=_scalars(spec),
            trajectories=self._trajectories(),
            params=_aligned((count, numbers), real),
            average=_aligned((len(self._averaging), numbers), real),
            linear=_aligned((len(spec.linear), padded(inputs) * outputs + padded(outputs)), real),
            hidden=_hidden_moments(count, spec.hidden, real),
            entry=np.zeros((5, inputs), real),
            inputs=np.zeros((FIRST + FIRST_VALUES if spec.bounds else FIRST, inputs)),
            target=np.zeros((FIRST + FIRST_VALUES if spec.bounds else FIRST, 1)),
            memory_x=_aligned((0, inputs, BLOCK), real),
            memory_y=np.zeros((0, 4 if spec.neighbours else 2)),
            hedge=np.zeros((WEIGHTS + len(ETAS) * spec.stacks, experts + 2)),
            stack=np.zeros((INVERSE + coefficients, coefficients)),
            outputs=np.zeros((experts + coefficients + 3, outputs)),
            distances=np.zeros((3, 0), real),
            nearest=np.zeros((4, 10)),
            bins=_aligned((bins + 1 if spec.bins else 0, padded(outputs + 1)), real),
            **self._space(sizes),
        )
        b.entry[[VAR, METRIC]] = 1.0
        b.hedge[WEIGHT, :experts], b.hedge[WEIGHT, experts:] = 1.0 / experts, 0.5
        b.hedge[WEIGHTS:, :experts] = 1.0 / experts
        np.fill_diagonal(b.stack[INVERSE:], STACK_TRACE)
        return b

    def _space(self, sizes: Sequence[int]) -> dict[str, Any]:
        """Return the arrays of a run, and working space."""
        spec, real, (inputs, *hidden, outputs) = self.spec, self._real, sizes
        rows, steps = 1, 1 + spec.replayed
        if spec.mixes and spec.parameters(inputs, outputs) >= LEAST_PARAMETERS:
            rows = RUN
        room = sum(map(padded, hidden)) + padded(outputs)
        places = room + spec.binned(inputs) + 1
        return {
            "entered": _aligned((rows, 1 + 2 * steps, padded(inputs)), real),
            "facts": np.zeros((rows, FACTS + OF_STEP * steps)),
            "found": np.zeros((rows, len(spec.experts), outputs)),
            "lost": np.zeros((rows, len(self._members) + len(spec.linear)), np.bool_),
            "common": _aligned((3, max(padded(inputs), padded(outputs + 1))), real),
            "scratch": _aligned((threads(), 7, room), real),
            "live": np.zeros((threads(), places), np.int64),
        }

    def _config(self) -> NDArray[np.int64]:
        spec = self.spec
        config = np.zeros(10, np.int64)
        config[REGRESSION] = spec.task == "regression"
        config[ACTIVATION], config[STEP_SCALE] = _ACTIVATIONS[spec.activation], _STEP_SCALES[spec.step_scale]
        config[STANDARDIZED], config[REPLAY], config[SEED] = spec.standardize, spec.replay, spec.seed
        config[BOUNDED_VALUES], config[NEIGHBOURS] = spec.bounds, spec.neighbours
        config[METRIC_OF], config[CAPACITY] = spec.metric_of, self._memory
        return config

    def _trajectories(self) -> NDArray[np.float64]:
        members, linear = self._members, self.spec.linear
        rows = np.ones((6, len(members) + len(linear)))
        rows[RATE] = [*(each.rate for each in members), *linear]
        rows[REPLAYS] = 0.0
        rows[REPLAYS, : len(members)] = [each.replays for each in members]
        rows[RAW, : len(members)] = [each.latest for each in members]
        rows[AVERAGE] = -1.0
        rows[AVERAGE, self._averaging] = np.arange(len(self._averaging))
        return rows

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of all members, without the running means."""
        sizes = self._buffers.sizes.tolist() if self._used else [0]
        return self.spec.parameters(sizes[0], sizes[-1])

    @property
    def mixture(self) -> NDArray[np.float64]:
        """Weights of the experts, with sum 1."""
        count = len(self.spec.experts)
        return self._buffers.hedge[WEIGHT, :-2].copy() if self._used else np.full(count, 1.0 / count)

    @property
    def stack_share(self) -> float:
        """Share of the stack in the prediction; the hedge has the rest."""
        if not self.spec.stacks:
            return 0.0
        return float(self._buffers.hedge[WEIGHT, -1]) if self._used else 0.5

    def grow(self, inputs: Sequence[str], outputs: int, *, scaled: int = 0, unknown: bool = False) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""
        if not inputs and not outputs:
            return
        if inputs and self.spec.input_shape is not None:
            raise ConfigurationError("input_shape", "a network of fixed input shape cannot grow inputs")
        old = self._buffers
        n = old.inputs.shape[1]
        if not outputs and 0 < n + len(inputs) <= padded(n):
            new = self._with_spare_columns(n + len(inputs))
        else:
            new = self._moved(inputs, outputs)
        new.entry[:, :n], new.inputs[:, :n] = old.entry, old.inputs
        new.inputs[JOINED, n:] = 0.0 if unknown else old.scalars[INPUTS_WEIGHT]
        if scaled:
            rows = [VAR, VALUES, LARGEST]
            new.inputs[rows, new.inputs.shape[1] - scaled :] = np.array([[1.0], [FIRST_VALUES], [INPUT_CLIP]])
        for name in _COPIED:
            getattr(new, name)[:] = getattr(old, name)
        new.scalars[PREDICTED] = -1.0  # the latest prediction had other sizes
        self._buffers = new._replace(memory_x=old.memory_x, memory_y=old.memory_y, distances=old.distances)
        self._widen_memory(len(inputs), unknown=unknown)

    def _widen_memory(self, inputs: int, *, unknown: bool) -> None:
        """Make room for more inputs in the memory, after growth; spare columns save most of the copies."""
        b = self._buffers
        memory, width = b.memory_x, b.inputs.shape[1]
        if width > memory.shape[1] or unknown:
            spare = width // 2 if len(memory) else 0
            memory = _aligned((len(b.memory_x), width + spare, BLOCK), self._real)
            memory[:, : width - inputs] = b.memory_x[:, : width - inputs]
            self._buffers = b._replace(memory_x=memory)
        if unknown and self.spec.neighbours:
            places = np.arange(min(int(b.scalars[REMEMBERED]), self._memory))
            memory[places // BLOCK, width - inputs : width, places % BLOCK] = math.nan
            memory_y = b.memory_y.copy()
            memory_y[places, MISSING] += inputs
            b.scalars[MISSING_VALUES] += len(places) * inputs
            self._buffers = self._buffers._replace(memory_y=memory_y)

    def _moved(self, inputs: Sequence[str], outputs: int) -> Buffers:
        """Return new arrays for more inputs and outputs, with the parameters."""
        old = self._buffers
        n, c = old.inputs.shape[1], old.outputs.shape[1]
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
        return new

    def _with_spare_columns(self, inputs: int) -> Buffers:
        """Return arrays for more inputs, whose parameters are in the padding of the present ones, at 0."""
        old = self._buffers
        sizes, bins = old.sizes.copy(), self.spec.binned(inputs)
        sizes[0] = inputs
        of_bins = old.bins
        if self.spec.bins and len(of_bins) < bins + 1:
            of_bins = _aligned((bins + 1, of_bins.shape[1]), self._real)
            of_bins[: len(old.bins)] = old.bins
        entry = np.zeros((len(old.entry), inputs), self._real)
        entry[[VAR, METRIC]] = 1.0
        return old._replace(
            sizes=sizes,
            **{name: np.empty_like(getattr(old, name)) for name in _COPIED},
            entry=entry,
            inputs=np.zeros((len(old.inputs), inputs)),
            outputs=np.zeros_like(old.outputs),
            nearest=np.zeros_like(old.nearest),
            bins=of_bins,
            **self._space(sizes.tolist()),
        )

    def clipped(self) -> tuple[Vector, Vector]:
        """Return the numbers of values of each input, and of those that were clipped."""
        return self._buffers.inputs[VALUES].copy(), self._buffers.inputs[CLIPPED].copy()

    def snapshot(self) -> Any:
        """Return what `restore` needs to undo growth; valid until a row is learned."""
        return self._buffers  # growth allocates new ones

    def restore(self, snapshot: Any) -> None:
        """Undo growth, and refused steps, since `snapshot`: the state has equal bits."""
        self._buffers = snapshot

    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,), or the prediction, of shape (1,)."""
        predictions = np.empty((1, self._buffers.outputs.shape[1]))
        if numba_step.predict(x.reshape(1, -1), predictions, *self._buffers) == 0:
            raise NonFiniteStateError(NOT_FINITE)
        row: Vector = predictions[0]
        return row

    def predict_rows(self, x: Vector) -> Vector:
        """Return the predictions of rows, of shape (N, outputs)."""
        predictions = np.empty((len(x), self._buffers.outputs.shape[1]))
        if numba_step.predict(x.reshape(len(x), -1), predictions, *self._buffers) < len(x):
            raise NonFiniteStateError(NOT_FINITE)
        return predictions

    def experts(self, x: Vector) -> Vector:
        """Return the predictions of the experts, of shape (K, outputs); NaN where one has none."""
        self.predict(x)  # at once, if it is the latest prediction
        outputs: Vector = self._buffers.outputs[: self._buffers.hedge.shape[1] - 2].copy()
        return outputs

    def explain(
        self, x: Vector, groups: NDArray[np.int64], count: int, label: int = -1, *, quick: bool = False
    ) -> Explained:
        """Return how much each group of inputs moved the prediction."""
        b, orders = self._buffers, QUICK_ORDERS if quick else ORDERS
        known, of, space = self._explaining
        if known is not b or of != count:
            space = explanation.working_space(b, count)
            self._explaining = b, count, space
        return explanation.explain(b, space, x.reshape(-1), groups, count, label, orders)

    def prepare_explanations(self) -> None:
        """Load the kernel of explanations."""
        explanation.prepare(self._real, lambda: self._buffers)

    def novelty(self, x: Vector) -> float:
        """Return the tail probability of an input."""
        b = self._buffers
        mean, var = b.inputs[:2]
        remembered = b.memory_x[:, : len(mean)]
        if not self.spec.standardize:
            remembered = (remembered - mean[:, None]) / np.sqrt(np.where(var > 0.0, var, math.inf))[:, None]
        count = min(int(b.scalars[REMEMBERED]), self._memory)
        z = standardized(x.reshape(-1), mean, var)
        return tail_probability(z, distances(remembered, 1).reshape(-1)[:count])

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
        b = self.with_room(len(x))
        predictions = np.empty((len(x), b.outputs.shape[1])) if predict else _NO_PREDICTIONS
        rows = x if x.ndim == 2 else x.reshape(len(x), -1)
        known = _NOTHING_GIVEN if given is None or not self._stacks else given
        flag = _NO_PAUSE if pause is None else pause
        if len(b.scratch) == 1 or len(b.found) == 1:
            done = numba_step.learn(rows, targets, weights, known, predictions, flag, _WHOLE, *b)
        else:
            learn = functools.partial(numba_step.learn, rows, targets, weights, known, predictions, flag)
            done = self._learn_in_threads(learn, len(x), flag)
        return done, predictions

    def with_room(self, rows: int) -> Buffers:
        """Return the arrays, whose memory has room for some rows."""
        if self._memory:
            self._extend_memory(rows)
        return self._buffers

    def _learn_in_threads(self, learn: Callable[..., int], count: int, pause: Flag) -> int:
        """Do what `numba_step.learn` does, with the trajectories of each run divided among threads."""
        b, start = self._buffers, 0
        pool = pool_of(len(b.scratch), os.getpid())
        # Those with most to do first.
        order = sorted(range(1, b.trajectories.shape[1]), key=lambda k: -float(b.trajectories[REPLAYS, k]))

        def advance(thread: int, waiting: Iterator[int], rows: int) -> None:
            for k in waiting:
                learn(np.array([ADVANCE, start, rows, k, thread]), *b)

        while start < count and (start == 0 or not pause[0]):
            rows = learn(np.array([ADVANCE, start, min(len(b.entered), count - start), 0, 0]), *b)
            if rows == 0:
                break
            waiting = iter(order)
            others = [pool.submit(advance, thread, waiting, rows) for thread in range(1, len(b.scratch))]
            advance(0, waiting, rows)
            for other in others:
                other.result()
            learn(np.array([FINISH, start, rows, 0, 0]), *b)
            start += rows
        return start

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
        state = _moments_state("inputs", b.inputs, b.scalars[INPUTS_WEIGHT], 0.0)
        if self.spec.task == "regression":
            state |= _moments_state("target", b.target, b.scalars[TARGET_WEIGHT], 0.0)
            state["target.range"] = b.scalars[[TARGET_LOW, TARGET_HIGH]]
        for layer, moments, weight, prior in self._layer_moments():
            full = np.broadcast_to(moments, (2, count, moments.shape[-1]))
            state |= _moments_state(f"moments.{layer}", full, weight, prior)
        state |= self._parameters(b) | self._experts_state() | self._bounds_state()
        if self._memory:
            rows = min(int(b.scalars[REMEMBERED]), self._memory)
            x = b.memory_x[:, : b.inputs.shape[1]]
            state |= {"memory.x": _rows_of(x, rows), "memory.y": b.memory_y[:rows]}
            state["memory.count"] = np.array(b.scalars[REMEMBERED], np.int64)
        state["step"] = np.array(b.scalars[STEP], np.int64)
        return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}

    def _experts_state(self) -> dict[str, NDArray[Any]]:
        """Return the state of the mixture by name."""
        b, state = self._buffers, dict[str, NDArray[Any]]()
        if self.spec.mixes:
            state["mixture.weights"] = b.hedge[WEIGHTS:, :-2] if self.spec.stacks else b.hedge[WEIGHT, :-2]
            state["mixture.error_scale"] = b.scalars[ERROR_SCALE]
        if self.spec.stacks:
            state["mixture.shares"] = b.hedge[WEIGHT, -2:]
            state["stack.coefficients"], state["stack.inverse"] = b.stack[COEFFICIENTS], b.stack[INVERSE:]
        if self.spec.neighbours:
            state["neighbours.metric"] = b.entry[METRIC]
        return state

    def _bounds_state(self) -> dict[str, NDArray[Any]]:
        """Return the state of the bounds of values by name."""
        state = dict[str, NDArray[Any]]()
        kinds = ("inputs", "target") if self.spec.task == "regression" else ("inputs",)
        for kind in kinds if self.spec.bounds else ():
            columns = getattr(self._buffers, kind)
            counted = np.arange(FIRST_VALUES)[:, None] < columns[VALUES]
            state[f"bounds.{kind}.first"] = np.where(counted, columns[FIRST:], 0.0)
            for name, row in _BOUNDS.items():
                state[f"bounds.{kind}.{name}"] = columns[row]
        return state

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
        b.inputs[:2] = state["inputs.mean"], state["inputs.var"]
        b.scalars[INPUTS_WEIGHT] = state["inputs.weight"]
        if self.spec.task == "regression":
            b.target[:2] = state["target.mean"], state["target.var"]
            b.scalars[TARGET_WEIGHT] = state["target.weight"]
            b.scalars[[TARGET_LOW, TARGET_HIGH]] = state["target.range"]
        for name, part in self._parameters(b).items():
            part[:] = state[name]
        for i, (layer, moments, weight, prior) in enumerate(self._layer_moments()):
            stacked = np.stack([state[f"moments.{layer}.mean"], state[f"moments.{layer}.var"]])
            moments[:] = stacked[:, : moments.shape[1]]  # one set where the members share them
            weight[:], prior[:] = state[f"moments.{layer}.weight"], state[f"moments.{layer}.prior_weight"]
            if i == 0:
                b.scalars[[ENTRY_WEIGHT, ENTRY_PRIOR]] = weight[0], prior[0]
        self._copy_experts(state)
        b.scalars[STEP] = state["step"]
        b.scalars[CLASSES] = b.outputs.shape[1] if self.spec.task == "classification" else 0.0

    def _copy_experts(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Copy the state of the mixture, of the bounds of values and of the memory into the arrays."""
        b = self._buffers
        if self.spec.mixes:
            weights = state["mixture.weights"]
            if self.spec.stacks:
                b.hedge[WEIGHTS:, :-2] = weights
            b.hedge[WEIGHT, :-2] = _mean_of(weights) if self.spec.stacks else weights
            b.scalars[ERROR_SCALE] = state["mixture.error_scale"]
        if self.spec.stacks:
            b.hedge[WEIGHT, -2:] = state["mixture.shares"]
            b.stack[COEFFICIENTS], b.stack[INVERSE:] = state["stack.coefficients"], state["stack.inverse"]
        if self.spec.neighbours:
            b.entry[METRIC] = state["neighbours.metric"]
        kinds = ("inputs", "target") if self.spec.task == "regression" else ("inputs",)
        for kind in kinds if self.spec.bounds else ():
            columns = getattr(b, kind)
            columns[FIRST:] = state[f"bounds.{kind}.first"]
            for name, row in _BOUNDS.items():
                columns[row] = state[f"bounds.{kind}.{name}"]
        if self._memory:
            b.scalars[REMEMBERED] = state["memory.count"]
            x, y = state["memory.x"], state["memory.y"]
            self._reserve(len(y))
            self._buffers.memory_y[:] = y
            for start in range(0, len(x), BLOCK):
                part = x[start : start + BLOCK]
                self._buffers.memory_x[start // BLOCK, :, : len(part)] = part.T
            if self.spec.neighbours:
                b.scalars[MISSING_VALUES] = self._buffers.memory_y[:, MISSING].sum()

    def _layer_moments(self) -> Iterator[tuple[str, Reals, NDArray[np.float64], NDArray[np.float64]]]:
        """Yield the name of each layer, its moments (2, M or 1, n), and their weights by member."""
        b, count = self._buffers, len(self._members)
        first, *later = self.spec.layers
        weight, prior = (np.full(count, b.scalars[i]) for i in (ENTRY_WEIGHT, ENTRY_PRIOR))
        yield first, b.entry[:2, None], weight, prior
        start = 0
        for layer, width in zip(later, self.spec.hidden, strict=True):
            part = b.hidden[:, :, start : start + width]
            yield layer, part, b.trajectories[HIDDEN_WEIGHT, :count], b.trajectories[HIDDEN_PRIOR, :count]
            start += padded(width)

    def _extend_memory(self, rows: int) -> None:
        """Extend the memory for `rows` more samples, by a quarter at least, up to its capacity."""
        have, need = len(self._buffers.memory_y), int(self._buffers.scalars[REMEMBERED]) + rows
        if have < min(need, self._memory):
            self._reserve(min(max(need, have + have // 4), self._memory))

    def _reserve(self, size: int) -> None:
        """Allocate the memory for `size` samples."""
        old, blocks = self._buffers, -(-size // BLOCK)
        memory_x = _aligned((blocks, old.memory_x.shape[1], BLOCK), self._real)
        memory_y = np.zeros((size, old.memory_y.shape[1]))
        memory_x[: len(old.memory_x)], memory_y[: len(old.memory_y)] = old.memory_x, old.memory_y
        distances = _aligned((3, blocks * BLOCK if self.spec.neighbours else 0), self._real)
        self._buffers = old._replace(memory_x=memory_x, memory_y=memory_y, distances=distances)

    def _parameters(self, b: Buffers) -> dict[str, Reals]:
        """Return views of the parameters and of their running means, by their names in the state."""
        sizes = b.sizes.tolist()
        layers = list(zip(self.spec.layers, itertools.pairwise(sizes), strict=True))
        named = _views("network", b.params, layers)
        if self._averaging:
            named |= _views("average", b.average, layers)
        if self.spec.linear:
            named |= _views("linear", b.linear, [("head", (sizes[0], sizes[-1]))])
        if self.spec.bins:
            c, width = sizes[-1], b.bins.shape[1]
            named["bins.weight"] = b.bins[1:].reshape(-1, BINS, width)[:, :, :c]
            named |= {"bins.head.bias": b.bins[:1, :c], "bins.squares": b.bins[:, -1]}
        return named


def _views(prefix: str, rows: Reals, layers: Sequence[tuple[str, tuple[int, int]]]) -> dict[str, Reals]:
    """Return views of weights, (M, outputs, inputs), and biases, (M, outputs), in rows of parameters."""
    views: dict[str, Reals] = {}
    offset = 0
    for layer, (n, m) in layers:
        width = padded(n)
        weight, offset = rows[:, offset : offset + width * m], offset + width * m
        views[f"{prefix}.{layer}.weight"] = weight.reshape(len(rows), m, width)[:, :, :n]
        views[f"{prefix}.{layer}.bias"], offset = rows[:, offset : offset + m], offset + padded(m)
    return views


def _scalars(spec: LearnerSpec) -> NDArray[np.float64]:
    scalars = np.zeros(16)
    scalars[[RHO, EPS_REL, EPS_ABS]] = spec.rho, spec.eps_rel, spec.eps_abs
    scalars[[ENTRY_WEIGHT, ENTRY_PRIOR, ERROR_SCALE]] = 1.0
    scalars[[TARGET_LOW, TARGET_HIGH]] = math.inf, -math.inf
    scalars[PREDICTED] = -1.0
    return scalars


@functools.cache
def pool_of(count: int, process: int) -> ThreadPoolExecutor:
    """Return the threads beside the caller's, of this process: a fork has none."""
    return ThreadPoolExecutor(count - 1, thread_name_prefix="bnp-online-step")


def _mean_of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the weights of each rate, with the bits of `numba_experts`."""
    mean = np.zeros(weights.shape[1])
    for of_rate in weights:
        mean += of_rate / len(weights)
    return mean


def _rows_of(memory: Reals, count: int) -> Reals:
    """Return the samples at the first places of a memory, of shape (count, n)."""
    rows: Reals = memory.transpose(0, 2, 1).reshape(len(memory) * BLOCK, memory.shape[1])[:count]
    return rows


def _aligned(shape: tuple[int, ...], real: np.dtype[Any]) -> Reals:
    """Return zeros that begin at a cache line."""
    size = math.prod(shape)
    extra = _LINE // real.itemsize
    zeros = np.zeros(size + extra, real)
    start = -zeros.ctypes.data // real.itemsize % extra
    return zeros[start : start + size].reshape(shape)


#: Precisions whose kernels this process has loaded.
_LOADED: set[np.dtype[Any]] = set()


def _load(b: Buffers) -> None:
    """Load the kernels from the cache; if it lacks them, another process compiles them first."""
    with announced():
        statement = f"import {__name__} as engine; engine.compile_kernels({b.params.dtype.name!r})"
        compile_elsewhere(numba_step.learn, (*NO_ROWS, *b), statement)
        _run_kernels(b)
    _LOADED.add(b.params.dtype)


def compile_kernels(precision: str) -> None:
    """Compile the kernels in this process, and write them to the cache.

    Parameters
    ----------
    precision : {"float32", "float64"}
        Precision of the networks.
    """
    dtype = {"float32": torch.float32, "float64": torch.float64}[precision]
    _LOADED.add(np.dtype(precision))
    _run_kernels(NumbaEngine(LearnerSpec(task="classification"), dtype)._buffers)


def compile_explanation(precision: str) -> None:
    """Compile the kernel of explanations, as `compile_kernels`."""
    dtype = {"float32": torch.float32, "float64": torch.float64}[precision]
    explanation.run_kernel(NumbaEngine(LearnerSpec(task="classification"), dtype)._buffers)


def _run_kernels(b: Buffers) -> None:
    """Call the kernels without rows."""
    rows, targets, weights, given, predictions, pause, part = NO_ROWS
    numba_step.learn(rows, targets, weights, given, predictions, pause, part, *b)
    numba_step.predict(_NO_PREDICTIONS, _NO_PREDICTIONS, *b)


def _hidden_moments(count: int, widths: Sequence[int], real: np.dtype[Any]) -> Reals:
    """Return initial running moments of the hidden layers, padded: means 0, variances 1."""
    moments, start = _aligned((2, count, sum(map(padded, widths))), real), 0
    for width in widths:
        moments[1, :, start : start + width] = 1.0
        start += padded(width)
    return moments


def _moments_state(prefix: str, moments: Reals, weight: Any, prior: Any) -> dict[str, NDArray[Any]]:
    """Return running moments by their names in the state."""
    return {
        f"{prefix}.mean": moments[0],
        f"{prefix}.var": moments[1],
        f"{prefix}.weight": np.asarray(weight, np.float64),
        f"{prefix}.prior_weight": np.asarray(prior, np.float64),
    }
