"""The benchmark of sparse streams: it runs, and its page shows the results of record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.program import markdown
from benchmarks.quality.results import read
from benchmarks.quality.summary import Entry
from benchmarks.sparse import cost, main
from benchmarks.sparse.rivals import CONTESTANTS
from benchmarks.sparse.streams import load
from benchmarks.sparse.tables import format_loss, growth_table, verdict, versus
from tests.support.programs import DOCS, RESULTS


def test_sparse_program_writes_tables_json_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "sparse.json", tmp_path / "page.md"
    page.write_text(
        "<!-- sparse:begin -->\nof before\n<!-- sparse:end -->\n<!-- sparse-cost:begin -->\n"
        "<!-- sparse-cost:end -->\n"
    )
    models = ["BNP", "VW*", "Bayes*", "Floor"]
    quick = ["--quick", "--streams", "pairs", "ratings", "--models", *models, "--out", str(out)]
    main.main([*quick, "--parts", "quality", "cost", "--markdown", str(page)])
    content = json.loads(out.read_text())
    assert content["streams"]["pairs"]["samples"] == 100
    assert content["streams"]["pairs"]["metric"] == "LogLoss"
    # --quick takes the first seed alone, and naive Bayes has no regression
    assert len(content["runs"]) == 2 * (1 + 5 + 1) + 5
    values = {(entry["stream"], entry["model"]): entry["value"] for entry in content["summary"]}
    assert {model for _, model in values} == set(models)
    shown = format_loss(values["pairs", "BNP"])
    times = content["parts"]["cost"]["streams"]["ratings"]["microseconds"]
    assert set(times) >= {"BNP", "arrays", "dicts", "BNP, replay=0", "dicts, replay=0", "VW*"}
    assert min(times.values()) > 0.0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert shown in page.read_text()
    assert "dense columns" in page.read_text()
    printed = capsys.readouterr().out
    assert "Incomplete" not in printed

    for run in content["runs"]:
        run["metrics"] |= {"LogLoss": 0.123, "RMSE": 0.123}
    out.write_text(json.dumps(content))
    main.main([*quick, "--parts", "quality", "--keep"])
    kept = json.loads(out.read_text())
    assert {entry["value"] for entry in kept["summary"]} == {0.123}
    assert kept["parts"] == content["parts"]
    main.main(["--read", str(out)])
    assert "0.1230" in capsys.readouterr().out


def test_page_shows_the_results_of_record() -> None:
    path = RESULTS / "sparse.json"
    entries, facts = read(path)
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    blocks = main.blocks(entries, facts, json.loads(path.read_text(encoding="utf-8"))["parts"])
    assert list(blocks) == ["sparse", "sparse-cost", "sparse-growth"]
    for parts in blocks.values():
        assert markdown(parts) in page
    values = {entry.stream: entry.value for entry in entries if entry.model == "BNP"}
    assert values["sms"] is not None
    assert values["sms"] < 0.06


def test_growth_shows_the_time_by_the_number_of_values() -> None:
    found = cost.growth(load("topics", 100), lambda text: None)
    assert [point["samples"] for point in found["points"]] == [25, 50, 75, 100]
    values = [point["values"] for point in found["points"]]
    assert values == sorted(values)
    assert values[-1] == load("topics", 100).facts["values"]
    assert all(time > 0.0 for point in found["points"] for time in point["microseconds"].values())
    assert len(growth_table(found).rows) == 4


def test_streams_of_files_need_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--streams", "avazu", "--data-dir", str(tmp_path)])
    assert "avazu: --data-dir DIR with avazu.csv.gz is needed" in capsys.readouterr().err


def _entry(stream: str, model: str, value: float, rank: float, speed: float = 1.0) -> Entry:
    return Entry(stream, model, "LogLoss", value, (value,), False, {}, False, rank, speed)


def test_words_say_where_vowpal_wabbit_is_better() -> None:
    entries = [
        _entry("sms", "BNP", 0.050, 1.0),
        _entry("sms", "VW*", 0.070, 2.0, 4.0),
        _entry("avazu", "BNP", 0.428, 2.0),
        _entry("avazu", "VW -q*", 0.425, 1.0, 2.0),
        _entry("big", "BNP", 0.60, 3.0),
        _entry("big", "VW*", 0.59, 2.0, 8.0),
        _entry("big", "FM*", 0.58, 1.0),
    ]
    assert verdict(entries, "BNP") == (
        "BNP has the least loss, or one within 1% of it, on 2 of 3 streams. "
        "Further behind on: big (−3.4%, FM*)."
    )
    assert versus(entries, "BNP", "VW", "Vowpal Wabbit") == (
        "Vowpal Wabbit, at its best of all these settings in hindsight, has a smaller loss than BNP on 2 of "
        "3 streams: avazu (VW -q*), big (VW*). At this setting BNP takes 2.0 to 8.0 times its processor time."
    )
    assert verdict(entries[1:2], "BNP") == versus(entries[1:2], "BNP", "VW", "Vowpal Wabbit") == ""


def test_every_rival_has_five_settings_or_six() -> None:
    facts: dict[str, Any] = {"task": "classification", "features": 9, "samples": 100, "classes": 2}
    counts = {contestant.name: len(contestant.settings(facts)) for contestant in CONTESTANTS}
    assert {count for name, count in counts.items() if name.endswith("*")} == {5, 6}


def test_a_factorization_machine_leaves_out_the_longest_streams() -> None:
    machine = next(contestant for contestant in CONTESTANTS if contestant.name == "FM*")
    facts: dict[str, Any] = {"task": "classification", "features": 9, "samples": 60_000, "classes": 2}
    assert machine.settings(facts)
    assert not machine.settings(facts | {"samples": 200_000})
    assert not machine.settings(facts | {"classes": 10})
