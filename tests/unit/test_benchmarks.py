import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import quality, speed, speed_memory
from benchmarks.plain_torch import cumulative_moments
from benchmarks.report import Cell, Table, put_between_marks
from benchmarks.rivals import CONTESTANTS, Contestant
from benchmarks.speed import PARTS
from benchmarks.speed_sides import Effort
from benchmarks.streams import Stream
from benchmarks.summary import format_value, quality_table, summarize

ROOT = Path(__file__).resolve().parents[2]


def _run(program: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-m", f"benchmarks.{program}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def test_quality_program_writes_table_json_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "quality.json", tmp_path / "page.md"
    page.write_text("# Title\n<!-- quality:begin -->\nold\n<!-- quality:end -->\nend\n")
    printed = _run("quality", "--quick", "--streams", "ChickWeights", "--out", out, "--markdown", page)

    content = json.loads(out.read_text())
    assert content["quick"] is True
    assert content["streams"]["ChickWeights"]["samples"] == 100
    assert {"commit", "cpu", "versions", "torch_threads"} <= content["environment"].keys()
    # one run a rate for the tuned, one for each other: --quick takes the first seed alone
    assert len(content["runs"]) == sum(len(contestant.rates) for contestant in CONTESTANTS)
    values = {entry["model"]: entry["value"] for entry in content["summary"]}
    assert list(values) == [contestant.name for contestant in CONTESTANTS]
    assert values["BNP"] < values["Floor"]
    assert all(entry["metric"] == "MAE" for entry in content["summary"])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    shown = format_value("MAE", values["BNP"])
    assert shown in printed
    assert shown in page.read_text()
    assert "old" not in page.read_text()
    assert page.read_text().endswith("<!-- quality:end -->\nend\n")

    quality.main(["--read", str(out)])
    assert shown in capsys.readouterr().out


def test_speed_program_writes_tables_json_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "speed.json", tmp_path / "page.md"
    page.write_text(
        "".join(f"<!-- speed-{part}:begin -->\nold\n<!-- speed-{part}:end -->\n" for part in PARTS)
    )
    printed = _run("speed", "--quick", "--out", out, "--markdown", page)

    content = json.loads(out.read_text())
    assert content["quick"] is True
    assert {"commit", "cpu", "versions", "torch_threads"} <= content["environment"].keys()
    assert list(content["parts"]) == list(PARTS)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "old" not in page.read_text()
    for part in PARTS:
        assert speed.markdown(part, content["parts"][part]) in page.read_text()
    river, one, *_ = content["parts"]["dicts"].values()
    assert f"{one['samples_per_second'] / river['samples_per_second']:.1f}×" in printed

    speed.main(["--read", str(out)])
    assert "Growth: width" in capsys.readouterr().out


def test_speed_program_runs_parts(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    _run("speed", "--quick", "--parts", "memory", "--out", out)
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == ["memory"]
    assert parts["memory"]["S"]["auto (the default)"]["times"] > 1.0


def test_page_shows_the_speed_of_record() -> None:
    content = json.loads((ROOT / "docs" / "benchmarks" / "speed.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert content["quick"] is False
    assert list(content["parts"]) == list(PARTS)
    for part in PARTS:
        assert speed.markdown(part, content["parts"][part]) in page


def test_a_model_holds_little_more_than_it_needs() -> None:
    effort = Effort(["S", "M"], repeats=1, seconds=0.0, quick=False)
    for kinds in speed_memory.measure(effort, lambda _: None).values():
        for of in kinds.values():
            assert 1.0 < of["times"] <= 1.3
            assert of["estimator_held"] - of["estimator_needed"] < 40_000


def test_page_shows_the_results_of_record() -> None:
    entries = quality.read(ROOT / "docs" / "benchmarks" / "quality.json")
    assert quality.markdown(entries) in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    digits = next(entry for entry in entries if (entry.stream, entry.model) == ("digits", "BNP"))
    assert digits.value is not None
    assert digits.value >= 0.915


def _records(model: str, by_rate: dict[float | None, list[float | None]]) -> list[dict[str, Any]]:
    return [
        {
            "stream": "s",
            "model": model,
            "rate": rate,
            "metrics": None if value is None else {"Accuracy": value},
            "samples_per_second": 10.0,
        }
        for rate, values in by_rate.items()
        for value in values
    ]


def _contestant(name: str, *rates: float) -> Contestant:
    return Contestant(name, "", CONTESTANTS[0].run, rates or (None,))


def test_tuned_rival_gets_its_best_rate_by_mean_and_a_divergence_is_out() -> None:
    stream = Stream("s", "classification", "", [({}, 0)])
    runs = _records("plain", {None: [0.6, 0.8]}) + _records(
        "tuned", {0.1: [0.5, 0.6], 0.2: [0.7, 0.9], 0.3: [1.0, None]}
    )
    plain, tuned = summarize(runs, [stream], [_contestant("plain"), _contestant("tuned", 0.1, 0.2, 0.3)])
    assert tuned.value == pytest.approx(0.8)
    assert (tuned.rate, tuned.at_edge, tuned.by_seed) == (0.2, False, (0.7, 0.9))
    assert (tuned.rank, plain.rank) == (1.0, 2.0)
    assert quality_table([plain, tuned]).rows[0][2] == Cell("80.0\n(0.2)", True)


def test_equal_models_share_a_rank_and_a_model_that_always_diverges_is_last() -> None:
    stream = Stream("s", "classification", "", [({}, 0)])
    runs = [
        run
        for name, value in zip("abc", (0.5, None, 0.5), strict=True)
        for run in _records(name, {None: [value]})
    ]
    entries = summarize(runs, [stream], [_contestant(name) for name in "abc"])
    assert [entry.rank for entry in entries] == [1.5, 3.0, 1.5]
    assert quality_table(entries).rows[0][2].text == "diverged"


def test_cumulative_moments_are_those_of_the_rows_so_far() -> None:
    values = np.random.default_rng(0).normal(1e6, 1.0, size=(20, 3))
    mean, scale = cumulative_moments(values)
    for i in range(20):
        np.testing.assert_allclose(mean[i], values[: i + 1].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(scale[i], values[: i + 1].std(axis=0), atol=1e-7)


def test_numeric_stream_has_a_column_for_each_value_of_a_string() -> None:
    stream = Stream("s", "regression", "", [({"a": 1, "b": "x"}, 1.0), ({"a": 2, "b": "y"}, 2.0)])
    assert stream.numeric().samples == [
        ({"a": 1.0, "b=x": 1.0, "b=y": 0.0}, 1.0),
        ({"a": 2.0, "b=x": 0.0, "b=y": 1.0}, 2.0),
    ]


def test_markdown_needs_both_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- quality:begin -->")
    with pytest.raises(ValueError, match="has not the marks"):
        put_between_marks(page, "quality", "x")


def test_table_in_markdown() -> None:
    table = Table("t", ["stream", "SGD*"], [[Cell("a"), Cell("1\n(0.1)", True)]])
    assert table.markdown() == "| stream | SGD\\* |\n| --- | --: |\n| a | **1 (0.1)** |"
