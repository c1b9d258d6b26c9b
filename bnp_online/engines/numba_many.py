"""One compiled call for many learners: each predicts and learns a row of its own.

A call of the compiled step takes several microseconds to look at its arrays, which for a small network is
longer than the step. Here each learner has one vector with the addresses and shapes of its arrays. The loop
calls the machine code of `numba_step.learn`, by its address, with the arrays at these addresses. Compiled
once more, as a part of this loop, the same function might round differently.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numba
import numpy as np
import torch
from numba.core import cgutils as codegen_utilities
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..jit import announced, config, jit
from ..threads import threads
from ..values import Vector
from . import numba_step
from .base import LearnerSpec
from .numba_buffers import Buffers
from .numba_engine import NO_ROWS, NumbaEngine, pool_of

cgutils: Any = codegen_utilities  # it has no types
#: Learners for each thread, at least: fewer take less time than the hand-over.
_LEAST = 8


class _Vector(NamedTuple):
    """Arrays of a learner, their addresses and shapes, the address of these, and `shape_of`."""

    arrays: Buffers
    numbers: NDArray[np.int64]
    address: int
    shape: tuple[int, int, int] | None


_VECTORS: WeakKeyDictionary[NumbaEngine, _Vector] = WeakKeyDictionary()


@intrinsic
def _call_at(_typing: Any, address: Any, head: Any, body: Any, like: Any) -> Any:
    """Return the result of the compiled function at an address.

    Its arguments are arrays of the types of `like`. Address and shape of the first ones are in `head`, and of
    the others at the address `body`.
    """
    signature = types.int64(address, head, body, like)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function, heads, others, _ = values
        kinds = tuple(signature.args[3])
        integer = context.get_value_type(types.int64)
        of_head = context.make_array(signature.args[1])(context, builder, heads)
        at = of_head.data, builder.inttoptr(others, integer.as_pointer())
        first = sum(1 + kind.ndim for kind in kinds[: len(kinds) - len(Buffers._fields)])
        arguments, place = [], 0
        for kind in kinds:
            base, offset = (at[0], place) if place < first else (at[1], place - first)
            data, *shape = (
                builder.load(builder.gep(base, [integer(offset + i)])) for i in range(1 + kind.ndim)
            )
            arguments.append(_array(context, builder, kind, data, shape))
            place += 1 + kind.ndim
        kind = context.call_conv.get_function_type(types.int64, kinds)
        code = builder.inttoptr(function, kind.as_pointer())
        result = cgutils.alloca_once_value(builder, integer(0))
        error = cgutils.alloca_once(builder, kind.args[1].pointee)
        flat = context.get_arg_packer(kinds).as_arguments(builder, arguments)
        builder.call(code, [result, error, *flat])  # it raises nothing
        return builder.load(result)

    return signature, generate


_call: Any = _call_at  # its type has the parameter of the compiler


def _array(context: Any, builder: Any, kind: Any, data: Any, shape: Any) -> Any:
    """Return a contiguous array at an address."""
    integer = data.type
    made = context.make_array(kind)(context, builder)
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides: list[Any] = []
    items, step = integer(1), integer(size)
    for length in reversed(shape):
        strides.insert(0, step)
        step, items = builder.mul(step, length), builder.mul(items, length)
    made.data = builder.inttoptr(data, made.data.type)
    made.shape, made.strides = (cgutils.pack_array(builder, each) for each in (shape, strides))
    made.nitems, made.itemsize = items, integer(size)
    made.meminfo = made.parent = cgutils.get_null_value(made.meminfo.type)
    return made._getvalue()


@jit
def _learn_rows(
    function: int,
    learners: NDArray[np.int64],
    head: NDArray[np.int64],
    width: int,
    learned: NDArray[np.int64],
    like: Any,
) -> None:
    """Let learners predict and learn one row each, as `numba_step.learn`.

    Parameters
    ----------
    function : int
        Address of `numba_step.learn`.
    learners : int64 (K,)
        Addresses of the vectors of the learners.
    head : int64 (22,)
        Addresses and shapes of the other arguments for the first learner. Those of inputs, target, weight and
        prediction advance from learner to learner.
    width : int
        Number of inputs.
    learned : int64 (K,)
        Receives 1 for each row that was learned.
    like : tuple of arrays
        Arguments of `numba_step.learn`: their types matter.
    """
    outputs = head[13]
    for k in range(len(learners)):
        learned[k] = _call(function, head, learners[k], like)
        head[0] += 8 * width
        head[3] += 8
        head[5] += 8
        head[11] += 8 * outputs


def shape_of(engine: NumbaEngine) -> tuple[int, int, int] | None:
    """Return what learners must have in common to share a call; None if one must run alone.

    It is the size of a parameter and the numbers of inputs and outputs. Networks, rates and seeds may differ.
    """
    return _vector(engine, engine._buffers).shape


def learn_each(
    engines: Sequence[NumbaEngine], x: Vector, targets: Vector, weights: Vector
) -> tuple[NDArray[np.bool_], Vector]:
    """Predict a row with each learner, then let it learn the row, as `NumbaEngine.learn` with one row.

    `BNP_THREADS` threads divide the learners.

    Parameters
    ----------
    engines : sequence of NumbaEngine
        K different learners with the same `shape_of`.
    x : (K, n)
        A raw input of each.
    targets, weights : (K,)
        Targets and sample weights.

    Returns
    -------
    array of bool (K,), array of shape (K, outputs)
        Which rows were learned, and the predictions before it. A refused row changes nothing.
    """
    vectors = np.array([_vector(engine, engine.with_room(1)).address for engine in engines])
    b = engines[0]._buffers
    predictions, learned = np.empty((len(x), b.outputs.shape[1])), np.zeros(len(x), np.int64)
    function, like = _function(b.params.dtype)

    def learn(part: slice) -> None:
        _, _, _, given, _, pause, whole = NO_ROWS
        first = x[part][:1], targets[part][:1], weights[part][:1], given, predictions[part][:1], pause, whole
        _learn_rows(function, vectors[part], _addresses(first), x.shape[1], learned[part], like)

    count = max(1, min(threads(), len(x) // _LEAST))
    size = -(-len(x) // count)
    parts = [slice(start, start + size) for start in range(0, len(x), size)]
    others = [pool_of(count, os.getpid()).submit(learn, part) for part in parts[1:]]
    learn(parts[0])
    for other in others:
        other.result()
    return learned > 0, predictions


def _vector(engine: NumbaEngine, b: Buffers) -> _Vector:
    """Return the vector of a learner with these arrays."""
    found = _VECTORS.get(engine)
    if found is None or found.arrays is not b:
        numbers = _addresses(b)
        shape = b.params.itemsize, b.inputs.shape[1], b.outputs.shape[1]
        in_threads = len(b.scratch) > 1 and len(b.found) > 1  # it divides its rows among threads
        is_alone = config.DISABLE_JIT or in_threads
        found = _VECTORS[engine] = _Vector(b, numbers, numbers.ctypes.data, None if is_alone else shape)
    return found


def _addresses(arrays: Sequence[Any]) -> NDArray[np.int64]:
    """Return the address and the shape of each of some contiguous arrays."""
    return np.array([number for each in arrays for number in (each.ctypes.data, *each.shape)], np.int64)


@functools.cache
def _function(real: np.dtype[Any]) -> tuple[int, tuple[Any, ...]]:
    """Return the address of the machine code of `numba_step.learn`, and arrays of the types it takes."""
    dtype = {"float32": torch.float32, "float64": torch.float64}[real.name]
    like = (*NO_ROWS, *NumbaEngine(LearnerSpec(task="classification"), dtype)._buffers)
    step: Any = numba_step.learn
    compiled = step.overloads[tuple(map(numba.typeof, like))]
    address = int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
    nothing = np.zeros(0, np.int64)
    with announced():
        _learn_rows(address, nothing, _addresses(like[:7]), 0, nothing, like)
    return address, like
