"""Rows of a file: the choice of the reader, and the conversion of each row to a sample."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from .arrow import read_arrow, read_parquet
from .cells import CellError, Options, quoted
from .choices import Choices, format_of, nearest
from .columns import Columns
from .delimited import InvalidRow, read_delimited
from .json_lines import read_json_lines
from .source import FileError, Lines, Source, UnreadableRowError
from .targets import Target, TargetError, target_of

_Cells: TypeAlias = "Mapping[str, Any] | InvalidRow"

#: Rows that determine the types of the columns.
HEAD = 256

#: Column in which pandas stores the index of a frame.
_INDEX = re.compile(r"__index_level_\d+__")


class Row(NamedTuple):
    """Row of a file: a sample, or the reason why it is invalid.

    Attributes
    ----------
    number : int
        From 1; the header is not counted.
    x : dict or list
        Features.
    y : label, number or None
        Target; None if there is none.
    id : str or None
        Id in a line of the form ``{"x": …, "y": …, "id": …}``.
    w : float
        Weight in such a line.
    error : str or None
        Reason why the row is invalid: a predicate, such as "has no target".
    source : dict
        Row as in the file: text or value by column.
    """

    number: int
    x: Any = None
    y: Any = None
    id: str | None = None
    w: float = 1.0
    error: str | None = None
    source: Mapping[str, Any] = {}


class LineForm(NamedTuple):
    """Form of lines of which each is a sample with numbers and strings alone.

    Attributes
    ----------
    features, target, weight, id : str or None
        Fields of a JSON object, or columns; `features` is None if they are beside the target.
    header : tuple of str or None, optional
        Names of the cells of CSV, None for one that is left out; None for JSON.
    numbers : frozenset of str
        Columns of CSV with numbers. In others digits are a string.
    sep : str
        Separator of the cells.
    left_out : frozenset of str
        Fields that are left out.
    """

    features: str | None
    target: str | None
    weight: str | None
    id: str | None
    header: tuple[str | None, ...] | None
    numbers: frozenset[str]
    sep: str
    left_out: frozenset[str]


class Samples(Iterator[Row]):
    """Rows of a file, as `read_samples` returns them: an iterator and a context manager."""

    def __init__(self, source: Source, choices: Choices, options: Callable[..., Options]) -> None:
        self._source = source
        self._choices = choices
        self._read = self._given = 0  # rows
        self._text: Lines | None = None
        self._header: tuple[list[str], str] | None = None  # names and separator of CSV
        self._before = 0  # lines taken before the latest row
        try:
            source.start()
            self._form = format_of(source, choices.format)
            self._options = options(text=self._form in ("csv", "tsv"))
            left_out = {*choices.drop, *([] if choices.target is None else [choices.target])}
            self._columns = Columns(self._options, left_out)
            self._rows = self._started()
        except (FileError, UnreadableRowError) as error:
            raise self._named(error) from None

    def __next__(self) -> Row:
        self._before = 0 if self._text is None else self._text.taken
        try:
            row = next(self._rows)
        except (FileError, UnreadableRowError) as error:
            raise self._named(error) from None
        self._given += 1
        return row

    def __enter__(self) -> Samples:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, unless it was passed as an open file."""
        self._source.close()

    @property
    def fraction(self) -> float | None:
        """Share of the file that has been read, 0 to 1, by bytes; None for a pipe."""
        return self._source.fraction

    @property
    def line_form(self) -> LineForm | None:
        """Form of the next lines; None if the meaning of one may depend on others, or is not plain.

        While it does not change, a line has the meaning of its values, as `Row` has them: a number is itself.
        """
        left_out = self._columns.left_out()
        options = self._options
        if self.fraction is None or self._text is None or options.na or self._columns.has_calendar:
            return None
        target = self._choices.target
        if self._form == "ndjson":
            if target is None:
                return LineForm("x", "y", "w", "id", None, frozenset(), "", left_out)
            return LineForm(None, target, None, None, None, frozenset(), "", left_out)
        if self._header is None or options.decimal != ".":
            return None
        names, sep = self._header
        kinds = self._columns.kinds
        features = [name for name in names if name != target and name not in left_out]
        if sep == " " or not sep.isascii() or any(kinds.get(name, "other") == "other" for name in features):
            return None
        header = tuple(name if name == target or name not in left_out else None for name in names)
        numbers = frozenset(name for name in features if kinds[name] == "number")
        return LineForm(None, target, None, None, header, numbers, sep, left_out)

    @property
    def line(self) -> str | None:
        """Line of the latest row; None if it had several, or was read earlier."""
        text = self._text
        return text.last if text is not None and text.taken == self._before + 1 else None

    def ahead(self, most: int) -> list[str]:
        """Return the next lines of text without reading them as rows; none if rows were read ahead."""
        return [] if self._text is None or self._given < self._read else self._text.ahead(most)

    def skip(self, count: int) -> None:
        """Skip rows, the lines of which `ahead` returned."""
        assert self._text is not None  # noqa: S101 (there are such lines)
        self._text.skip(count)
        self._read += count
        self._given += count

    def _named(self, error: FileError | UnreadableRowError) -> FileError:
        name = self._source.name
        if isinstance(error, UnreadableRowError):
            return FileError(f"{name}: row {self._read + 1} {error}")
        return FileError(f"{name} {error}")

    def _started(self) -> Iterator[Row]:
        """Read the first rows, determine the columns, and return all rows."""
        target, labelled, unnamed = self._choices.target, self._choices.labelled, list[str]()
        if self._form == "ndjson":
            rows = self._numbered(read_json_lines(self._lines()))
            if target is None:
                return self._lines_with_x(self._first_lines(rows))
        elif self._options.text:
            expected = "\t" if self._form == "tsv" else ","
            table = read_delimited(self._lines(), self._choices.sep, expected, self._options.notice)
            self._check_names(table.names)
            self._header = table.names, table.sep
            unnamed = table.unnamed
            rows = self._numbered(table.rows)
        else:
            rows = self._numbered((read_parquet if self._form == "parquet" else read_arrow)(self._source))
        head = list(itertools.islice(rows, HEAD))
        if not head:
            raise FileError("has no rows")
        valid = [(number, row) for number, row in head if not isinstance(row, InvalidRow)]
        if valid and not self._options.text:
            names = [*dict.fromkeys(name for _, row in valid for name in row)]
            self._check_names(names, all_names=self._form != "ndjson" or len(head) < HEAD)
            unnamed = [name for name in names if _INDEX.fullmatch(name)]
        self._leave_out(unnamed, valid)
        parse = self._target(target, valid)
        if valid and target is not None and labelled and all(row.keys() <= {target} for _, row in valid):
            self._options.notice(f"there are no features: no column except the target {target!r}")
        self._columns.decide(valid)
        return self._samples(itertools.chain(head, rows), parse)

    def _lines(self) -> Iterator[str]:
        self._text = Lines(self._source.lines(self._choices.encoding))
        return self._text

    def _numbered(self, rows: Iterable[_Cells]) -> Iterator[tuple[int, _Cells]]:
        for row in rows:
            self._read += 1
            yield self._read, row

    def _target(self, target: str | None, rows: list[tuple[int, Mapping[str, Any]]]) -> Target:
        if target is None:
            return lambda cell: None
        cells = [row[target] for _, row in rows if target in row]
        return target_of(target, cells, self._options, self._choices.task, self._choices.labels)

    def _samples(self, rows: Iterator[tuple[int, _Cells]], parse: Target) -> Iterator[Row]:
        target, labelled = self._choices.target, self._choices.labelled
        for number, row in rows:
            if isinstance(row, InvalidRow):
                yield Row(number, error=row.reason, source=row.source)
                continue
            self._columns.row = number
            y = error = None
            try:
                y = None if target is None else parse(row.get(target))
            except TargetError as fault:
                error = str(fault)
            if y is None and labelled and error is None:
                error = "has no target"
            x, reason = self._features(row)
            yield Row(number, x, y, None, 1.0, error or reason, row)

    def _features(self, cells: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
        """Return the features of a row, or why it has none."""
        try:
            return self._columns.features(cells), None
        except CellError as error:
            return None, f"{error}: give --na {quoted(error.word)} if it is a missing value"

    def _first_lines(self, rows: Iterator[tuple[int, _Cells]]) -> Iterator[tuple[int, _Cells]]:
        """Determine the columns by the first lines of a file, and return all lines.

        A pipe is not read ahead: the first value of each column determines its type.
        """
        head = list(itertools.islice(rows, 1 if self.fraction is None else HEAD))
        valid = [(number, row) for number, row in head if not isinstance(row, InvalidRow)]
        if valid and self._choices.labelled and "x" not in valid[0][1]:
            names = list(valid[0][1])
            raise FileError(f'has no "x" in its rows: give --target NAME{nearest("", names)}')
        if self.fraction is not None:
            x = ((number, row.get("x", row)) for number, row in valid)
            self._columns.decide([(number, row) for number, row in x if isinstance(row, dict)], nested=True)
        return itertools.chain(head, rows)

    def _lines_with_x(self, rows: Iterator[tuple[int, _Cells]]) -> Iterator[Row]:
        """Yield the rows of NDJSON without a target column as they arrive: with an "x", or features alone."""
        labelled = self._choices.labelled
        for number, row in rows:
            self._columns.row = number
            if isinstance(row, InvalidRow):
                yield Row(number, error=row.reason, source=row.source)
            elif isinstance(row.get("x"), dict | list):
                x, y, w = row["x"], row.get("y"), row.get("w")
                x, fault = self._features(x) if isinstance(x, dict) else (x, None)
                error = "has no target" if y is None and labelled else fault
                yield Row(number, x, y, row.get("id"), 1.0 if w is None else w, error, row)
            elif labelled:
                error = 'has no "x": give --target NAME if its columns are features'
                yield Row(number, error=error, source=row)
            else:
                x, error = self._features(row)
                yield Row(number, x, error=error, source=row)

    def _leave_out(self, unnamed: list[str], rows: list[tuple[int, Mapping[str, Any]]]) -> None:
        """Leave out columns without a name, which are the index of a frame."""
        for name in unnamed:
            if name in self._options.keep or name == self._choices.target:
                continue
            self._columns.leave_out(name)
            if name not in self._choices.drop and any(row.get(name) not in ("", None) for _, row in rows):
                self._options.notice(
                    f"{name} has no name in the header, and is left out; --keep {quoted(name)} keeps it"
                    if self._options.text
                    else f"column {name!r}, the index of a data frame, is left out; --keep {name} keeps it"
                )

    def _check_names(self, names: list[str], *, all_names: bool = True) -> None:
        """Refuse names that the file does not have."""
        target = self._choices.target
        if target is None and self._choices.labelled:
            raise FileError(f"needs --target NAME: the column with the target{nearest('', names)}")
        if target is not None and self._choices.labelled and target not in names:
            hint = ""
            sign = next((sign for sign in ",;\t| " if sign in names[0]), None)
            if len(names) == 1 and sign is not None:
                shown = "\\t" if sign == "\t" else sign
                hint = f"; another --sep may separate its columns: --sep {quoted(shown)}"
            elif self._options.text and all(self._options.number(name) is not None for name in names):
                hint = "; its first row must have the names of the columns"
            raise FileError(f"has no column {target!r}{nearest(target, names)}{hint}")
        for option in ("drop", "keep") if all_names else ():
            asked = self._choices.drop if option == "drop" else self._options.keep
            for name in sorted(asked.difference(names)):
                given = "text" if option == "keep" and name in self._options.texts else option
                raise FileError(f"has no column {name!r}, which --{given} names{nearest(name, names)}")
