"""What csv.writer, pandas, polars and Arrow write is read back equal."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as pa_csv

from bnp_online.files.cells import MISSING
from tests.bnp_online.files.reading import Read

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)
#: Words that no rule takes for another type; spaces around a word are stripped.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=8).map(
    lambda text: f"w{text}w"
)
KINDS: list[st.SearchStrategy[Any]] = [NUMBERS, st.booleans(), WORDS]
COLUMNS = st.sampled_from(KINDS).flatmap(
    lambda kind: st.lists(kind | st.none(), min_size=5, max_size=5).filter(
        lambda values: any(value is not None for value in values)
    )
)
TABLES = st.dictionaries(
    WORDS.map(lambda word: word.replace("\n", "n")), COLUMNS, min_size=1, max_size=4
).map(lambda columns: {**columns, "y": [0, 1, 2, 3, 4]})


def expected(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    names = [name for name in columns if name != "y"]
    return [{name: columns[name][i] for name in names} for i in range(5)]


def same(read: Read, columns: dict[str, list[Any]]) -> bool:
    assert not read.errors
    assert read.y == columns["y"]
    for x, row in zip(read.x, expected(columns), strict=True):
        assert x.keys() == row.keys()
        for name, value in row.items():
            number = isinstance(value, int | float)
            assert x[name] == (float(value) if number else value), (x[name], value)
            assert not number or math.copysign(1, x[name]) == math.copysign(1, value)
    return True


@settings(max_examples=60, deadline=None)
@given(TABLES, st.sampled_from([",", ";", "\t", "|"]), st.booleans())
def test_csv_writer(columns: dict[str, list[Any]], sep: str, every: bool) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=sep, quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    assert same(Read(sink.getvalue(), sep=sep), columns)


@settings(max_examples=30, deadline=None)
@given(TABLES)
def test_pandas(columns: dict[str, list[Any]]) -> None:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    assert same(Read(frame.to_csv(index=False), sep=","), columns)
    assert same(
        Read(frame.to_csv(index=False, na_rep="NA", encoding="utf-8").encode("utf-16"), sep=","), columns
    )


@settings(max_examples=30, deadline=None)
@given(TABLES)
def test_polars_and_arrow(columns: dict[str, list[Any]]) -> None:
    single = {
        name: [float(v) if type(v) in (int, float) and name != "y" else v for v in values]
        for name, values in columns.items()
    }
    frame = pl.DataFrame(single, strict=False)
    assert same(Read(frame.write_csv(), sep=","), single)
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(pa.table(single), sink)
    assert same(Read(bytes(sink.getvalue()), sep=","), single)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(single), sink)
    assert same(Read(bytes(sink.getvalue())), single)


@settings(max_examples=30, deadline=None)
@given(TABLES)
def test_json_lines(columns: dict[str, list[Any]]) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert same(Read("\n".join(map(json.dumps, rows))), columns)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    from bnp_online.files import FileError

    try:
        read = Read("a,y\n" + text)
    except FileError:
        return
    assert all(row.error is not None or row.y is not None for row in read.rows)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    from bnp_online.files import FileError

    try:
        Read(b"a,y\n1,0\n" + data)
        Read(data)
    except FileError:
        pass


def test_no_word_of_these_tests_is_missing() -> None:
    assert not any(word.startswith("w") for word in MISSING)
