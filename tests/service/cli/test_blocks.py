"""Files that are learned in blocks: the model, the scores and the messages are those of row by row."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bnp_online as bnp
from service.cli import blocks
from tests.support.commands import command, write

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"lr": 0.5})
Make = Callable[[random.Random, bool], str]


def csv_file(rng: random.Random, numbers: bool) -> str:
    """Return CSV: most lines are alike, some have something new, some are no samples."""
    end = rng.choice(["\n", "\r\n"])
    names = [f"f{i}" for i in range(rng.randint(1, 5))]
    sep = rng.choice([",", ";"])
    lines = [sep.join(["", *names, "colour", "y"] if rng.random() < 0.3 else [*names, "colour", "y"])]
    first = lines[0].startswith(sep)
    for i in range(900):
        cells = [rng.choice([repr(rng.gauss(0, 1)), str(rng.randint(-9, 9)), "1e-3"]) for _ in names]
        if rng.random() < 0.04:
            odd = ["", "NA", " 7 ", '"2.5"', "-0", *(["?", "word", "1e999"] if i > 300 else [])]
            cells[rng.randrange(len(cells))] = rng.choice(odd)
        colour = rng.choice(["red", "blue", '"dark red"'])
        if i > 300 and rng.random() < 0.03:
            colour = rng.choice(["", "NA", f"new {i % 3}", '"a\nb"', '"say ""no"""', "12"])
        y = repr(rng.gauss(0, 2)) if numbers else rng.choice(["0", "1"])
        if i > 300 and rng.random() < 0.02:
            y = rng.choice(["", "what", "1.5", "2"])
        row = [*([str(i)] if first else []), *cells, colour, y]
        if rng.random() < 0.01:
            row = rng.choice([[*row, "more"], row[:-1], [""], ["", ""]])
        lines.append(sep.join(row))
    return end.join(lines) + rng.choice(["", end])


def ndjson_file(rng: random.Random, numbers: bool) -> str:
    names = [f"f{i}" for i in range(rng.randint(1, 5))]
    lines: list[str] = []
    for i in range(900):
        x: dict[str, Any] = {name: rng.choice([rng.gauss(0, 1), rng.randint(-9, 9)]) for name in names}
        x["colour"] = rng.choice(["red", "blue"])
        if i > 300 and rng.random() < 0.03:
            values: list[Any] = [None, True, 2**60 + 1, 1e300, float("inf"), [1], {}, "word"]
            x[rng.choice(names)] = rng.choice(values[: 8 if i > 700 else 7])
        if i > 300 and rng.random() < 0.02:
            x[f"late{rng.randint(0, 2)}"] = "2026-01-02" if i > 700 else 1
        line: dict[str, Any] = {"x": x, "y": rng.gauss(0, 2) if numbers else rng.choice(["a", "b"])}
        if rng.random() < 0.1:
            line["w"] = rng.choice([2.5, 0, None])
        if rng.random() < 0.1:
            line["id"] = f"i{i}"
        if rng.random() < 0.02:
            line["y"] = rng.choice([None, True, 3, "c"])
        if rng.random() < 0.01:
            line["w"] = -1
        lines.append(json.dumps(line))
        if rng.random() < 0.02:
            lines.append(rng.choice(["", "{bad", "[1]", lines[-1].replace('"y"', '"y":1,"y"')]))
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("make", "suffix"), [(csv_file, "csv"), (ndjson_file, "ndjson")])
def test_blocks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make, suffix: str, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311
    task = rng.choice(["classification", "regression"])
    file = write(tmp_path, f"stream.{suffix}", make(rng, task == "regression"))
    spec = json.dumps({"hidden": [4], "seed": seed, "standardize": seed % 3 > 0, **OPTIONS[seed % 2]})
    target = ["--target", "y"] if suffix == "csv" else []
    learned_in_blocks = list[int]()
    learn_rows = bnp.BNPClassifier.learn_rows

    def counted(self: Any, *arguments: Any) -> Any:
        found = learn_rows(self, *arguments)
        learned_in_blocks.append(found[0])
        return found

    for kind in (bnp.BNPClassifier, bnp.BNPRegressor):
        monkeypatch.setattr(kind, "learn_rows", counted)

    def learn(name: str) -> tuple[Any, ...]:
        saved = tmp_path / f"{name}.safetensors"
        done = command("learn", file, *target, "--task", task, "--spec", spec, "--json", "--save", saved)
        result = json.loads(done.out)
        del result["seconds"], result["samples_per_second"]
        return done.code, done.err, result, bnp.load(saved).fingerprint()

    found = learn("blocks")
    assert sum(learned_in_blocks) > 100
    learned_in_blocks.clear()
    monkeypatch.setattr(blocks, "_FEWEST", 10**9)
    assert found == learn("rows")
    assert not learned_in_blocks


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("day,a,y\n" + "".join(f"2026-01-{1 + i % 28:02},{i % 7},{i % 2}\n" for i in range(400)), []),
        ("a,y\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(400)), ["--na", "3"]),
        ("a,y\n" + "".join(f'"{i % 7},5",{i % 2}\n' for i in range(400)), ["--decimal", ","]),
        ("a,flag,y\n" + "".join(f"{i % 7},{['true', '1'][i > 300]},{i % 2}\n" for i in range(400)), []),
    ],
)
def test_cells_that_are_more_than_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, options: list[str]
) -> None:
    """Dates, words for missing values, decimal commas and booleans are read as rows, or refused."""
    file = write(tmp_path, "stream.csv", content)
    found = []
    for fewest in (2, 10**9):
        monkeypatch.setattr(blocks, "_FEWEST", fewest)
        saved = tmp_path / f"{fewest}.safetensors"
        done = command("learn", file, "--target", "y", "--spec", '{"hidden": [4]}', "--save", saved, *options)
        assert done.code == ("flag" in content), done.err
        found.append(bnp.load(saved).fingerprint())
    assert found[0] == found[1]


def test_features_with_numbers_and_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a column of numbers a word is refused, and a missing value has all columns of its feature."""
    numbers = "a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(300))
    cells = ["red", "", "5", "blue", "NA", "5"]
    words = "a,b,y\n" + "".join(f"{cells[i % 6]},{['', i % 5][i % 9 > 0]},{i % 2}\n" for i in range(600))
    mixed = "a,b,y\n" + "".join(f"{['', '3'][i % 5 > 0]},{i % 5},{i % 2}\n" for i in range(300))
    found = []
    for fewest in (2, 10**9):
        monkeypatch.setattr(blocks, "_FEWEST", fewest)
        saved, load = tmp_path / f"{fewest}.safetensors", list[Any]()
        for content in (numbers, words, mixed):
            file = write(tmp_path, "stream.csv", content)
            new = load or ["--spec", '{"hidden": [4]}']
            done = command("learn", file, "--target", "y", "--save", saved, *new)
            assert done.code == (content is words), done.err
            load = ["--load", saved]
        found.append(bnp.load(saved).fingerprint())
    assert found[0] == found[1]
