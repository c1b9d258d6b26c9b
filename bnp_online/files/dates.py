"""Dates, times of day and durations in text, as seconds; calendar features."""

from __future__ import annotations

import calendar
import functools
import math
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, TypeAlias

from ..values import seconds

#: Returns the seconds of a text; None if it is not of the form.
Parser: TypeAlias = Callable[[str], float | None]

_DAY = 86400.0
_EPOCH = date(1970, 1, 1).toordinal()
_FIRST, _LAST = seconds(date.min), seconds(date.max)
_MONTHS = {
    name.lower(): i for names in (calendar.month_name, calendar.month_abbr) for i, name in enumerate(names)
}
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?"
)
_ZONE = r"(?:\s*(?P<zone>Z|UTC|GMT|(?P<sign>[+-])(?P<zh>\d\d):?(?P<zm>\d\d)?))?"
_REST = rf"(?:[T\s,]+{_CLOCK}{_ZONE})?"


def _pattern(day: str) -> re.Pattern[str]:
    return re.compile(day + _REST, re.ASCII)


_YEAR_FIRST = _pattern(r"(?P<year>\d{4})([-/.])(?P<month>\d{1,2})\2(?P<day>\d{1,2})")
#: The day and the month are in either order; a year of two digits follows signs that no version number has.
_NUMERIC = (
    r"(?P<{0}>\d{{1,2}})([-/.])(?P<{1}>\d{{1,2}})\2"
    r"(?P<year>\d{{4}}|(?<=/)\d\d|(?<=-)\d\d|(?<=\d\d\.\d\d\.)\d\d)"
)
_DAY_FIRST = _pattern(_NUMERIC.format("day", "month"))
_MONTH_FIRST = _pattern(_NUMERIC.format("month", "day"))
_NAMED = (
    _pattern(
        r"(?:[A-Za-z]{3,9},?\s+)?(?P<day>\d{1,2})[-\s/.]+(?P<name>[A-Za-z]{3,9})[-\s/.,]+(?P<year>\d{4})"
    ),
    _pattern(r"(?:[A-Za-z]{3,9},?\s+)?(?P<name>[A-Za-z]{3,9})\.?\s+(?P<day>\d{1,2}),?\s+(?P<year>\d{4})"),
)
_TIME = re.compile(_CLOCK, re.ASCII)
_DURATION = re.compile(
    r"(?:(?P<days>-?\d+) days?,?)?\s*(?:(?P<sign>[+-])?(?P<hours>\d+):(?P<minutes>\d\d)"
    r"(?::(?P<seconds>\d\d)(?:\.(?P<fraction>\d+))?)?)?",
    re.ASCII,
)
_ISO_DURATION = re.compile(
    r"(?P<sign>[+-])?P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d+))?S)?)?",
    re.ASCII,
)


def recognise(texts: Sequence[str]) -> tuple[Parser, str | None] | None:
    """Return the parser of the dates in a column, and a remark on what is uncertain; None if it has no dates.

    Examples
    --------
    >>> parse, remark = recognise(["13/01/2026", "02/02/2026"])
    >>> parse("02/02/2026") == seconds(date(2026, 2, 2)), remark
    (True, None)
    """
    first = texts[0]
    if not first[:1].isalnum() or not any(sign in first for sign in "-/. T"):
        return None
    parsers: list[Parser] = [iso, *(functools.partial(_parsed, pattern) for pattern in _NAMED)]
    for parser in parsers:
        if all(parser(text) is not None for text in texts):
            return parser, None
    return _ordered(texts)


def recognise_times(texts: Sequence[str]) -> Parser | None:
    """Return the parser of the times of day or durations in a column; None if it has none."""
    for parser in (time_of_day, duration):
        if all(parser(text) is not None for text in texts):
            return parser
    return None


def _ordered(texts: Sequence[str]) -> tuple[Parser, str | None] | None:
    """Return the parser of dates with numbers alone: the order that fits all, or the shorter time."""
    fitting: list[tuple[float, Parser, str]] = []
    for pattern, order in ((_MONTH_FIRST, "month/day/year"), (_DAY_FIRST, "day/month/year")):
        parser: Parser = functools.partial(_parsed, pattern)
        values = [parser(text) for text in texts]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            fitting.append((max(known) - min(known), parser, order))
    if not fitting:
        return None
    if len(fitting) == 1:
        return fitting[0][1], None
    if "." in texts[0]:  # the month comes first in no country that writes points
        return fitting[1][1], None
    _, parser, order = min(fitting, key=lambda fit: fit[0])
    return parser, f"{texts[0]!r} is read as {order}; if that is wrong, write the dates as YYYY-MM-DD"


def iso(text: str) -> float | None:
    """Return the seconds since 1970 of a date with or without a time; the year comes first."""
    try:
        return seconds(datetime.fromisoformat(text))
    except ValueError:
        return _parsed(_YEAR_FIRST, text)


