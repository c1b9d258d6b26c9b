"""The benchmark of the page: it runs, and its page shows the results of record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving import page
from tests.support.programs import DOCS, RESULTS, benchmark

pytestmark = pytest.mark.browser


def test_it_counts_frames_and_changes_at_every_rate(tmp_path: Path) -> None:
    out = tmp_path / "page.json"
    benchmark("page", "--seconds", "1", "--out", out)  # not in this process: an event loop runs here
    found = json.loads(out.read_text())["rates"]
    assert [each["rate"] for each in found] == list(page.RATES)
    still, *moving = found
    assert still["changes_per_second"] == 0
    assert all(each["changes_per_second"] > 0 and each["learned_per_second"] > 0 for each in moving)
    assert all(each["frames_per_second"] > 0 for each in found)


def test_the_page_shows_the_results_of_record() -> None:
    found = json.loads((RESULTS / "page.json").read_text())["rates"]
    assert page.table(found).markdown() in (DOCS / "benchmarks.md").read_text(encoding="utf-8")
