"""The benchmark of steps runs against another checkout, and shows a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common.program import markdown
from benchmarks.speed.against import SIDES, blocks
from tests.support.programs import DOCS, RESULTS, ROOT, benchmark


def test_it_measures_both_checkouts_and_shows_a_table(tmp_path: Path) -> None:
    out = tmp_path / "steps.json"
    benchmark("steps", "--quick", "--networks", "S", "--against", ROOT, "--out", out)
    content = json.loads(out.read_text())
    assert content["results"].keys() == {f"S, {side}" for side in SIDES}
    for figures in content["results"].values():
        assert figures["here"] > 0.0
        assert figures["ratio"] == pytest.approx(figures["there"] / figures["here"])
    [table] = blocks(content)["steps"]
    assert not isinstance(table, str)
    assert [row[0].text for row in table.rows] == list(content["results"])


def test_page_shows_the_results_of_record() -> None:
    content = json.loads((RESULTS / "steps.json").read_text(encoding="utf-8"))
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert content["quick"] is False
    assert markdown(blocks(content)["steps"]) in page