def _parsed(pattern: re.Pattern[str], text: str) -> float | None:
    match = pattern.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    year = int(part["year"])
    if year < 100:
        year += 1900 if year >= 69 else 2000  # as in POSIX
    month = _MONTHS.get(part["name"].lower()) if "name" in part else int(part["month"])
    offset = _clock(part) if part["hour"] else 0
    if not month or offset is None:
        return None
    zone = UTC if part["sign"] is None else _zone(part)
    try:
        midnight = datetime(year, month, int(part["day"]), tzinfo=zone)
    except ValueError:
        return None
    return seconds(midnight + timedelta(microseconds=offset))


def _zone(part: dict[str, Any]) -> timezone:
    minutes = int(part["zh"]) % 24 * 60 + int(part["zm"] or 0) % 60
    return timezone(timedelta(minutes=-minutes if part["sign"] == "-" else minutes))


def _clock(part: dict[str, Any]) -> int | None:
    """Return the microseconds since midnight."""
    hour, minute, second = int(part["hour"]), int(part["minute"]), int(part["second"] or 0)
    if part["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if part["half"] in "Pp" else 0)
    if hour > 23 or minute > 59 or second > 59:
        return None
    return (hour * 3600 + minute * 60 + second) * 1_000_000 + _micro(part["fraction"])


def _micro(fraction: str | None) -> int:
    return int((fraction or "0")[:6].ljust(6, "0"))


def time_of_day(text: str) -> float | None:
    """Return the seconds of a time of day.

    Examples
    --------
    >>> time_of_day("01:00:00.5"), time_of_day("1:30 PM"), time_of_day("25:00")
    (3600.5, 48600.0, None)
    """
    match = _TIME.fullmatch(text)
    micro = None if match is None else _clock(match.groupdict())
    return None if micro is None else micro / 1_000_000


def duration(text: str) -> float | None:
    """Return the seconds of a duration, as pandas, Python, polars or a spreadsheet write it.

    Examples
    --------
    >>> duration("1 days 01:00:00"), duration("-1 days +23:59:59"), duration("PT1M0.5S"), duration("red")
    (90000.0, -1.0, 60.5, None)
    """
    match = _DURATION.fullmatch(text) or _ISO_DURATION.fullmatch(text)
    if match is None or not text[-1:].isalnum() or not any(sign.isdigit() for sign in text):
        return None
    part = match.groupdict()
    names = {"hours": 3600, "minutes": 60, "seconds": 1}
    size = sum(int(part[name] or 0) * by for name, by in names.items()) * 1_000_000 + _micro(part["fraction"])
    days = (int(part["days"] or 0) + 7 * int(part.get("weeks") or 0)) * 86_400_000_000
    if "weeks" in part:  # the sign of ISO 8601 is for all
        return (-(size + days) if part["sign"] == "-" else size + days) / 1_000_000
    return (days + (-size if part["sign"] == "-" else size)) / 1_000_000


class Calendar:
    """Calendar features of a column with dates: hour, weekday and month, each as a point of a circle.

    The names are those of the column with ``.hour_sin``, ``.hour_cos``, ``.weekday_sin``, ``.weekday_cos``,
    ``.month_sin`` and ``.month_cos``; where the file has such a column, with another point. Times are in UTC.

    Parameters
    ----------
    name : str
        Name of the column.
    taken : collection of str
        Names of the columns of the file.

    Attributes
    ----------
    names : list of str
        Names of the features.
    active : bool
        Whether the features are added. They are added once the column has varied by more than a day.
    """

    def __init__(self, name: str, taken: Collection[str]) -> None:
        self.name = name
        parts = [f"{part}_{axis}" for part in ("hour", "weekday", "month") for axis in ("sin", "cos")]
        prefix = f"{name}."
        while any(prefix + part in taken for part in parts):
            prefix += "."
        self.names = [prefix + part for part in parts]
        self.active = False
        self._low, self._high = math.inf, -math.inf
        self._days: dict[int, tuple[float, ...]] = {}

    def add(self, x: dict[str, Any]) -> None:
        """Add the calendar features to the features of a row."""
        if self.name not in x:
            return
        value = x[self.name]
        if not isinstance(value, float) or not _FIRST <= value <= _LAST:  # JSON may have another number
            value = None
        if not self.active:
            if value is None:
                return
            self._low, self._high = min(self._low, value), max(self._high, value)
            self.active = self._high - self._low > _DAY
            if not self.active:
                return
        x.update(zip(self.names, (None,) * 6 if value is None else self._features(value), strict=True))

    def _features(self, value: float) -> tuple[float, ...]:
        day, second = divmod(value, _DAY)
        features = self._days.get(int(day))
        if features is None:
            if len(self._days) >= 10_000:
                self._days.clear()
            date_ = date.fromordinal(int(day) + _EPOCH)
            features = self._days[int(day)] = (*_circle(date_.weekday(), 7), *_circle(date_.month - 1, 12))
        return (*_HOURS[int(second // 3600)], *features)


def _circle(position: int, size: int) -> tuple[float, float]:
    angle = 2 * math.pi * position / size
    return math.sin(angle), math.cos(angle)


_HOURS = [_circle(hour, 24) for hour in range(24)]
