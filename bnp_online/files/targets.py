"""Targets: labels, whose type the column determines, and numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from typing import Any, Literal, TypeAlias

from ..frames import name_of_label
from ..values import Label
from .amounts import Parser, check_decimal, recognise
from .cells import NESTED, Options, plain, quoted
from .columns import IDS
from .source import FileError

#: Returns the target in a cell, None if it is missing; raises `TargetError`.
Target: TypeAlias = Callable[[Any], Any]
Task: TypeAlias = Literal["classification", "regression"]
LabelType: TypeAlias = Literal["str", "int"]

#: Labels that are integers: 1.0 is 1. With leading zeros they are strings: 007 is not 7.
_INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d{0,18})(?:\.0*)?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


class TargetError(ValueError):
    """The target of a row is invalid; the message is a predicate of the row."""


def target_of(name: str, cells: list[Any], options: Options, task: Task, labels: LabelType | None) -> Target:
    """Return the converter of the target's column.

    Parameters
    ----------
    name : str
        Name of the column.
    cells : list
        Its cells in the first rows.
    options : Options
        How cells are read. If rows need no target, an invalid target is missing.
    task, labels
        As in `read_samples`.

    Raises
    ------
    FileError
        If the column does not fit the task.
    """
    present = [value for cell in cells if (value := _present(cell, options)) is not None]
    nested = any(isinstance(value, NESTED) for value in present)
    if options.labelled and nested:
        raise FileError(
            f"has lists or objects in the target {name!r}: a target is a boolean, number or string"
        )
    if task == "regression":
        return _regression(name, present, options)
    if labels is not None:
        return _labels(name, options, labels, "leave out --labels int if it is the name of a class")
    if not present or nested:
        return _undecided(name, options)
    kind = _type_of(name, present, options)
    if options.labelled and len(present) >= IDS and len({*present}) == len(present):
        remedy = "check --target" if kind == "str" else "if they are quantities, give --task regression"
        options.notice(f"the target {name!r} has another label in each row: {remedy}")
    return _labels(name, options, kind, "the first rows have such labels; give --labels str, or correct it")


def target_of_model(name: str, options: Options, task: Task, labels: Sequence[Label]) -> Target:
    """Return the converter of a column whose targets have the type of a model's.

    Without `labels`, the first label determines the type. Raises as `target_of`, for a row.
    """
    if task == "regression":
        return _regression(name, [], options)
    if not labels:
        return _undecided(name, options)
    return _labels(name, options, type(labels[0]).__name__, "the labels of the model are")


def _undecided(name: str, options: Options) -> Target:
    """Return the converter of a column without a label so far: its first label determines the type."""
    target: Target | None = None

    def convert(cell: Any) -> Any:
        nonlocal target
        if target is None:
            if _present(cell, options) is None:
                return None
            target = target_of(name, [cell], options, "classification", None)
        return target(cell)

    return convert


def _present(cell: Any, options: Options) -> Any:
    """Return a cell as a boolean, number or string; None if it is missing, as only an empty cell is."""
    if isinstance(cell, date | time | timedelta):
        value: Any = str(cell)
    else:
        value = cell.strip() if options.text and isinstance(cell, str) else plain(cell)
    if value is None or value == "" or isinstance(value, NESTED) or not options.na:
        return None if value == "" else value
    if name_of_label(value) in options.na:
        return None
    number = options.number(value) if isinstance(value, str) else value
    return None if not isinstance(value, bool) and number in options.na_numbers else value


def _labels(name: str, options: Options, kind: str, remedy: str) -> Target:
    known: dict[Any, Any] = {}  # labels repeat
    parse, what = {
        "str": (name_of_label, "a string"),
        "int": (_integer, "an integer"),
        "bool": (_boolean, "true or false"),
    }[kind]

    def convert(cell: Any) -> Any:
        if isinstance(cell, NESTED):
            return refused(cell)
        key = type(cell), cell
        if key in known:
            return known[key]
        value = _present(cell, options)
        label = None if value is None else parse(value)
        if label is None and value is not None:
            return refused(value)
        if len(known) < 10_000:
            known[key] = label
        return label

    def refused(value: Any) -> None:
        if options.labelled:
            raise TargetError(f"has {value!r:.80} in the column {name!r}, which is not {what}: {remedy}")

    return convert


def _type_of(name: str, present: list[Any], options: Options) -> str:
    """Return the type of the labels in a column: strings are strings, unless they are text of CSV."""
    typed_strings = not options.text and any(isinstance(value, str) for value in present)
    numbers: list[float | None] = []
    if options.labelled and not typed_strings:
        parse = _parser(present, options)
        numbers = [parse(v) if isinstance(v, str) else float(v) for v in present]
    if not typed_strings:
        if all(_boolean(value) is not None for value in present):
            return "bool"
        if all(_integer(value) is not None for value in present):
            return "int"
    if options.text and options.labelled:
        check_decimal(name, present, options)
    fraction = next((number for number in numbers if number is not None and not number.is_integer()), None)
    if fraction is not None and None not in numbers:
        raise FileError(
            f"has fractions in the target {name!r}, such as {fraction:g}: give --task regression, or "
            "--labels str if they are names of classes"
        )
    words = [v for v, number in zip(present, numbers, strict=False) if number is None]
    if fraction is not None and 2 * len(words) <= len(present):
        options.notice(
            f"the target {name!r} is read as strings, although most rows have a number: give "
            f"--task regression for numbers, and --na {quoted(words[0])} if {words[0]!r:.80} is a missing "
            "value"
        )
    return "str"


def _parser(words: list[Any], options: Options) -> Parser:
    """Return the parser of the numbers in a target: with a unit if all have it."""
    if not options.text or all(options.number(word) is not None for word in words):
        return options.number
    return recognise(words, options) or options.number


def _integer(value: Any) -> int | None:
    if isinstance(value, str):
        value = int(value.partition(".")[0]) if _INTEGER.fullmatch(value) else None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if value is None or isinstance(value, bool):
        return None
    return value if -(2**63) <= value < 2**63 else None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return _BOOLEANS.get(value.lower())
    return value if isinstance(value, bool) else None


def _regression(name: str, present: list[Any], options: Options) -> Target:
    parse = _parser(present, options)
    if options.labelled and present and all(_number(value, parse) is None for value in present):
        if options.text:
            check_decimal(name, present, options)
        raise FileError(
            f"has no numbers in the target {name!r}, as {present[0]!r:.80} shows: give --task classification"
        )

    def convert(cell: Any) -> float | None:
        value = _present(cell, options)
        number = None if value is None else _number(value, parse)
        if number is None and value is not None and options.labelled:
            raise TargetError(
                f"has {value!r:.80} in the column {name!r}, which is not a number: correct it, or give "
                f"--na {quoted(str(value))} if it is a missing value"
            )
        return number

    return convert


def _number(value: Any, parse: Parser) -> float | None:
    if isinstance(value, str):
        truth = _boolean(value)
        return parse(value) if truth is None else float(truth)
    return float(value) if isinstance(value, int | float) else None
