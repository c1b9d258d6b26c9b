"""The benchmark of string features: it runs and compares both kinds of sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed import strings


def test_it_compares_each_operation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "strings.json"
    strings.main(["--samples", "40", "--repeats", "1", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert list(results) == list(strings.MODELS)
    for of in results.values():
        assert list(of) == list(strings.OPERATIONS)
        assert min(min(pair) for pair in of.values()) > 0.0
    assert "ratio" in capsys.readouterr().out


def test_equal_strings_are_distinct_objects() -> None:
    values = [x["f9"] for x, _ in strings.samples(50, 1)]
    assert set(values) == {"red", "green", "blue"}
    assert len({id(value) for value in values}) == 50
