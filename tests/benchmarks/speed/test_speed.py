"""The benchmark of speed: it runs, and its page shows the results of record."""

import json
from pathlib import Path

import pytest

from benchmarks.common.program import markdown
from benchmarks.speed import main as speed
from benchmarks.speed import memory
from benchmarks.speed.main import PARTS
from benchmarks.speed.timing import Effort
from tests.support.programs import DOCS, RESULTS, benchmark


def test_speed_program_writes_tables_json_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "speed.json", tmp_path / "page.md"
    page.write_text(
        "".join(f"<!-- speed-{part}:begin -->\nold\n<!-- speed-{part}:end -->\n" for part in PARTS)
    )
    printed = benchmark("speed", "--quick", "--out", out, "--markdown", page).stdout

    content = json.loads(out.read_text())
    assert content["quick"] is True
    assert {"commit", "cpu", "versions", "torch_threads"} <= content["environment"].keys()
    assert list(content["parts"]) == list(PARTS)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "old" not in page.read_text()
    for part in PARTS:
        assert markdown(speed.blocks(content)[f"speed-{part}"]) in page.read_text()
    river, one, *_ = content["parts"]["dicts"].values()
    assert f"{one['samples_per_second'] / river['samples_per_second']:.1f}×" in printed

    speed.main(["--read", str(out)])
    assert "Growth: width" in capsys.readouterr().out


def test_speed_program_runs_parts(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    benchmark("speed", "--quick", "--parts", "memory", "--out", out)
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == ["memory"]
    assert parts["memory"]["S"]["auto (the default)"]["times"] > 1.0


def test_page_shows_the_speed_of_record() -> None:
    content = json.loads((RESULTS / "speed.json").read_text(encoding="utf-8"))
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert content["quick"] is False
    assert list(content["parts"]) == list(PARTS)
    for part in PARTS:
        assert markdown(speed.blocks(content)[f"speed-{part}"]) in page


def test_a_model_holds_little_more_than_it_needs() -> None:
    effort = Effort(["S", "M"], repeats=1, seconds=0.0, quick=False)
    for kinds in memory.measure(effort, lambda _: None).values():
        for of in kinds.values():
            assert 1.0 < of["times"] <= 1.3
            assert of["estimator_held"] - of["estimator_needed"] < 70_000
