"""Dates, times of day and durations, and calendar features; CSV and Parquet agree to the last bit."""

from __future__ import annotations

import csv
import io
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from bnp_online import BNPClassifier
from bnp_online.files import read_samples
from tests.bnp_online.files.reading import Read, column

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01",
        "2026-01-01 00:00:00",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00",
        "2026-01-01 00:00:00.000000",
        "2026-01-01T00:00:00.000000000",
        "2026-01-01 01:00:00+01:00",
        "2026-01-01 00:00:00+00",
        "2026-01-01 00:00:00 UTC",
        "2025-12-31 23:00:00 -0100",
        "2026/01/01",
        "2026/1/1 0:00",
        "2026.01.01",
        "20260101T000000",
        "01-Jan-2026",
        "1 January 2026",
        "Jan 1, 2026",
        "January 1, 2026 12:00 AM",
        "Thu, 01 Jan 2026 00:00:00 GMT",
    ],
)
def test_dates_are_seconds_since_1970(text: str) -> None:
    assert column([text, ""], dates="raw") == [NEW_YEAR, None]


@pytest.mark.parametrize(
    ("cells", "day"),
    [
        (["02/01/2026", "13/01/2026"], 2),
        (["01/02/2026", "01/13/2026"], 2),
        (["02.01.2026", "03.01.2026"], 2),
        (["02-01-26", "31-01-26"], 2),
        (["1/2/26 1:00 PM", "1/31/26 2:00 PM"], 2.0 + 13 / 24),
    ],
)
def test_the_column_determines_the_order_of_day_and_month(cells: list[str], day: float) -> None:
    assert column(cells, dates="raw")[0] == NEW_YEAR + (day - 1) * 86400


def test_an_order_that_is_uncertain_is_reported() -> None:
    hourly = "".join(f"{1 + i // 24:02d}/01/2026 {i % 24:02d}:00,1\n" for i in range(240))
    read = Read("t,y\n" + hourly, dates="raw")
    assert [x["t"] for x in read.x] == [NEW_YEAR + 3600 * i for i in range(240)]
    assert "'01/01/2026 00:00' is read as day/month/year" in read.notices[0]
    assert "write the dates as YYYY-MM-DD" in read.notices[0]


@pytest.mark.parametrize("word", ["1.2.3", "1.2.26", "2026-13-01", "a-b", "10.0.0.1", "2026-01", "12-34"])
def test_words_that_are_no_dates_are_strings(word: str) -> None:
    assert column(["x", word]) == ["x", word]
    assert column([word]) == [word]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("01:30", 5400),
        ("01:30:15.5", 5415.5),
        ("1:30 PM", 48600),
        ("26:00:00", 93600),
        ("1 days 02:00:00", 93600),
        ("-1 days +23:59:59.500000", -0.5),
        ("1 day, 2:00:00", 93600),
        ("PT1H30M", 5400),
        ("P1DT0.5S", 86400.5),
    ],
)
def test_times_of_day_and_durations_are_seconds(text: str, seconds: float) -> None:
    assert column([text, "NA"], dates="drop") == [seconds, None]


def test_calendar_features_begin_when_a_column_has_varied_by_more_than_a_day() -> None:
    read = Read(
        "t,y\n" + "".join(f"2026-01-01T{i:02d}:00,1\n" for i in range(24)) + "2026-01-02 00:00:01,1\n,1\n"
    )
    assert all(x.keys() == {"t"} for x in read.x[:24])
    assert read.x[24] == {
        "t": NEW_YEAR + 86401,
        "t.hour_sin": 0.0,
        "t.hour_cos": 1.0,
        "t.weekday_sin": math.sin(2 * math.pi * 4 / 7),
        "t.weekday_cos": math.cos(2 * math.pi * 4 / 7),
        "t.month_sin": 0.0,
        "t.month_cos": 1.0,
    }
    assert read.x[25] == dict.fromkeys(read.x[24])
    assert Read("t,y\n1960-07-04 18:00:00,1\n1970-01-01,1\n").x[1]["t.month_cos"] == 1.0


def test_calendar_features_before_1970() -> None:
    x = Read("t,y\n1970-01-01,1\n1960-07-04 18:30:00,1\n").x[1]
    assert (round(x["t.hour_sin"], 9), round(x["t.month_cos"], 9), x["t.weekday_sin"]) == (-1, -1, 0)


def test_times_outside_of_the_years_of_python_have_no_calendar_features() -> None:
    text = "t,y\n2026-01-01,1\n9999-12-31T23:59:59-12:00,1\n0001-01-01T00:00:00+12:00,1\n"
    assert [x.get("t.hour_sin") for x in Read(text).x] == [None, None, None]


def test_a_prediction_has_calendar_features_from_the_first_row() -> None:
    assert len(Read("t\n2026-01-01\n", None, labelled=False).x[0]) == 7


def test_calendar_features_of_a_model_are_there_from_the_first_row() -> None:
    day = "t,y\n2026-01-01 10:00,1\n2026-01-01 11:00,0\n"
    known = Read("t,y\n2026-01-01,1\n2026-03-01,0\n").x[1]
    for labelled in (True, False):
        assert [x.keys() for x in Read(day, calendar=known, labelled=labelled).x] == [known.keys()] * 2
        assert [x.keys() for x in Read(day, calendar=["t"], labelled=labelled).x] == [{"t"}] * 2


def test_dates_are_left_out_or_raw() -> None:
    text = "t,a,y\n2026-01-01,1,0\n2026-02-01,2,0\n"
    assert Read(text, dates="drop").x == [{"a": 1}, {"a": 2}]
    assert Read(text, dates="raw").x[1] == {"t": NEW_YEAR + 31 * 86400, "a": 2}


