"""Formats, compression, pipes and progress: the same samples from each."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from pyarrow import csv as pa_csv
from pyarrow import feather

from bnp_online.files import FileError, iter_samples, read_samples
from tests.bnp_online.files.reading import Read

ROWS: list[dict[str, Any]] = [
    {"a": i / 7, "kind": "red" if i % 3 else "blue", "on": i % 2 == 0, "y": i % 4} for i in range(600)
]
EXPECTED = [({name: row[name] for name in ("a", "kind", "on")}, row["y"]) for row in ROWS]
TABLE = pa.Table.from_pylist(ROWS)


def written(write: Callable[[Any, pa.BufferOutputStream], object]) -> bytes:
    sink = pa.BufferOutputStream()
    write(TABLE, sink)
    return bytes(sink.getvalue())


def arrow_stream(table: pa.Table, sink: pa.BufferOutputStream) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


FORMATS = {
    "samples.csv": written(pa_csv.write_csv),
    "samples.tsv": written(pa_csv.write_csv).replace(b",", b"\t"),
    "samples.ndjson": b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
    "samples.parquet": written(pq.write_table),
    "samples.feather": written(feather.write_feather),
    "samples.arrows": written(arrow_stream),
}


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)  # type: ignore[no-any-return]


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_samples(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESSIONS[suffix](FORMATS[name]))
    read = Read(path)
    assert [(row.x, row.y) for row in read.rows] == EXPECTED
    assert [row.number for row in read.rows] == list(range(1, 601))
    assert read.fraction == 1.0
    assert not read.notices


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_named_pipe_needs_no_suffix(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    data = COMPRESSIONS[suffix](FORMATS[name])
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    with read_samples(path, "y", format="tsv" if name.endswith("tsv") else None) as rows:
        assert [(row.x, row.y) for row in rows] == EXPECTED
        assert rows.fraction is None or name.endswith(("parquet", "feather"))
    writer.join()


@pytest.mark.parametrize("name", ["samples.csv", "samples.parquet"])
def test_standard_input(name: str) -> None:
    code = (
        "from bnp_online.files import read_samples\n"
        "with read_samples('-', 'y') as rows: print(sum(row.y for row in rows))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=FORMATS[name], capture_output=True, check=True, cwd=Path.cwd()
    )
    assert int(done.stdout) == sum(y for _, y in EXPECTED)


@pytest.mark.parametrize("compress", [False, True])
def test_a_row_is_there_before_the_pipe_ends(compress: bool) -> None:
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as pipe, open(reading, "rb") as file:
        target: Any = gzip.GzipFile(fileobj=pipe, mode="wb") if compress else pipe
        target.write(b'{"x": {"a": 1}, "y": 0}\n')
        target.flush()
        rows = read_samples(file)
        assert next(rows).x == {"a": 1}
        target.write(b'{"x": {"a": 2}, "y": 1}\n')
        target.flush()
        assert next(rows).x == {"a": 2}
        target.close()


def test_csv_from_a_pipe_begins_after_the_first_256_rows() -> None:
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as pipe, open(reading, "rb") as file:
        pipe.write(b"a,y\n" + b"1,0\n" * 256)
        rows = read_samples(file, "y")
        assert next(rows).x == {"a": 1}


def test_the_fraction_grows_with_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv.gz"
    numbers = "".join(f"{i * 7919 % 10007 / 2},{i % 2}\n" for i in range(100_000))
    path.write_bytes(gzip.compress(f"a,y\n{numbers}".encode()))
    with read_samples(path, "y") as rows:
        shares = [rows.fraction for row in rows if row.number % 20_000 == 0]
    assert shares == sorted(shares, key=float)  # type: ignore[arg-type]  # none is None
    assert 0 < (shares[0] or 0) < 0.6
    assert shares[-1] == 1.0


def test_the_fraction_of_parquet_is_that_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    pq.write_table(pa.table({"a": range(4000), "y": [0, 1] * 2000}), path)
    with read_samples(path, "y", drop=["a"]) as rows:
        assert [rows.fraction for row in rows if row.number % 1000 == 0] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["samples.csv", "samples.parquet"])
def test_a_truncated_file_is_reported_with_its_row(name: str, suffix: str) -> None:
    data = COMPRESSIONS[suffix](FORMATS[name])
    with pytest.raises(FileError, match=r"row \d+ (is incomplete|cannot be decompressed).*"):
        Read(data[: len(data) * 3 // 4])


def test_a_truncated_stream_of_gzip_gives_the_rows_before() -> None:
    text = "a,y\n" + "".join(f"{i * 7919 % 10007 / 2},{i % 2}\n" for i in range(100_000))
    rows = read_samples(io.BytesIO(gzip.compress(text.encode())[:-20]), "y")
    numbers: list[int] = []
    with pytest.raises(FileError, match="the gzip file ends too early") as caught:
        numbers.extend(row.number for row in rows)
    assert len(numbers) > 50_000
    assert f"row {len(numbers) + 1} " in str(caught.value)


def test_gzip_has_several_members_and_zeros_at_its_end() -> None:
    data = gzip.compress(b"a,y\n1,0\n") + gzip.compress(b"2,1\n") + b"\0" * 100
    assert Read(data).x == [{"a": 1}, {"a": 2}]


def test_gzip_that_expands_a_thousand_times() -> None:
    assert len(Read(gzip.compress(b"a,y\n" + b"1,0\n" * 300_000)).rows) == 300_000


@pytest.mark.parametrize("name", ["samples.parquet", "samples.feather", "samples.arrows"])
def test_a_damaged_binary_file_is_reported(name: str) -> None:
    with pytest.raises(FileError, match="is damaged"):
        Read(FORMATS[name][:400])


def test_pyarrow_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for data in (FORMATS["samples.parquet"], FORMATS["samples.feather"], b"\x28\xb5\x2f\xfd1234"):
        with pytest.raises(FileError, match=r"needs pyarrow: pip install 'bnp-online\[files\]'"):
            Read(data)


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (b"PK\x03\x04 and more", "save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0 and more", "save the sheet as CSV"),
        (b"BZh91AY and more", "decompress it"),
        (b"", "is empty"),
        pytest.param(gzip.compress(b""), "is empty", id="empty gzip"),
        (b"\n\n", "is empty"),
        (b'[{"a": 1, "y": 0}]', "one object per line"),
        (b'{\n "a": 1\n}', "one object per line"),
    ],
)
def test_other_files_are_refused_with_the_remedy(data: bytes, remedy: str) -> None:
    with pytest.raises(FileError, match=remedy):
        Read(data)


def test_a_format_that_is_not_that_of_the_file_is_refused() -> None:
    with pytest.raises(FileError, match="leave out --format csv"):
        Read(FORMATS["samples.parquet"], format="csv")
    with pytest.raises(FileError, match="leave out --format parquet"):
        Read(FORMATS["samples.csv"], format="parquet")


def test_errors_of_the_operating_system_name_the_file_as_given(tmp_path: Path) -> None:
    for name in (f"{tmp_path}/./nothing.csv", f"{tmp_path}/"):
        with pytest.raises(OSError, match=name):
            read_samples(name, "y")
    with pytest.raises(FileError, match="binary mode"):
        read_samples(io.StringIO("a,y\n1,0\n"), "y")  # type: ignore[arg-type]  # a mistake


def test_an_error_while_reading_names_the_file() -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="the file") as caught:
        read_samples(Broken(), "y")  # type: ignore[arg-type]  # it is read alone
    assert caught.value.filename == "the file"


def test_a_file_that_was_passed_open_stays_open(tmp_path: Path) -> None:
    file = io.BytesIO(FORMATS["samples.csv"])
    with read_samples(file, "y"):
        pass
    assert not file.closed


def test_samples_for_river_are_pairs() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairs = list(iter_samples(io.BytesIO(b"a,y\n1,0\n2\n3,1\n"), "y"))
    assert pairs == [({"a": 1}, 0), ({"a": 3}, 1)]
    assert "row 2 has no target" in str(caught[0].message)
