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
_NUMBER = {
    sign: re.compile(rf"[+-]?(?:\d+(?:[{sign}]\d*)?|[{sign}]\d+)(?:[eE][+-]?\d+)?", re.ASCII) for sign in ".,"
}
#: Separated thousands. A single comma, as in 1,234, may be a decimal sign.
_COMMAS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
_THOUSANDS = {
    ".": re.compile(
        r"[+-]?[1-9]\d{0,2}(?:(?:,\d{3})+\.\d*|,\d{3}(?:,\d{3})+|(?P<by>['’ \xa0\u202f])\d{3}"
        r"(?:(?P=by)\d{3})*(?:\.\d*)?)",
        re.ASCII,
    ),
    ",": re.compile(
        r"[+-]?[1-9]\d{0,2}(?P<by>['’ .\xa0\u202f])\d{3}(?:(?P=by)\d{3})*(?:,\d*)?",
        re.ASCII,
    ),
}
_SEPARATORS = re.compile(r"['’ \xa0\u202f]")
#: Types of JSON and Arrow that are no features.
NESTED = (list, tuple, dict, bytes)


class CellError(ValueError):
    """A cell that is not of the type of its column, and does not stand for a missing value.

    Parameters
    ----------
    column, word, kind : str
        Name of the column; the cell; what a cell of the column is, such as ``"a number"``.
    """

    def __init__(self, column: str, word: str, kind: str) -> None:
        super().__init__(
            f"has {word!r:.80} in the column {column!r}, which is not {kind}, as other rows have"
        )
        self.word = word


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
    texts: frozenset[str] = frozenset()
    strings: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    dates: Literal["raw", "calendar", "drop"] = "calendar"
    calendar: frozenset[str] | None = None
    labelled: bool = True
    na_numbers: frozenset[float] = field(init=False)

    def __post_init__(self) -> None:
        numbers = (self.number(word) for word in self.na)
        object.__setattr__(self, "na_numbers", frozenset(n for n in numbers if n is not None))

    def may_leave_out(self, name: str) -> bool:
        """Return whether a column that looks like an id is left out: a prediction ignores unknown values."""
        return self.labelled and name not in self.keep | self.texts

    def number(self, text: str, *, commas: bool = False) -> float | None:
        """Return the number in a text, None if it has another form.

        Parameters
        ----------
        text : str
            The text.
        commas : bool
            Whether commas separate thousands, so that 1,234 is a number with the decimal sign ``.``.
        """
        sign = self.decimal
        if not _NUMBER[sign].fullmatch(text):
            if not (_THOUSANDS[sign].fullmatch(text) or (commas and _COMMAS.fullmatch(text))):
                return None
            text = _SEPARATORS.sub("", text).replace("," if sign == "." else ".", "")
        return float(text.replace(",", "."))

    def has_form(self, text: str, sign: str) -> bool:
        """Return whether a text is a number with another decimal sign."""
        return any(form[sign].fullmatch(text) for form in (_NUMBER, _THOUSANDS))

    def is_missing(self, word: str, words: frozenset[str] = MISSING) -> bool:
        """Return whether a word, without spaces around it, stands for a missing value."""
        return word in self.na or word.lower() in words


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
