"""Vectors of 16 numbers, with a fixed order of sums.

A compiler does not vectorize a loop over rows of few numbers well: it checks for overlaps of arrays, and adds
a loop for the rest. In compiled code these functions are vector instructions; without compilation
(``NUMBA_DISABLE_JIT``) they are operations of NumPy with the same bits. Each operation is rounded, so the
bits do not depend on the width of the machine's vectors, or on whether it fuses a product and a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # it ships no types
from numba.core import types
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

from ..jit import config

#: Numbers in a vector; rows of weights begin at multiples of it.
LANES = 16
#: A vector.
Lanes: TypeAlias = NDArray[np.floating[Any]]
_INT = ir.IntType(32)
_F = TypeVar("_F", bound=Callable[..., Any])


class _Lanes(types.Type):
    """Type of a vector in compiled code."""

    def __init__(self, real: Any) -> None:
        self.real = real
        super().__init__(name=f"lanes({real})")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    """Representation of a vector."""

    def __init__(self, manager: Any, lanes: _Lanes) -> None:
        vector = ir.VectorType(manager.lookup(lanes.real).get_value_type(), LANES)
        super().__init__(manager, lanes, vector)  # type: ignore[no-untyped-call]  # numba has few types


def _compiled_by(typed: Callable[..., Any]) -> Callable[[_F], _F]:
    """Compile calls of a function to the code of `typed`, which returns a signature and its generator."""

    def choose(function: _F) -> _F:
        return function if config.DISABLE_JIT else cast(_F, intrinsic(typed))

    return choose


def _place(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any, size: int = LANES
) -> tuple[Any, int]:
    """Return the address of a vector in an array, and the alignment of a number there."""
    data = context.make_array(array_type)(context, builder, array).data
    real = context.get_data_type(array_type.dtype)
    vector = ir.VectorType(real, size)
    address = builder.bitcast(builder.gep(data, [index]), vector.as_pointer())
    return address, context.get_abi_sizeof(real)


def _load(typing: Any, array: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, align = _place(context, builder, signature.args[0], *arguments)
        return builder.load(address, align=align)

    return _Lanes(array.dtype)(array, types.intp), generate


@_compiled_by(_load)
def load(array: Lanes, at: int) -> Lanes:
    """Return the vector ``array[at : at + LANES]``."""
    return array[at : at + LANES].copy()


def _store(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, align = _place(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], address, align=align)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@_compiled_by(_store)
def store(array: Lanes, at: int, lanes: Lanes) -> None:
    """Write a vector to ``array[at : at + LANES]``."""
    array[at : at + LANES] = lanes


def _spread(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(arguments[0].type, LANES)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[0], _INT(0))
        return builder.shuffle_vector(one, one, _mask([0] * LANES))

    return _Lanes(x)(x), generate


@_compiled_by(_spread)
def spread(x: float | np.floating[Any]) -> Lanes:
    """Return a vector of equal numbers."""
    return np.full(LANES, x)


def _multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y, z = arguments
        return builder.fadd(builder.fmul(x, y), z)

    return a(a, a, a), generate


@_compiled_by(_multiply_add)
def multiply_add(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """Return ``a b + c``; product and sum are rounded."""
    return a * b + c


def _store_totals(typing: Any, array: Any, at: Any, bias: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, bias, *lanes = arguments

        def fold(x: Any, y: Any, low: list[int], high: list[int]) -> Any:
            parts = [builder.shuffle_vector(x, y, _mask(places)) for places in (low, high)]
            return builder.fadd(*parts)

        # Within each group of four: first pairs of vectors, then both pairs.
        low = [start + i + j for start in range(0, LANES, 4) for i in (0, 1) for j in (0, LANES)]
        pairs = [fold(x, y, low, [i + 2 for i in low]) for x, y in (lanes[:2], lanes[2:])]
        low = [start + i + j for start in range(0, LANES, 4) for j in (0, LANES) for i in (0, 1)]
        total = fold(pairs[0], pairs[1], low, [i + 2 for i in low])
        for half in (8, 4):  # then the groups
            total = fold(total, total, [*range(half)], [*range(half, 2 * half)])
        places = [_place(context, builder, signature.args[i], x, at, 4) for i, x in ((0, array), (2, bias))]
        (into, align), (of_bias, _) = places
        builder.store(builder.fadd(total, builder.load(of_bias, align=align)), into, align=align)
        return context.get_dummy_value()

    return types.void(array, types.intp, bias, a, a, a, a), generate


@_compiled_by(_store_totals)
def store_totals(array: Lanes, at: int, bias: Lanes, a: Lanes, b: Lanes, c: Lanes, d: Lanes) -> None:
    """Write the sums of four vectors, plus ``bias[at : at + 4]``, to ``array[at : at + 4]``.

    The 16 numbers of a vector are four groups g of four: the sum is ``(g₀ + g₂) + (g₁ + g₃)`` of the sums of
    the groups, each ``(x₀ + x₂) + (x₁ + x₃)``.
    """
    groups = np.stack([a, b, c, d]).reshape(4, 4, 4)
    of_groups = (groups[:, :, 0] + groups[:, :, 2]) + (groups[:, :, 1] + groups[:, :, 3])
    totals = (of_groups[:, 0] + of_groups[:, 2]) + (of_groups[:, 1] + of_groups[:, 3])
    array[at : at + 4] = totals + bias[at : at + 4]


def _mask(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_INT, len(places)), places)
