"""The nearest double, against Python's, which is correct."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnp_online.blocks import decimals

POWERS = decimals.powers_of_five()


def read(words: Sequence[bytes], powers: NDArray[np.uint64] = POWERS, module: Any = decimals) -> Any:
    """Return the numbers of all words, from one call; NaN where the reader declines."""
    ends = np.cumsum([len(word) + 1 for word in words])
    buffer = np.frombuffer(b",".join(words) + bytes(decimals.REACH + 32), np.uint8)
    values = np.empty(len(words))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    module.read_numbers(buffer, starts, powers, values)
    return values


def wrong(words: Sequence[bytes], values: NDArray[np.float64]) -> list[bytes]:
    """Return the words that were read with other bits than Python reads them."""
    expected = np.array([*map(float, words)])
    differ = (values.view(np.uint64) != expected.view(np.uint64)) & ~np.isnan(values)
    return [words[i] for i in np.flatnonzero(differ).tolist()]


def random_words(count: int) -> list[bytes]:
    """Return doubles of all magnitudes as text: shortest, with 17 digits, with a fixed number of decimals."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**64, count, dtype=np.uint64).view(np.float64)
    usual = rng.normal(size=count) * 10.0 ** rng.integers(-12, 13, count)
    everywhere, usual_ones = bits[np.isfinite(bits)].tolist(), usual.tolist()
    words = [repr(value) for value in (*everywhere, *usual_ones)]
    words += [f"{value:.16e}" for value in (*everywhere, *usual_ones)]
    words += [f"{value:.6f}" for value in usual_ones] + [f"{value:.17g}" for value in usual_ones]
    words += [f"{value:.3E}" for value in usual_ones] + [str(round(value * 1e3)) for value in usual_ones]
    return [word.encode() for word in words]


def halfway_words(count: int) -> list[bytes]:
    """Return numbers of up to 19 digits at and beside the middle between two doubles."""
    rng = np.random.default_rng(1)
    words = list[str]()
    mantissas = [*[2**52, 2**53 - 1] * 20, *rng.integers(2**52, 2**53, count).tolist()]
    for mantissa, power in zip(mantissas, rng.integers(-6, 11, len(mantissas)).tolist(), strict=True):
        middle = Fraction(2 * mantissa + 1) * Fraction(2) ** power
        for decimals_ in range(6):
            scaled = middle * 10**decimals_
            if scaled.denominator == 1 and scaled.numerator < 10**19 - 1:
                words += [f"{scaled.numerator + offset}e-{decimals_}" for offset in (-1, 0, 1)]
    # Multiples of powers of ten whose nearest 53 bits end near a half.
    for exponent in range(-300, 300, 3):
        for value in (10.0**exponent * rng.integers(1, 1000, 4)).tolist():
            exact = Fraction(value) + Fraction(float(np.nextafter(value, np.inf)))
            digits = int(exact / 2 / Fraction(10) ** (exponent - 16))
            words += [f"{digits + offset}e{exponent - 16}" for offset in (-1, 0, 1) if digits < 10**19 - 1]
    return [word.encode() for word in words]


def test_random_doubles_have_the_bits_of_python() -> None:
    words = random_words(51_000)
    assert len(words) > 400_000
    values = read(words)
    assert wrong(words, values) == []
    normal = np.array([float(word) == 0.0 or abs(float(word)) >= sys.float_info.min for word in words])
    assert not np.isnan(values[normal]).any()


def test_numbers_at_and_beside_the_middle_of_two_doubles() -> None:
    words = halfway_words(5_000)
    assert len(words) > 20_000
    values = read(words)
    assert wrong(words, values) == []
    assert np.isnan(values).mean() < 0.001


@pytest.mark.parametrize(
    "word",
    [
        "0",
        "-0.0",
        "0.0",
        "-0e5",
        "-0.0e-3",
        "0e0",
        "1E5",
        "1e+05",
        "1e-0005",
        "-1.5",
        "9007199254740992",
        "9007199254740993",
        "-9007199254740993",
        "9223372036854775807",
        "9999999999999999999",
        "1.7976931348623157e308",
        "2.2250738585072014e-308",
        "0.000000000000000000001234567890123456789",
        "1000000000000000000e-18",
        "123456789012345678.9",
        "0.1234567",
        "0.12345678",
        "0.123456789",
        "12345678.12345678",
        "4503599627370496.5",
        "4503599627370497.5",
        "5e-1",
        "179769313486231570000e288",
    ],
)
def test_a_number_has_the_bits_of_python(word: str) -> None:
    if len(re.findall(r"\d", word.partition("e")[0].lstrip("-0."))) > 19:
        assert np.isnan(read([word.encode()])[0])
    else:
        assert read([word.encode()])[0].hex() == float(word).hex()


