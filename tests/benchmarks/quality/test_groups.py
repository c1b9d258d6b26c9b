"""Streams in groups: files and generated ones, means, losses, and the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.common import streams
from benchmarks.common.program import markdown
from benchmarks.quality import groups
from benchmarks.quality.means import losses, means
from benchmarks.quality.results import read
from benchmarks.quality.rivals import LastTarget
from benchmarks.quality.summary import Entry
from tests.support.programs import DOCS, RESULTS


def _write_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(250, 3)).astype(np.float32)
    within = folder / "streams"
    within.mkdir()
    np.savez(within / "a_signs.npz", X=X, y=(X[:, 0] > 0).astype(int))
    np.savez(within / "rd_line.npz", X=X, y=X @ [1.0, 2.0, 3.0])
    np.savez(folder / "other.npz", images=X)


def test_a_folder_has_streams_whose_names_show_the_group(tmp_path: Path) -> None:
    _write_files(tmp_path)
    assert (
        list(streams.files(tmp_path)) == list(streams.files(tmp_path / "streams")) == ["a_signs", "rd_line"]
    )
    signs, line = (streams.load(name, data_dir=tmp_path) for name in streams.files(tmp_path))
    assert (signs.task, signs.group, signs.origin) == ("classification", "autocorrelated", "files")
    assert (line.task, line.group, line.source) == ("regression", "drifting", "rd_line.npz")
    assert len(line.samples) == 250
    x, y = line.samples[0]
    assert list(x) == ["x0", "x1", "x2"]
    assert type(y) is float
    with pytest.raises(ValueError, match=r"needs a folder with a_signs\.npz"):
        streams.load("a_signs")


def test_a_generated_stream_has_a_group_and_a_stated_seed() -> None:
    stream = streams.load("price", 50)
    assert stream.describe() == {
        "task": "classification",
        "source": "generated, seed 0",
        "samples": 50,
        "features": 5,
        "classes": len(stream.labels),
        "group": "autocorrelated",
        "origin": "generated",
    }


def test_the_last_target_is_the_prediction() -> None:
    model = LastTarget()
    assert model.predict_one({}) is None
    assert model.predict_proba_one({}) == {}
    model.learn_one({}, "a")
    assert (model.predict_one({}), model.predict_proba_one({})) == ("a", {"a": 1.0})


def _entry(stream: str, model: str, metric: str, value: float | None) -> Entry:
    return Entry(stream, model, metric, value, (), False, {}, False, 1.0, 1.0)


def _facts(task: str, group: str, samples: int = 1000) -> dict[str, Any]:
    return {"task": task, "group": group, "origin": "files", "samples": samples}


_FACTS = {
    "a_x": _facts("classification", "autocorrelated"),
    "c_x": _facts("classification", "stationary"),
    "r_x": _facts("regression", "stationary"),
    "r_y": _facts("regression", "stationary"),
    "ra_short": _facts("regression", "autocorrelated", 144),
    "digits": {"task": "classification", "samples": 1000},
}
_VALUES = {
    "a_x": ("Accuracy", 0.95, 0.90),
    "c_x": ("Accuracy", 0.80, 0.804),
    "r_x": ("MAE", 1.0, 2.0),
    "r_y": ("MAE", 2.05, 2.0),
    "ra_short": ("MAE", 9.0, 1.0),
    "digits": ("Accuracy", 0.1, 0.9),
}
_ENTRIES = [
    _entry(stream, model, metric, value)
    for stream, (metric, *values) in _VALUES.items()
    for model, value in zip(("new", "old"), values, strict=True)
]


def test_means_are_by_group_and_leave_out_short_streams_and_those_without_a_group() -> None:
    found = {(mean.metric, mean.group): mean for mean in means(_ENTRIES, _FACTS, "old")}
    assert {key: mean.streams for key, mean in found.items()} == {
        ("Accuracy", "autocorrelated"): 1,
        ("Accuracy", "stationary"): 1,
        ("Accuracy", "all"): 2,
        ("MAE", "stationary"): 2,
        ("MAE", "all"): 2,
    }
    assert found["Accuracy", "all"].values == pytest.approx({"new": 0.875, "old": 0.852})
    assert found["MAE", "all"].values == pytest.approx({"new": (0.5 * 1.025) ** 0.5, "old": 1.0})


def test_a_model_that_diverged_or_lacks_a_stream_has_no_mean() -> None:
    extra = [_entry("r_x", "third", "MAE", None), _entry("r_y", "third", "MAE", 1.0)]
    (*_, overall) = means([*_ENTRIES, *extra], _FACTS, "old")
    assert overall.values["third"] is None
    table = groups.means_table([overall], ["new", "old", "third"])
    assert [cell.text for cell in table.rows[0]] == [
        "files, all: MAE, ratio to BNP 1",
        "2",
        "0.716",
        "1.000",
        "–",
    ]


def test_losses_are_beyond_a_third_of_a_point_or_two_per_cent() -> None:
    assert [gain.ours.stream for gain in losses(_ENTRIES, "new", "old")] == [
        "c_x",
        "r_y",
        "ra_short",
        "digits",
    ]


def test_the_program_shows_groups_and_continues_an_interrupted_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_files(tmp_path)
    out, page = tmp_path / "groups.json", tmp_path / "page.md"
    page.write_text("<!-- groups:begin -->\n<!-- groups:end -->\n")
    command = ["--streams", "a_signs", "rd_line", "--seeds", "0"]
    command += ["--data-dir", str(tmp_path), "--out", str(out)]
    groups.main([*command, "--markdown", str(page)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "BNP is worse than BNP 1 by more than 0.3 points" in printed
    assert "| files, autocorrelated: accuracy, % | 1 |" in page.read_text()
    assert "Drifting streams: " in page.read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(out.read_text())
    assert {run["model"] for run in content["runs"]} == {"BNP", "BNP 1", "KNN*", "Last"}

    content["runs"] = content["runs"][1:]
    content["runs"][0]["metrics"]["Accuracy"] = 0.123
    out.write_text(json.dumps(content))
    groups.main([*command, "--keep"])
    runs = json.loads(out.read_text())["runs"]
    assert len(runs) == len(content["runs"]) + 1
    assert 0.123 in [run["metrics"].get("Accuracy") for run in runs]


def test_an_unknown_stream_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        groups.main(["--streams", "a_signs"])
    assert "a_signs: no such stream or file in --data-dir; known: digits" in capsys.readouterr().err


def test_the_page_shows_the_results_of_record() -> None:
    entries, facts = read(RESULTS / "groups.json")
    block = markdown(groups.blocks(entries, facts)["groups"])
    assert block in (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert {fact["origin"] for fact in facts.values()} == {"files", "generated"}
