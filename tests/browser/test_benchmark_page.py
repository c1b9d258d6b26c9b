"""The benchmark of the page: it runs, and its page shows the results of record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.browser


def test_it_counts_frames_and_changes_at_every_rate(tmp_path: Path) -> None:
    out = tmp_path / "page.json"
    command = [sys.executable, "-m", "benchmarks.page", "--seconds", "1", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=200)  # a loop runs in ours
    found = json.loads(out.read_text())["rates"]
    assert [each["rate"] for each in found] == list(page.RATES)
    still, *moving = found
    assert still["changes_per_second"] == 0
    assert all(each["changes_per_second"] > 0 and each["learned_per_second"] > 0 for each in moving)
    assert all(each["frames_per_second"] > 0 for each in found)


def test_the_page_shows_the_results_of_record() -> None:
    docs = ROOT / "docs"
    found = json.loads((docs / "benchmarks" / "page.json").read_text())["rates"]
    assert page.table(found).markdown() in (docs / "benchmarks.md").read_text(encoding="utf-8")