@pytest.mark.parametrize(
    "word",
    [
        "",
        "-",
        "+1",
        ".5",
        "-.5",
        "1.",
        "1.e5",
        "1e",
        "1e+",
        "1e-x",
        "01",
        "-01",
        "00",
        "00000000",
        "-0",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "1e400",
        "-1e400",
        "1e99999",
        "1.8e308",
        "5e-324",
        "2.2250738585072011e-308",
        "1e-400",
        "12345678901234567890",
        "0.12345678901234567890123",
        "1" * 60,
        "0." + "0" * 60 + "1",
        "0x10",
        "١",
        "--1",
        "e5",
        "a",
        "null",
    ],
)
def test_others_are_declined(word: str) -> None:
    """Some of them are valid, but not certain: the exact path reads them."""
    value = read([word.encode()])[0]
    if word == "0x10":
        assert value == 0.0  # the number ends before the x, which no template has behind it
    else:
        assert np.isnan(value)


def test_a_number_of_any_digits_ends_within_reach() -> None:
    """A reader that followed digits without end would leave the buffer."""
    digits = np.full(decimals.REACH, ord("1"), np.uint8)
    for head in (b"", b"-", b"0.", b"1.", b"0.0", b"1e", b"12345678.12345678e-"):
        buffer = np.concatenate([np.frombuffer(head, np.uint8), digits])
        values = np.empty(1)
        decimals.read_numbers(buffer, np.zeros(1, np.int64), POWERS, values)
        assert np.isnan(values[0])


# Faults


@cache
def telling_words() -> tuple[bytes, ...]:
    return (*random_words(4_000), *halfway_words(5_000), b"99999999999999999999", b"2.2e-308")


def found(module: Any) -> bool:
    """Return whether the tests above would find a fault: other bits, or a number that is declined."""
    words = telling_words()
    values = read(words, module=module)
    return bool(wrong(words, values)) or not np.array_equal(np.isnan(values), np.isnan(read(words)))


def test_the_sound_reader_has_no_fault() -> None:
    assert not found(decimals)


@pytest.mark.parametrize("exponent", [-300, -25, -6, -1, 0, 3, 30, 200])
@pytest.mark.parametrize("bit", [127, 100, 70])
def test_a_fault_in_the_table_is_found(exponent: int, bit: int) -> None:
    powers = POWERS.copy()
    powers[exponent + 342, 0 if bit >= 64 else 1] ^= np.uint64(1 << bit % 64)
    words = [f"{digits}e{exponent}".encode() for digits in range(2**63 + 1, 10**19, 10**14 + 7)]
    assert wrong(words, read(words)) == []
    assert wrong(words, read(words, powers)) or np.isnan(read(words, powers)).any()


#: By name of the fault: a part of the reader, and what replaces it.
FAULTS = {
    "the middle rounds up": ("bits &= ~np.uint64(1)  #", "pass  #"),
    "beside the middle rounds as the middle": ("low <= np.uint64(1)", "low <= np.uint64(1 << 63)"),
    "no carry from the lower half": ("if low < carry:", "if low < np.uint64(0):"),
    "a mantissa that overflows": ("        power += 1", "        power += 0"),
    "Clinger's case beyond 53 bits": ("mantissa <= np.uint64(1 << 53)", "mantissa <= np.uint64(1 << 55)"),
    "20 digits": ("_MOST_DIGITS = 19", "_MOST_DIGITS = 20"),
    "subnormal numbers": ("if power <= 0:", "if power < 0:"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_rounding_is_found(fault: str, tmp_path: Path) -> None:
    part, other = FAULTS[fault]
    text = Path(str(decimals.__file__)).read_text(encoding="utf-8")
    assert text.count(part) == 1
    path = tmp_path / "faulty_decimals.py"
    path.write_text(re.sub(r"from \.+(jit|bits)", r"from bnp_online.\1", text).replace(part, other))
    path.write_text(path.read_text().replace("bnp_online.bits", "bnp_online.blocks.bits"))
    spec = importlib.util.spec_from_file_location("faulty_decimals", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert found(module)
