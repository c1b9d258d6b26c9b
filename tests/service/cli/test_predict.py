"""``predict``: a line per row of the input, in order, as CSV or NDJSON."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import bnp_online as bnp
from tests.support.commands import FAST, command, write
from tests.support.running import Server

COLOURS = "key,a,colour\n" + "".join(f"k{i},{i % 5},{('red', 'blue')[i % 2]}\n" for i in range(30))
#: The third row lacks a quotation mark's worth of cells, and the last one is sound.
RAGGED = "key,a,colour\nk0,1,red\nk1,2,blue\nk2,3,red,4\nk3,4,blue\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with samples and a model of them, which has not learned the column key."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "c.csv", COLOURS)
    write(tmp_path, "ragged.csv", RAGGED)
    assert (
        command("learn", "c.csv", "--target", "colour", "--drop", "key", *FAST, "--save", "model").code == 0
    )
    return tmp_path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


PREDICT = ("predict", "c.csv", "--load", "model", "--target", "colour", "--drop", "key")


def test_a_csv_file_has_a_column_for_each_class(folder: Path) -> None:
    model = bnp.load(folder / "model")
    assert isinstance(model, bnp.BNPClassifier)
    done = command(*PREDICT, "-o", "p.csv")
    assert done == (0, "", "")
    rows = read(folder / "p.csv")
    assert list(rows[0]) == ["prediction", "probability_red", "probability_blue", "error"]
    for i, row in enumerate(rows):
        x = {"a": i % 5}
        assert (row["prediction"], row["error"]) == (model.predict_one(x), "")
        expected = model.predict_proba_one(x)
        assert [float(row["probability_red"]), float(row["probability_blue"])] == [
            expected["red"],
            expected["blue"],
        ]
    assert len(rows) == 30


def test_the_row_of_the_input_comes_first(folder: Path) -> None:
    command(*PREDICT, "-o", "p.csv", "--with-input")
    rows = read(folder / "p.csv")
    assert list(rows[0])[:4] == ["key", "a", "colour", "prediction"]
    assert [(row["key"], row["a"], row["colour"]) for row in rows] == [
        tuple(line.split(",")) for line in COLOURS.splitlines()[1:]
    ]
    command("predict", "p.csv", "--load", "model", "-o", "again.csv", "--with-input", "--keep", "key")
    again = read(folder / "again.csv")
    assert list(again[0])[-4:] == ["prediction_2", "probability_red_2", "probability_blue_2", "error_2"]
    assert [row["prediction"] for row in again] == [row["prediction_2"] for row in again]


@pytest.mark.parametrize("as_csv", [False, True])
def test_a_column_identifies_the_rows(folder: Path, as_csv: bool) -> None:
    done = command(*PREDICT, "--id", "key", "--output-format", "csv" if as_csv else "ndjson")
    lines = done.out.splitlines()
    if as_csv:
        assert lines[0] == "key,prediction,probability_red,probability_blue,error"
        assert [line.partition(",")[0] for line in lines[1:]] == [f"k{i}" for i in range(30)]
    else:
        assert [json.loads(line)["id"] for line in lines] == [f"k{i}" for i in range(30)]


@pytest.mark.parametrize("remote", [False, True])
def test_an_invalid_row_has_an_error(folder: Path, server: Server, remote: bool) -> None:
    name = f"colours-{remote}"
    assert command("import", "model", "-m", name, "--url", server.url).code == 0
    where = ("--url", server.url, "-m", name) if remote else ("--load", "model")
    predict = ("predict", "ragged.csv", *where, "--target", "colour", "--drop", "key")
    done = command(*predict, "-o", "p.csv", "--id", "key")
    assert done.code == 1
    assert done.err == "1 row is invalid: its line in the output gives the reason\n"
    rows = read(folder / "p.csv")
    assert [row["key"] for row in rows] == ["k0", "k1", "k2", "k3"]
    assert [bool(row["error"]) for row in rows] == [False, False, True, False]
    assert [bool(row["prediction"]) for row in rows] == [True, True, False, True]
    lines: list[dict[str, Any]] = [json.loads(line) for line in command(*predict).out.splitlines()]
    assert lines[2].keys() == {"error"}
    assert lines[2]["error"].startswith("row 3 has 4 cells")
    assert [str(lines[i]["probabilities"]["red"]) for i in (0, 1, 3)] == [
        rows[i]["probability_red"] for i in (0, 1, 3)
    ]


def test_many_rows_are_predicted_at_a_server_in_few_requests(folder: Path, server: Server) -> None:
    assert command("import", "model", "-m", "many", "--url", server.url).code == 0
    rows = "".join(json.dumps({"a": 1e300 if i == 7 else i % 5}) + "\n" for i in range(2500))
    here = command("predict", "-", "--load", "model", given=rows.encode())
    before = requests(server)
    there = command("predict", "-", "--url", server.url, "-m", "many", given=rows.encode())
    assert here.out.count("\n") == 2500
    assert there.out == here.out  # the error of a row, too, with one number
    assert requests(server) - before <= 3


def requests(server: Server) -> int:
    """Number of requests for predictions so far."""
    lines = server.client.get("/metrics").text.splitlines()
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith("bnp_http_requests_total") and 'route="/predict"' in line
    )


def test_numbers_have_no_probabilities(folder: Path) -> None:
    write(folder, "n.csv", "a,y\n" + "".join(f"{i % 5},{1.5 * (i % 5)}\n" for i in range(30)))
    regression = ("--target", "y", "--task", "regression", *FAST)
    assert command("learn", "n.csv", *regression, "--save", "numbers").code == 0
    command("predict", "n.csv", "--load", "numbers", "--target", "y", "-o", "p.csv")
    rows = read(folder / "p.csv")
    assert list(rows[0]) == ["prediction", "error"]
    model = bnp.load(folder / "numbers")
    assert [float(row["prediction"]) for row in rows] == [model.predict_one({"a": i % 5}) for i in range(30)]


def test_a_feature_that_the_model_does_not_know_is_named(folder: Path) -> None:
    done = command(
        "predict", "c.csv", "--load", "model", "--target", "colour", "-o", "p.csv", "--keep", "key"
    )
    assert done.code == 0
    assert done.err == "The model does not know, and does not use: 'key'.\n"


def test_the_names_of_classes_are_those_of_json(folder: Path) -> None:
    write(folder, "b.csv", "a,y\n" + "".join(f"{i % 5},{('true', 'false')[i % 2]}\n" for i in range(30)))
    assert command("learn", "b.csv", "--target", "y", *FAST, "--save", "truth").code == 0
    out = command("predict", "b.csv", "--load", "truth", "--target", "y", "--output-format", "csv").out
    assert out.splitlines()[0] == "prediction,probability_true,probability_false,error"
    assert {line.partition(",")[0] for line in out.splitlines()[1:]} <= {"true", "false"}


@pytest.mark.parametrize("remote", [False, True])
def test_codes_that_were_strings_stay_strings(folder: Path, server: Server, remote: bool) -> None:
    """The rows of a second file may all have numbers."""
    write(folder, "z.csv", "zip,y\n" + 20 * "A1,a\n12,b\n")
    write(folder, "numbers.csv", "zip,y\n" + 20 * "12,b\n")
    if remote:
        at = ("--url", server.url, "-m", "codes")
        server.create(name="codes", hidden=[], replay=0)
        for file in ("z.csv", "numbers.csv"):
            assert command("learn", file, "--target", "y", *at).code == 0
        assert server.get("/models/codes")["features"] == ["zip=A1", "zip=12"]
        out = command("predict", "numbers.csv", *at, "--target", "y").out
    else:
        assert command("learn", "z.csv", "--target", "y", *FAST, "--save", "codes").code == 0
        again = ("--target", "y", "--load", "codes", "--save", "codes")
        assert command("learn", "numbers.csv", *again).code == 0
        assert bnp.load(folder / "codes").feature_names == ("zip=A1", "zip=12")
        out = command("predict", "numbers.csv", "--load", "codes", "--target", "y").out
    assert {json.loads(line)["prediction"] for line in out.splitlines()} == {"b"}


@pytest.mark.parametrize("learned", [True, False])
def test_the_calendar_features_of_a_model_come_back(folder: Path, learned: bool) -> None:
    days = range(1, 29) if learned else (1,)
    write(folder, "long.csv", "t,y\n" + "".join(f"2026-01-{d:02d} 1{d % 10}:00,{d % 2}\n" for d in days))
    write(folder, "short.csv", "t,y\n2026-02-01 10:00,1\n2026-02-01 11:00,0\n")
    assert command("learn", "long.csv", "--target", "y", *FAST, "--save", "dates").code == 0
    names = bnp.load(folder / "dates").feature_names
    assert len(names) == (7 if learned else 1)
    done = command("learn", "short.csv", "--target", "y", "--load", "dates", "--save", "dates")
    assert done.code == 0
    assert bnp.load(folder / "dates").feature_names == names
    assert command("predict", "short.csv", "--load", "dates", "--target", "y").err == ""


def test_a_further_key_is_reported_and_the_other_predictions_are_written(folder: Path) -> None:
    write(folder, "k.ndjson", '{"a": 1}\n{"a": 2, "b": 3}\n{"a": 2, "b": 4}\n')
    done = command("predict", "k.ndjson", "--load", "model", "-o", "p.csv", "--with-input")
    assert done.code == 0
    assert done.err.count("row 2 has 'b', which the first row lacks") == 1
    assert done.err.count("\n") == 2  # the model does not know 'b'
    assert [row["a"] for row in read(folder / "p.csv")] == ["1", "2", "2"]


def test_numbers_stay_numbers(folder: Path) -> None:
    """The first rows of a second file may have words."""
    write(folder, "n.csv", "t,y\n" + 20 * "1.5,a\n2.5,b\n")
    write(folder, "words.csv", "t\n" + 20 * "2.5\nERR\n")
    assert command("learn", "n.csv", "--target", "y", *FAST, "--save", "numbers").code == 0
    done = command("predict", "words.csv", "--load", "numbers", "-o", "p.csv")
    assert (done.code, done.err.partition(":")[0]) == (1, "20 rows are invalid")
    model = bnp.load(folder / "numbers")
    first, second = read(folder / "p.csv")[:2]
    assert first["prediction"] == model.predict_one({"t": 2.5})
    assert second["error"].startswith("has 'ERR' in the column 't', which is not a number")
    done = command("predict", "words.csv", "--load", "numbers", "-o", "p.csv", "--na", "ERR")
    assert done.code == 0
    assert read(folder / "p.csv")[1]["prediction"] == model.predict_one({"t": None})
