"""The benchmark of many models in one call: it runs, and both sides have equal bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed import together


def test_it_compares_each_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "together.json"
    together.main(["--models", "3", "--rounds", "1", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert list(results) == list(together.SPECS)
    assert min(min(of.values()) for of in results.values()) > 0.0
    assert "ratio" in capsys.readouterr().out
