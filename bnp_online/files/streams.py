"""Rows of CSV that arrive one by one, by the rules of `read_samples`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..values import Label
from .cells import CellError, Options
from .choices import nearest
from .columns import Columns
from .delimited import InvalidRow, column_names, row_of
from .source import FileError
from .targets import Target, TargetError, Task, target_of_model

_KINDS = {bool: "true or false", int: "an integer", str: "a string"}


class Roles(NamedTuple):
    """Names of the columns that are no features; None if there is no such column."""

    target: str | None = None
    id: str | None = None
    weight: str | None = None


@dataclass(frozen=True)
class Known:
    """What a model knows of the columns.

    Attributes
    ----------
    task : {"classification", "regression"}
        Its task.
    labels : sequence
        Its labels: those of a column have their type.
    features : collection of str
        Its columns: a feature with columns ``name=value`` is read as strings, another one as numbers.
    strings, texts : collection of str
        Further features with strings, and those whose words the model reads.
    """

    task: Task = "classification"
    labels: Sequence[Label] = ()
    features: Collection[str] = ()
    strings: Collection[str] = ()
    texts: Collection[str] = ()


class RowReader:
    """Reader of rows of CSV, each of which is read before the next one arrives.

    Cells have the meaning that they have in a file (`read_samples`). But the columns that the model has, and
    else the first value of each column, determine the types, and no column is left out as an id.

    Parameters
    ----------
    header : str
        First line: the names of the columns, separated by commas.
    roles : Roles
        Columns that are no features.
    known : Known
        The model.
    labelled : bool
        Whether rows are samples to learn: a row without a target is invalid. Otherwise targets and weights
        are ignored.
    notice : callable
        Takes a message about what was assumed of a column.

    Attributes
    ----------
    names : list of str or None
        Columns in order; None for one without a name, which is left out.

    Raises
    ------
    FileError
        If the header has a name twice, or lacks the column of a role. The message is a predicate.

    Examples
    --------
    >>> reader = RowReader("size,colour,y", Roles("y"))
    >>> reader.read("1.5,red,0")
    {'x': {'size': 1.5, 'colour': 'red'}, 'y': 0}
    >>> reader.read("NA,blue,1")
    {'x': {'size': None, 'colour': 'blue'}, 'y': 1}
    >>> reader.read("1,red")
    InvalidRow(reason="has no target in the column 'y'", source={'size': '1', 'colour': 'red', 'y': ''})
    """

    def __init__(
        self,
        header: str,
        roles: Roles,
        known: Known | None = None,
        *,
        labelled: bool = True,
        notice: Callable[[str], object] = lambda message: None,
    ) -> None:
        known = known or Known()
        names, unnamed = column_names(_cells(header))
        for role, name in roles._asdict().items():
            if name is not None and name not in names:
                raise FileError(f"has no column {name!r} for the {role}{nearest(name, names)}")
        given = [name for name in roles if name is not None]
        if twice := next((name for name in given if given.count(name) > 1), None):
            raise FileError(f"has one column {twice!r}, and it is named as two of target, id and weight")
        self._columns_of_file = names
        self.names = [None if name in unnamed else name for name in names]
        self._roles, self._known, self._labelled = roles, known, labelled
        self._options = Options(
            text=True,
            notice=notice,
            keep=frozenset(names),
            texts=frozenset(known.texts),
            strings=frozenset({*string_features(known.features), *known.strings, *known.texts}),
            numbers=frozenset(known.features),
            calendar=frozenset(known.features),
            labelled=labelled,
        )
        self._columns = Columns(self._options, {*unnamed, *given})
        self._columns.begin(names)
        self._target = self._new_target()
        self._open = False  # whether a quotation mark is not closed

    def _new_target(self) -> Target:
        if self._roles.target is None:
            return lambda cell: None
        return target_of_model(self._roles.target, self._options, self._known.task, self._known.labels)

    @property
    def kinds(self) -> tuple[Literal["number", "string", "other"] | None, ...]:
        """Type of each column: None if it is no feature, ``"other"`` also if it has no value so far."""
        left_out = {*self._roles}
        return tuple(
            None if name is None or name in left_out else self._columns.kinds.get(name, "other")
            for name in self.names
        )

    def read(self, line: str) -> dict[str, Any] | InvalidRow:
        """Return the sample of a line: ``x``, and those of ``y``, ``w`` and ``id`` that it has.

        Parameters
        ----------
        line : str
            The line without its line break.
        """
        if self._open:
            return InvalidRow("follows a line with a quotation mark that is not closed", {})
        try:
            cells = _cells(line)
        except FileError as error:
            return InvalidRow(str(error), {})
        if cells and "\n" in cells[-1]:
            self._open = True
            return InvalidRow(
                "has a quotation mark that is not closed: close it, and send cells without line breaks", {}
            )
        row = row_of(cells, self._columns_of_file)
        return row if isinstance(row, InvalidRow) else self._sample(row)

    def _sample(self, row: dict[str, str]) -> dict[str, Any] | InvalidRow:
        target, identifier, weight = self._roles
        if not self._labelled:
            target = weight = None
        found: dict[str, Any] = {}
        if target is not None:
            try:
                y = self._target(row[target])
            except (TargetError, FileError):
                return InvalidRow(
                    f"has {row[target]!r:.80} in the column {target!r}, which is not {self._what()}", row
                )
            if y is None:
                return InvalidRow(f"has no target in the column {target!r}", row)
            found["y"] = y
        if weight is not None and (word := row[weight].strip()):
            found["w"] = self._options.number(word)
            if found["w"] is None:
                return InvalidRow(f"has {word!r:.80} in the column {weight!r}, which is not a number", row)
        if identifier is not None and (word := row[identifier].strip()):
            found["id"] = word
        try:
            return {"x": self._columns.features(row), **found}
        except CellError as error:
            return InvalidRow(f"{error}: leave the cell empty if the value is missing", row)

    def _what(self) -> str:
        if self._known.task == "regression":
            return "a number"
        if not self._known.labels:
            return "a class as the first one is: an integer, true or false, or a string"
        return f"{_KINDS[type(self._known.labels[0])]}, as the labels of the model are"


def string_features(columns: Collection[str]) -> set[str]:
    """Return the names of the string features among the columns of a model.

    Examples
    --------
    >>> sorted(string_features(["age", "zip=02139", "zip=94305"]))
    ['zip']
    """
    # A name may have "=" itself: each part before one may be a name.
    parts = ((name, name.split("=")) for name in columns)
    return {"=".join(words[:i]) for _, words in parts for i in range(1, len(words))}.difference(columns)


def _cells(line: str) -> list[str]:
    """Return the cells of a line; a line break in the last one shows a quotation mark that is not closed."""
    try:
        return next(csv.reader([line + "\n"], skipinitialspace=True))
    except csv.Error as error:
        raise FileError(f"is not CSV: {error}") from None
