"""The benchmark of many models: it runs with small numbers, against another checkout, and shows tables."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.serving.models import blocks
from tests.support.programs import ROOT, benchmark


def test_it_measures_both_checkouts_and_shows_a_table(tmp_path: Path) -> None:
    out, page = tmp_path / "models.json", tmp_path / "page.md"
    page.write_text("<!-- models:begin -->\nold\n<!-- models:end -->\nend\n")
    effort = ["--models", "3", "--specs", "small", "--rounds", "1", "--samples", "20", "--filled", "5"]
    benchmark("models", *effort, "--against", ROOT, "--out", out, "--markdown", page)
    content = json.loads(out.read_text())
    sides = content["results"]["small"]
    assert sides.keys() == {"here", "other"}
    for side in sides.values():
        assert side.keys() == {"memory", "rates", "stop", "imports", "start", "replay"}
        for kind in ("single", "lines"):
            for figures in (*side["rates"][kind].values(), content["alone"]["small"][kind]):
                assert figures.keys() == {"many", "one", "ratio"}
    assert "start, with a replay" in page.read_text()
    [table] = blocks(content)["models"]
    assert not isinstance(table, str)
    assert len(table.rows) == 11
