"""The benchmark of quality: it runs, keeps its runs, and its pages show the results of record."""

import json
from pathlib import Path

import pytest

from benchmarks.quality import main as quality
from benchmarks.quality.results import read
from benchmarks.quality.rivals import CONTESTANTS
from benchmarks.quality.tables import format_value
from tests.support.programs import DOCS, RESULTS, ROOT, benchmark


def _run(*arguments: str | Path) -> str:
    return " ".join(benchmark("quality", *arguments).stdout.split())  # without the line breaks of a terminal


def test_quality_program_writes_table_json_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page, short = tmp_path / "quality.json", tmp_path / "page.md", tmp_path / "short.md"
    page.write_text("# Title\n<!-- quality:begin -->\nof before\n<!-- quality:end -->\nend\n")
    short.write_text("<!-- quality-short:begin -->\n<!-- quality-short:end -->\n")
    printed = _run("--quick", "--streams", "ChickWeights", "--out", out, "--markdown", page, short)

    content = json.loads(out.read_text())
    assert content["quick"] is True
    assert content["streams"]["ChickWeights"]["samples"] == 100
    (environment,) = content["environments"]
    assert {"commit", "cpu", "versions", "library"} <= environment.keys()
    # one run a setting: --quick takes the first seed alone
    assert len(content["runs"]) == sum(
        len(c.settings({"task": "regression", "features": 4})) for c in CONTESTANTS
    )
    values = {entry["model"]: entry["value"] for entry in content["summary"]}
    assert list(values) == [contestant.name for contestant in CONTESTANTS]
    assert values["BNP"] < values["Floor"]
    assert all(entry["metric"] == "MAE" for entry in content["summary"])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    shown = format_value("MAE", values["BNP"])
    assert "of 1 streams; mean rank" in printed
    for text in (printed, page.read_text(), short.read_text()):
        assert shown in text
    assert "of before" not in page.read_text()
    assert page.read_text().endswith("<!-- quality:end -->\nend\n")

    quality.main(["--read", str(out)])
    assert shown in capsys.readouterr().out


def test_kept_runs_are_not_repeated_and_figures_do_not_depend_on_how_many_run_at_a_time(
    tmp_path: Path,
) -> None:
    out = tmp_path / "quality.json"
    models = ("Floor", "KNN*", "VW-nn*")
    quick = ("--quick", "--streams", "Phishing", "--out", out, "--models", *models)
    _run(*quick)
    content = json.loads(out.read_text())
    forgotten = [content["runs"].pop(0) for _ in range(3)]
    assert {run["model"] for run in forgotten} == {"VW-nn*"}
    content["runs"][0]["metrics"]["Accuracy"] = 0.123
    out.write_text(json.dumps(content))

    assert "Phishing %" in _run(*quick, "--keep", "--jobs", "2")
    runs = json.loads(out.read_text())["runs"]
    assert {run["model"] for run in runs} == set(models)
    for run, before in zip(runs, forgotten, strict=False):
        assert (run["setting"], run["seed"], run["metrics"]) == tuple(
            before[name] for name in ("setting", "seed", "metrics")
        )
    assert runs[3]["metrics"]["Accuracy"] == 0.123


def test_streams_whose_data_are_not_here_are_left_out_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quality.json"
    printed = _run("--quick", "--models", "Floor", "Linear", "--out", out)
    assert "Left out: MNIST, Fashion-MNIST." in printed
    assert "mnist.npz, fashion_mnist.npz" in printed
    assert len(json.loads(out.read_text())["streams"]) == 7
    with pytest.raises(SystemExit):
        quality.main(["--streams", "MNIST"])
    assert "MNIST: --data-dir is needed" in capsys.readouterr().err


def test_pages_show_the_results_of_record() -> None:
    entries, _ = read(RESULTS / "quality.json")
    blocks = quality.blocks(entries)
    assert blocks["quality"] in (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert blocks["quality-short"] in (ROOT / "README.md").read_text(encoding="utf-8")
    digits = next(entry for entry in entries if (entry.stream, entry.model) == ("digits", "BNP"))
    assert digits.value is not None
    assert digits.value >= 0.94
