"""The benchmark of the parser of blocks: it runs and compares the sides on the same lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common.program import markdown
from benchmarks.speed import parsing
from tests.support.programs import DOCS, RESULTS


def test_it_compares_the_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "parsing.json"
    parsing.main(["--samples", "200", "--repeats", "1", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert len(results) == len(parsing.FEATURES) * len(parsing.DECIMALS)
    for of in results.values():
        assert list(of) == list(parsing.SIDES)
        assert min(of.values()) > 0.0
    assert "Microseconds of a line" in capsys.readouterr().out


def test_page_shows_the_results_of_record() -> None:
    content = json.loads((RESULTS / "parsing.json").read_text(encoding="utf-8"))
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert markdown(parsing.blocks(content)["parsing"]) in page


def test_the_lines_are_numbers_and_labels() -> None:
    data = parsing.lines_of(9, 4, 20)
    samples = [json.loads(line) for line in data.splitlines()]
    assert all(len(sample["x"]) == 9 and 0 <= sample["y"] < 10 for sample in samples)
    assert all(round(value, 4) == value for sample in samples for value in sample["x"].values())
