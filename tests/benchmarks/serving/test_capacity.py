"""The page on clusters: its plan of capacity follows from the results of record; its figure is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving import capacity, choice_figure, logs
from tests.support.programs import DOCS, RESULTS


def test_the_plan_follows_from_the_figures() -> None:
    of = {"lines": 10_000, "ratio": 0.5, "predict": 5_000, "events": 50_000, "log": 1_500, "tables": 1_000}
    planned = capacity.plan(1e6, of)
    assert planned["owners"] == "334"  # 10⁶ / (0.6 · 5,000)
    assert planned["servers of PostgreSQL"] == "34"
    assert planned["commits a second"] == "3,906"
    assert planned["write-ahead log, MB/s"] == "1,500.0"
    assert planned["new rows, GB a day"] == "86,400"
    assert capacity.plan(1.0, of)["owners"] == "1"


def test_the_page_shows_the_results_of_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "cluster.md"
    before = (DOCS / "cluster.md").read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    capacity.main(["--markdown", str(page)])
    logs.main(["--read", str(RESULTS / "logs.json"), "--markdown", str(page)])
    assert page.read_text(encoding="utf-8") == before
    assert "owners" in capsys.readouterr().out


def test_the_advice_of_the_page_follows_from_the_results_of_record() -> None:
    rates = json.loads((RESULTS / "logs.json").read_text(encoding="utf-8"))["rates"]
    ratios = [rates[str(group)]["postgres"] / rates[str(group)]["sqlite"] for group in logs.GROUPS]
    page = " ".join((DOCS / "cluster.md").read_text(encoding="utf-8").split())
    said = f"PostgreSQL commits [{min(ratios):.1f} to {max(ratios):.1f} times as many events]"
    assert said in page


def test_the_figure_is_drawn_by_its_program(tmp_path: Path) -> None:
    choice_figure.main(["--out", str(tmp_path)])
    assert (tmp_path / "choices.svg").read_bytes() == (DOCS / "images" / "choices.svg").read_bytes()
