"""Decimal numbers to float64: the nearest double, or none.

A number of at most 19 digits is ``m · 10^q`` with an integer ``m < 2^64``. If ``m`` and ``10^|q|`` are
doubles, one multiplication or division is rounded correctly (Clinger, 1990). Otherwise the product of ``m``
and a 128-bit approximation of ``5^q`` determines the double (Lemire, "Number parsing at a gigabyte per
second", 2021). Other numbers are left to the caller: longer, subnormal or beyond float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..jit import jit_exact, jit_exact_inline
from .bits import double, high_product, leading_zeros, load, trailing_zeros

_Words = NDArray[np.uint64]

#: Least and greatest exponent of ten in the table.
_LEAST, _GREATEST = -342, 308
_TENS = np.array([10.0**i for i in range(23)])
_INTEGER_TENS = np.array([10**i for i in range(9)], np.uint64)
_MINUS, _PLUS, _POINT, _ZERO, _E = b"-+.0e"
#: Digits that always fit in 64 bits.
_MOST_DIGITS = 19
#: Digits of a fraction that are read, leading zeros included.
_FRACTION = 40
#: Bytes that `read_number` may read beyond the end of a number or of the buffer's content.
REACH = 96


def _power_of_five(exponent: int) -> int:
    """Return the first 128 bits of a power of five; of its reciprocals the short ones are rounded up."""
    power: int = 5 ** abs(exponent)
    size = power.bit_length()
    if exponent < 0:
        return (1 << (size + 127)) // power + (exponent >= -27)
    return power >> (size - 128) if size > 128 else power << (128 - size)


def powers_of_five() -> _Words:
    """Return the upper and the lower 64 bits of the powers of five, by exponent."""
    powers = [_power_of_five(exponent) for exponent in range(_LEAST, _GREATEST + 1)]
    return np.array([divmod(power, 1 << 64) for power in powers], np.uint64)


@jit_exact_inline
def _digits(word: np.uint64) -> tuple[int, np.uint64]:
    """Return how many of the bytes of a word are digits, from the first on, and their number."""
    values = word ^ np.uint64(0x3030303030303030)
    others = ((values + np.uint64(0x7676767676767676)) | values) & np.uint64(0x8080808080808080)
    count = trailing_zeros(others) >> 3
    if count == 0:
        return 0, np.uint64(0)
    values <<= np.uint64(8 * (8 - count))  # as with leading zeros
    values = values * np.uint64(10) + (values >> np.uint64(8))  # pairs of digits, in every second byte
    pairs = np.uint64(0x000000FF000000FF)
    upper = (values & pairs) * np.uint64(0x000F424000000064)
    lower = ((values >> np.uint64(16)) & pairs) * np.uint64(0x0000271000000001)
    return count, (upper + lower) >> np.uint64(32)


@jit_exact_inline
def nearest(mantissa: np.uint64, exponent: int, powers: _Words) -> float:
    """Return the double nearest to ``mantissa · 10^exponent``, or −1 if it is not certain or not normal."""
    if mantissa == np.uint64(0):
        return 0.0
    if exponent < _LEAST or exponent > _GREATEST:
        return -1.0
    zeros = leading_zeros(mantissa)
    mantissa <<= np.uint64(zeros)
    upper_power, lower_power = powers[exponent - _LEAST, 0], powers[exponent - _LEAST, 1]
    high, low = high_product(mantissa, upper_power), mantissa * upper_power
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):  # a carry from the lower half may change the result
        carry = high_product(mantissa, lower_power)
        low += carry
        if low < carry:
            high += np.uint64(1)
    if low == np.uint64(0xFFFFFFFFFFFFFFFF) and (exponent < -27 or exponent > 55):
        return -1.0
    top = np.int64(high >> np.uint64(63))
    bits = high >> np.uint64(top + 9)  # 53 bits and one to round by
    power = ((217706 * exponent) >> 16) + 63 + top - zeros + 1023
    if power <= 0:
        return -1.0
    if (
        low <= np.uint64(1)
        and -4 <= exponent <= 23
        and bits & np.uint64(3) == np.uint64(1)
        and bits << np.uint64(top + 9) == high
    ):
        bits &= ~np.uint64(1)  # exactly between two doubles: to the even one
    bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
    if bits == np.uint64(1 << 53):
        bits = np.uint64(1 << 52)
        power += 1
    if power >= 2047:
        return -1.0
    return float(double((bits & ~np.uint64(1 << 52)) | (np.uint64(power) << np.uint64(52))))


@jit_exact_inline
def _byte(buffer: NDArray[np.uint8], position: int) -> int:
    return int(load(buffer, position) & np.uint64(0xFF))


@jit_exact_inline
def _significant(buffer: NDArray[np.uint8], start: int, digits: int) -> int:
    """Return the number of digits from the first one on that is not 0."""
    i = start
    while _byte(buffer, i) == _ZERO or _byte(buffer, i) == _POINT:
        digits -= _byte(buffer, i) == _ZERO
        i += 1
    return digits


@jit_exact_inline
def read_number(buffer: NDArray[np.uint8], start: int, powers: _Words) -> tuple[float, int]:
    """Return the JSON number at a position, and the position behind it; −1 if it is none, or not certain.

    ``-0`` is not certain: without a fraction and an exponent it is an integer, which has no sign.
    """
    negative = _byte(buffer, start) == _MINUS
    first = start + negative
    word = load(buffer, first)
    count, mantissa = _digits(word)
    if count == 0 or (count > 1 and word & np.uint64(0xFF) == np.uint64(_ZERO)):
        return 0.0, -1
    i = first + count
    while count == 8 and i - first <= _MOST_DIGITS:
        count, part = _digits(load(buffer, i))
        mantissa = mantissa * _INTEGER_TENS[count] + part
        i += count
    digits, exponent = i - first, 0
    after = _byte(buffer, i)
    if after == _POINT:
        i += 1
        point, count = i, 8
        while count == 8 and i - point < _FRACTION:
            count, part = _digits(load(buffer, i))
            mantissa = mantissa * _INTEGER_TENS[count] + part
            i += count
        if i == point or count == 8:
            return 0.0, -1
        exponent = point - i
        digits -= exponent
        after = _byte(buffer, i)
    elif negative and mantissa == np.uint64(0) and after | 0x20 != _E:
        return 0.0, -1
    if digits > _MOST_DIGITS and _significant(buffer, first, digits) > _MOST_DIGITS:
        return 0.0, -1
    if after | 0x20 == _E:
        sign = _byte(buffer, i + 1)
        i += 2 if sign in (_MINUS, _PLUS) else 1
        count, part = _digits(load(buffer, i))
        if count == 0 or count > 4:
            return 0.0, -1
        exponent += -int(part) if sign == _MINUS else int(part)
        i += count
    if mantissa <= np.uint64(1 << 53) and -22 <= exponent <= 22:
        value = float(np.int64(mantissa))
        value = value / _TENS[-exponent] if exponent < 0 else value * _TENS[exponent]
    else:
        value = nearest(mantissa, exponent, powers)
        if value < 0.0:
            return 0.0, -1
    return -value if negative else value, i


@jit_exact
def read_numbers(
    buffer: NDArray[np.uint8], starts: NDArray[np.int64], powers: _Words, values: NDArray[np.float64]
) -> None:
    """Read the numbers at positions in a buffer; NaN for those that are left to the caller."""
    for k in range(starts.shape[0]):
        value, end = read_number(buffer, starts[k], powers)
        values[k] = value if end >= 0 else np.nan
