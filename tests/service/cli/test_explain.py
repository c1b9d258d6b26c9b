"""``explain``: a line per row of the input, by a model in a file or at a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import bnp_online as bnp
from tests.support.commands import FAST, command, write
from tests.support.running import Json, Server

CSV = "a,b,colour\n" + "".join(f"{i % 5},{i % 3},{('red', 'blue')[i % 2]}\n" for i in range(30))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with samples, and a model of them."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "c.csv", CSV)
    assert command("learn", "c.csv", "--target", "colour", *FAST, "--save", "model").code == 0
    return tmp_path


def read(text: str) -> list[Json]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_for_each_row(folder: Path) -> None:
    model = bnp.load(folder / "model")
    done = command("explain", "c.csv", "--target", "colour", "--load", "model")
    assert (done.code, done.err) == (0, "")
    lines = read(done.out)
    assert len(lines) == 30
    for i, line in enumerate(lines):
        expected = model.explain_one({"a": i % 5, "b": i % 3})
        assert line["contributions"] == expected.contributions
        assert (line["prediction"], line["label"]) == (expected.prediction, expected.label)
        assert (line["output"], line["baseline"]) == (expected.output, expected.baseline)
        sizes = [abs(each) for each in line["contributions"].values()]
        assert sizes == sorted(sizes, reverse=True)


def test_the_strongest_alone(folder: Path) -> None:
    assert (
        command("explain", "c.csv", "--target", "colour", "--load", "model", "--top", "1", "-o", "e").code
        == 0
    )
    for line in read((folder / "e").read_text()):
        [value] = line["contributions"].values()
        assert line["baseline"] + value + line["others"] == pytest.approx(line["output"])


def test_a_server_explains_as_a_file(folder: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    head = {"content-type": "application/octet-stream"}
    server.client.put(
        "/models/m/import", content=(folder / "model").read_bytes(), headers=head
    ).raise_for_status()
    options = ("c.csv", "--target", "colour")
    here = command("explain", *options, "--load", "model")
    there = command("explain", *options, "--url", server.url, "--model", "m")
    assert (there.code, there.err) == (0, "")
    assert read(there.out) == read(here.out)


def test_invalid_rows_and_options(folder: Path) -> None:
    write(folder, "bad.csv", "a,b\n1,2\n1,2,3\n2,1\n")
    done = command("explain", "bad.csv", "--load", "model")
    assert done.code == 1
    lines = read(done.out)
    assert ["error" in line for line in lines] == [False, True, False]
    assert lines[1]["error"].startswith("row 2 ")
    assert done.err == "1 row is invalid: its line in the output gives the reason\n"
    assert command("explain", "c.csv").code == 2
    assert command("explain", "c.csv", "--load", "model", "--model", "m").code == 2


def test_columns_have_the_types_that_the_model_learned(folder: Path) -> None:
    """A word in a column of numbers makes its row invalid, not all cells of the column strings."""
    write(folder, "word.csv", "a,b,more\n1,2,7\n1,x,7\n")
    done = command("explain", "word.csv", "--load", "model")
    assert done.code == 1
    first, second = read(done.out)
    assert first["contributions"] == bnp.load(folder / "model").explain_one({"a": 1, "b": 2}).contributions
    assert "has 'x' in the column 'b', which is not a number" in second["error"]
    assert "The model does not know, and does not use: 'more'." in done.err
    write(folder, "other.csv", "c,d\n1,2\n")
    done = command("explain", "other.csv", "--load", "model")
    assert done.code == 1
    assert "The model knows no column of the file: it learned 'a', 'b'" in done.err
