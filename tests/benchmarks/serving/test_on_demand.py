"""The benchmark of models on demand: it runs with few models, and computes what one of them takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving.on_demand import blocks, main, size_of
from tests.support.programs import benchmark


def test_it_measures_few_models_and_more(tmp_path: Path) -> None:
    out, page = tmp_path / "on_demand.json", tmp_path / "page.md"
    page.write_text("<!-- on_demand:begin -->\nold\n<!-- on_demand:end -->\nend\n")
    effort = ["--models", "9", "--in-memory", "3", "--filled", "2", "--requests", "4", "--idle", "0.1"]
    benchmark("on_demand", *effort, "--out", out, "--markdown", page)
    content = json.loads(out.read_text())
    assert content["sizes"].keys() == {"3", "9"}
    few, more = content["sizes"].values()
    assert few.keys() == {"used", "stop", "start", "started", "idle", "log", "checkpoints"}
    assert few["log"] > 0
    assert more["checkpoints"] > few["checkpoints"] > 0
    assert content["idle"]["checkpoints"] == pytest.approx(
        (more["checkpoints"] - few["checkpoints"]) / 6, abs=0.1
    )
    assert content["latency"].keys() == {"memory", "stored"}
    assert "start, s" in page.read_text()
    sizes, text, _ = blocks(content)["on_demand"]
    assert not isinstance(sizes, str)
    assert sizes.header == ["", "3 models", "9 models"]
    assert isinstance(text, str)


def test_it_needs_models_that_are_not_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--models", "10", "--in-memory", "5"])
    assert "more than twice" in capsys.readouterr().err


def test_the_size_of_a_folder_has_two_parts(tmp_path: Path) -> None:
    for name, size in (("events.sqlite3", 5), ("events.sqlite3-wal", 2), ("checkpoints/7/a", 11)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    assert size_of(tmp_path) == {"log": 7, "checkpoints": 11}
