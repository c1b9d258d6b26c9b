"""Amounts: columns of numbers with a currency or a percent sign, or with separated thousands."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeAlias

from .cells import Options, quoted
from .source import FileError

#: Returns the number of a text; None if it has another form.
Parser: TypeAlias = Callable[[str], float | None]

_PARTS = re.compile(r"([+-]?)([^\d\s.,+-]*)\s?([+-]?[\d.,][\d.,'’\s]*?)\s?([^\d\s.,+-]*)")
_CURRENCY = re.compile(r"[A-Z]{3}")
#: A number that certainly has separated thousands.
_THOUSANDS = re.compile(r"\d,\d{3}[.,]")


def recognise(words: Sequence[str], options: Options) -> Parser | None:
    """Return the parser of a column whose numbers have the same unit; None if it has other words.

    Examples
    --------
    >>> parse = recognise(["$1,234.50", "$990"], Options(text=True, notice=print))
    >>> parse("$1,234.50"), parse("-$990"), parse("990 EUR")
    (1234.5, -990.0, None)
    """
    parts = [_split(word) for word in words]
    unit = parts[0] and parts[0][1]
    if unit is None or any(part is None or part[1] != unit for part in parts):
        return None
    commas = options.decimal == "." and any(map(_THOUSANDS.search, words))
    parser = functools.partial(_amount, unit=unit, options=options, commas=commas)
    return parser if all(parser(word) is not None for word in words) else None


def check_decimal(name: str, words: Sequence[str], options: Options) -> None:
    """Refuse a column of numbers with commas, unless they are known to be decimal signs.

    Raises
    ------
    FileError
        If each word is such a number, or an integer.
    """
    example = next((word for word in words if "," in word), None)
    if options.decimal == "," or name in options.keep or example is None:
        return
    if all(_has_comma_form(word, options) for word in words):
        raise FileError(
            f"has numbers with commas in the column {name!r}, such as {example!r}: give --decimal , for "
            f"decimal commas, or write them without commas; --keep {quoted(name)} reads strings"
        )


def _has_comma_form(word: str, options: Options) -> bool:
    part = _split(word)
    return options.has_form(word, ",") or (part is not None and options.has_form(part[0], ","))


def _amount(word: str, unit: str, options: Options, commas: bool) -> float | None:
    part = _split(word)
    return None if part is None or part[1] != unit else options.number(part[0], commas=commas)


def _split(word: str) -> tuple[str, str] | None:
    """Return the text of the number and its unit, which is before or after it; None for another form."""
    match = _PARTS.fullmatch(word)
    if match is None:
        return None
    sign, before, number, after = match.groups()
    return (sign + number, before or after) if _is_unit(before, after) else None


def _is_unit(before: str, after: str) -> bool:
    unit = before or after
    if before and after:
        return False
    symbols = all(sign in "%‰" or unicodedata.category(sign) == "Sc" for sign in unit)
    return symbols or _CURRENCY.fullmatch(unit) is not None