def test_calendar_features_have_names_of_their_own() -> None:
    x = Read("t,t.hour_sin,y\n2026-01-01,7,0\n2026-02-01,8,0\n").x[1]
    assert x["t.hour_sin"] == 8
    assert "t..hour_sin" in x
    assert len(x) == 8


def test_a_date_of_another_form_is_an_error_of_its_row() -> None:
    read = Read("t,y\n" + "2026-01-01,0\n" * 256 + "soon,0\n")
    assert read.x[256] is None
    assert read.errors[257].startswith("has 'soon' in the column 't', which is not a date")
    assert read.errors[257].endswith("give --na soon if it is a missing value")


def test_strings_of_json_may_be_dates() -> None:
    line = '{"x": {"t": "2026-01-01T00:00:00Z", "s": "red"}, "y": 1}\n'
    assert Read(line, None).x == [{"t": NEW_YEAR, "s": "red"}]
    assert Read('{"t": "2026-01-01", "y": 1}\n{"y": 1}\n{"t": null, "y": 1}\n').x == [
        {"t": NEW_YEAR},
        {},
        {"t": None},
    ]


MOMENTS = [
    datetime(2026, 1, 1, 12, 30, 15, 123457) + timedelta(days=7 * i, microseconds=i) for i in range(50)
]
FRAME = pd.DataFrame(
    {
        "moment": pd.Series([None, *MOMENTS[1:]], dtype="datetime64[us]"),
        "nano": pd.to_datetime([f"2026-03-{1 + i % 28:02d} 01:02:03.123456789" for i in range(50)]),
        "early": pd.to_datetime([f"1969-12-{1 + i % 28:02d} 01:02:03.000000001" for i in range(50)]),
        "zone": pd.Series(MOMENTS).dt.tz_localize("Europe/Berlin"),
        "duration": pd.to_timedelta([None, *(i * 1_234_567 - 10**7 for i in range(49))], unit="us"),
        "category": pd.Categorical(["x", None, "y", "x", "y"] * 10),
        "integer": pd.array([None, 2**53 + 1, -5, 0, 7] * 10, dtype="Int64"),
        "boolean": pd.array([True, None, False, True, False] * 10, dtype="boolean"),
        "number": [0.1, math.nan, 1e-300, -1e22, 1 / 3] * 10,
        "y": [0, 1] * 25,
    }
)


def fingerprint(read: Read) -> str:
    """The state of a model that has learned the rows."""
    model = BNPClassifier(hidden=(4,))
    for row in read.rows:
        model.learn_one(row.x, row.y)
    return model.fingerprint()


@pytest.mark.parametrize("dates", ["raw", "calendar"])
def test_csv_and_parquet_of_pandas_agree(dates: Any) -> None:
    parquet = io.BytesIO()
    FRAME.to_parquet(parquet)
    text = Read(FRAME.to_csv(index=False), dates=dates)
    binary = Read(parquet.getvalue(), dates=dates)
    assert fingerprint(text) == fingerprint(binary)
    assert len(binary.x[20]) == 9 + 24 * (dates == "calendar")


def test_csv_and_parquet_of_polars_agree() -> None:
    frame = pl.DataFrame(
        {
            "moment": MOMENTS,
            "day": [moment.date() for moment in MOMENTS],
            "clock": [time(1, 2, 3, i) for i in range(50)],
            "price": pl.Series(["1.10", "2.35", None, "0.07", "3"] * 10).cast(pl.Decimal(10, 2)),
            "kind": pl.Series(["x", "y"] * 25, dtype=pl.Categorical),
            "y": [True, False] * 25,
        }
    )
    parquet = io.BytesIO()
    frame.write_parquet(parquet)
    text, binary = Read(frame.write_csv()), Read(parquet.getvalue())
    assert fingerprint(text) == fingerprint(binary)
    assert [(row.x, row.y) for row in text.rows] == [(row.x, row.y) for row in binary.rows]
    assert text.x[1]["price"] == 2.35


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("make", [pa.timestamp, pa.duration])
def test_each_unit_of_arrow(unit: str, make: Any) -> None:
    values = pa.array(
        [86400 * 20000 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit], None], make(unit)
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"t": values, "y": [0, 1]}), sink)
    assert Read(bytes(sink.getvalue())).x == [{"t": 86400.0 * 20000}, {"t": None}]


def test_other_types_of_arrow() -> None:
    table = pa.table(
        {
            "date": pa.array([date(2026, 1, 1)], pa.date64()),
            "time": pa.array([time(0, 0, 1)], pa.time32("ms")),
            "nano": pa.array([1_000_000_999], pa.time64("ns")),
            "half": pa.array([0.5], pa.float16()),
            "large": pa.array(["x"], pa.large_string()),
            "view": pa.array(["x"], pa.string_view()),
            "null": pa.nulls(1),
            "zone": pa.array([datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))]),
            "y": [0],
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert Read(bytes(sink.getvalue())).x == [
        {
            "date": NEW_YEAR,
            "time": 1.0,
            "nano": 1.0,
            "half": 0.5,
            "large": "x",
            "view": "x",
            "null": None,
            "zone": NEW_YEAR - 3600,
        }
    ]


def test_the_source_of_a_row_has_the_values_of_the_file() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"t": [datetime(2026, 1, 1)], "y": [1.0]}), sink)
    with read_samples(io.BytesIO(bytes(sink.getvalue())), "y") as rows:
        source = next(rows).source
    assert source == {"t": datetime(2026, 1, 1), "y": 1.0}
    csv.DictWriter(io.StringIO(), source).writerow(source)
