"""Operations on words of 64 bits that numba does not have, of about one instruction each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # it ships no types
from numba import extending, types
from numpy.typing import NDArray

_WORD, _DOUBLE_WORD = ir.IntType(64), ir.IntType(128)
_intrinsic: Any = extending.intrinsic


def _typed_load(_: Any, buffer: Any, position: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.PointerType(_WORD))
        return builder.load(pointer, align=1)

    return types.uint64(buffer, types.int64), generate


def _typed_high_product(_: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        factors = [builder.zext(each, _DOUBLE_WORD) for each in arguments]
        return builder.trunc(builder.lshr(builder.mul(*factors), ir.Constant(_DOUBLE_WORD, 64)), _WORD)

    return types.uint64(types.uint64, types.uint64), generate


def _typed_leading_zeros(_: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


def _typed_trailing_zeros(_: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


def _typed_double(_: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.uint64), generate


load: Callable[[NDArray[np.uint8], int], np.uint64] = _intrinsic(_typed_load)
"""Return the 8 bytes of a buffer from a position on, the first as the lowest; no bound is checked."""
high_product: Callable[[np.uint64, np.uint64], np.uint64] = _intrinsic(_typed_high_product)
"""Return the upper 64 bits of the product of two words."""
leading_zeros: Callable[[np.uint64], int] = _intrinsic(_typed_leading_zeros)
"""Return the number of zero bits above the highest one; 64 for 0."""
trailing_zeros: Callable[[np.uint64], int] = _intrinsic(_typed_trailing_zeros)
"""Return the number of zero bits below the lowest one; 64 for 0."""
double: Callable[[np.uint64], float] = _intrinsic(_typed_double)
"""Return the float64 with the given bits."""
