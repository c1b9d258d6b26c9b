"""Samples of a file: the public functions."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from .cells import Options
from .choices import Choices, Dates, Format
from .rows import Samples
from .source import Source
from .targets import LabelType, Task


def read_samples(
    file: str | Path | IO[bytes],
    target: str | None = None,
    *,
    labelled: bool = True,
    format: Format | None = None,
    sep: str | None = None,
    decimal: str = ".",
    na: Collection[str] = (),
    drop: Collection[str] = (),
    keep: Collection[str] = (),
    texts: Collection[str] = (),
    strings: Collection[str] = (),
    numbers: Collection[str] = (),
    labels: LabelType | None = None,
    encoding: str | None = None,
    dates: Dates = "calendar",
    calendar: Collection[str] | None = None,
    task: Task = "classification",
    notice: Callable[[str], object] | None = None,
) -> Samples:
    r"""Return the rows of a file of samples, read as they are needed.

    Parameters
    ----------
    file : str, Path or binary file
        Path of a file or named pipe; "-" is standard input. Compression with gzip or zstd is recognised.
    target : str, optional
        Column with the target. Lines of NDJSON of the form ``{"x": …, "y": …, "id": …, "w": …}`` need none.
    labelled : bool
        Whether a row without a target is invalid.
    format : {"csv", "tsv", "ndjson", "parquet", "arrow"}, optional
        Default: by the content, and for text by the suffix.
    sep : str, optional
        Separator of the columns. Default: comma, semicolon, tab or ``|``, whichever the first lines have.
    decimal : {".", ","}
        Decimal sign of numbers.
    na : collection of str
        Further words for a missing value, in features and in the target; a number stands for equal numbers.
    drop : collection of str
        Columns to leave out.
    keep : collection of str
        Columns to read although each row has another value, or although their numbers have commas.
    texts : collection of str
        Columns whose words the model reads: they are strings, although each row has another value.
    strings : collection of str
        Columns of CSV whose values are strings although they look like numbers, such as codes.
    numbers : collection of str
        Columns of CSV whose values are numbers although the first rows have words too, which are missing.
    labels : {"str", "int"}, optional
        Type of the labels. Default: by the column.
    encoding : str, optional
        Encoding of the text. Default: UTF-8, or UTF-16 or UTF-32 where the first bytes show it.
    dates : {"calendar", "raw", "drop"}
        Dates as seconds since 1970 with calendar features, as seconds alone, or left out.
    calendar : collection of str, optional
        Features of a model: those of them that are calendar features are there from the first row on.
    task : {"classification", "regression"}
        Whether the target is a label or a number.
    notice : callable, optional
        Takes a message about the file. Default: `warnings.warn`.

    Returns
    -------
    Samples
        Iterator of `Row`, to be closed; its `fraction` is the share of the file that has been read.

    Raises
    ------
    FileError
        If the file cannot be read as samples, here or while it is read.
    OSError
        Of the operating system; its ``filename`` is the name as given.

    Notes
    -----
    The first 256 rows determine the type of each column of CSV: numbers, booleans (true, false), dates, times
    of day and durations (in seconds), or strings. A later row with a cell of another type is invalid, unless
    the cell stands for a missing value. Parquet, Arrow and NDJSON have types; their strings may be dates.

    Numbers may have separated thousands, and a currency or percent sign that is the same in the whole column:
    1,234.50, 1'234.50, $990, 12 %; with the decimal sign ``,`` also 1.234,50 €. A column in which each comma
    may be a decimal sign, such as 1,234, is refused unless `decimal` is ``,``.

    Missing features of CSV are empty, NA, N/A, #N/A, NaN, NaT, <NA>, null and ``\N``, in any case; and among
    numbers, booleans and dates also ``?``, ``-``, ``.``, None, missing, and the errors of Excel, such as
    #DIV/0!. In the target only an empty cell is missing.

    Labels are integers if all are (1.0 is 1), booleans if all are true or false, and else strings. With a
    leading zero, as in 007, they are strings.

    Calendar features of a column t are t.hour_sin, t.hour_cos, t.weekday_sin, t.weekday_cos, t.month_sin and
    t.month_cos, in UTC. They begin when the column has varied by more than a day; if `labelled` is false, at
    once, or, if `calendar` is given and has none of them, never. Times have microseconds.

    A column of strings with a new value in 99 % of the first rows, at least 200, is left out. One that has so
    many new values later is left out from there on. If `labelled` is false, such columns are kept.

    A pipe with CSV, or with a target column in NDJSON, gives its first row once 256 have arrived; lines of
    NDJSON with "x" are given as they arrive.

    Examples
    --------
    >>> import io
    >>> with read_samples(io.BytesIO(b"colour,size,y\nred,1.5,0\nblue,NA,1\n"), "y") as rows:
    ...     for row in rows:
    ...         print(row.number, row.x, row.y)
    1 {'colour': 'red', 'size': 1.5} 0
    2 {'colour': 'blue', 'size': None} 1
    """
    choices = Choices(
        target,
        labelled,
        format,
        "\t" if sep in ("\\t", "tab") else sep,
        frozenset(drop),
        labels,
        encoding,
        task,
    )
    choices.check(decimal, dates)
    options = functools.partial(
        Options,
        notice=notice or _warn,
        decimal=decimal,
        na=frozenset(na),
        keep=frozenset(keep),
        texts=frozenset(texts),
        strings=frozenset((*strings, *texts)),
        numbers=frozenset(numbers),
        dates=dates,
        calendar=None if calendar is None else frozenset(calendar),
        labelled=labelled,
    )
    source = Source(file)
    try:
        return Samples(source, choices, options)
    except BaseException:
        source.close()
        raise


def iter_samples(
    file: str | Path | IO[bytes], target: str | None = None, **options: Any
) -> Iterator[tuple[Any, Any]]:
    r"""Yield (x, y) for each valid row of a file, as River's streams do; report and skip an invalid row.

    Parameters
    ----------
    file, target, **options
        As in `read_samples`.

    Examples
    --------
    >>> import io
    >>> list(iter_samples(io.BytesIO(b"a,y\n1.5,0\n2.5,1\n"), "y"))
    [({'a': 1.5}, 0), ({'a': 2.5}, 1)]
    """
    notice = options.get("notice") or warnings.warn
    with read_samples(file, target, **options) as rows:
        for row in rows:
            if row.error is None:
                yield row.x, row.y
            else:
                notice(f"row {row.number} {row.error}")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
