"""Cells: what is a number, and what is a missing value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Literal

from ..values import seconds
from .source import FileError

#: Words for a missing value in any feature, in any case: of spreadsheets, databases, pandas and R.
MISSING = frozenset(
    [
        "",
        "na",
        "n/a",
        "#n/a",
        "#na",
        "#n/a n/a",
        "nan",
        "-nan",
        "+nan",
        "nat",
        "<na>",
        "null",
        "(null)",
        "\\n",
    ]
)
#: Words for a missing value in a column of numbers, booleans or dates; strings otherwise.
MISSING_NUMBER = MISSING | frozenset(
    [
        *("?", "none", "missing", ".", "-", "--", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind"),
        *("#null!", "#div/0!", "#value!", "#ref!", "#name?", "#num!"),
    ]
)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NUMBER_WITH_COMMA = re.compile(r"[+-]?(?:\d+(?:,\d*)?|,\d+)(?:[eE][+-]?\d+)?", re.ASCII)
#: Types of JSON and Arrow that are no features.
NESTED = (list, tuple, dict, bytes)


@dataclass(frozen=True)
class Options:
    """How cells are read; the attributes are parameters of `read_samples`.

    Attributes
    ----------
    text : bool
        Whether the cells are text of CSV, so that numbers must be found in it.
    notice : callable
        Takes a message.
    """

    text: bool
    notice: Callable[[str], object]
    decimal: str = "."
    na: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    strings: frozenset[str] = frozenset()
    dates: Literal["raw", "calendar", "drop"] = "calendar"
    labelled: bool = True
    na_numbers: frozenset[float] = field(init=False)

    def __post_init__(self) -> None:
        numbers = (self.number(word) for word in self.na)
        object.__setattr__(self, "na_numbers", frozenset(n for n in numbers if n is not None))

    def may_leave_out(self, name: str) -> bool:
        """Return whether a column that looks like an id is left out: a prediction ignores unknown values."""
        return self.labelled and name not in self.keep

    def number(self, text: str) -> float | None:
        """Return the number in a text, None if it has another form."""
        if self.decimal == ",":
            return float(text.replace(",", ".")) if _NUMBER_WITH_COMMA.fullmatch(text) else None
        return float(text) if _NUMBER.fullmatch(text) else None

    def is_missing(self, word: str, words: frozenset[str] = MISSING) -> bool:
        """Return whether a word, without spaces around it, stands for a missing value."""
        return word in self.na or word.lower() in words


def check_decimal(name: str, words: list[str], options: Options) -> None:
    """Refuse a column of numbers with commas, unless they are known to be decimal signs.

    Raises
    ------
    FileError
        If each word is such a number, or an integer.
    """
    example = next((word for word in words if "," in word), None)
    if options.decimal == "," or name in options.keep or example is None:
        return
    if all(map(_NUMBER_WITH_COMMA.fullmatch, words)):
        raise FileError(
            f"has numbers with commas in the column {name!r}, such as {example!r}: give --decimal , for "
            f"decimal commas, or write them without commas; --keep {quoted(name)} reads strings"
        )


def plain(value: Any) -> Any:
    """Return a value with a type of JSON: times in seconds, decimals as numbers, None for NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Decimal):
        return None if value.is_nan() else float(value)
    if isinstance(value, date | time | timedelta):
        return seconds(value)
    return value


def quoted(word: str) -> str:
    """Return a word as a shell takes it."""
    return (
        word
        if re.fullmatch(r"[\w.,/+:#-]+", word) and not word.startswith("#")
        else "'" + word.replace("'", "'\\''") + "'"
    )
