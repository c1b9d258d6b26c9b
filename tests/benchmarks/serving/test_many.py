"""The benchmark of many small models: it runs with small numbers, against a checkout, and shows a table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.serving.many import HERE, KINDS, OTHER, blocks
from tests.support.programs import ROOT, benchmark


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_it_measures_both_checkouts_and_shows_a_table(tmp_path: Path) -> None:
    out, page = tmp_path / "many.json", tmp_path / "page.md"
    page.write_text("<!-- many:begin -->\nold\n<!-- many:end -->\nend\n")
    effort = ["--models", "3", "--specs", "replay=0", "--repeats", "1", "--seconds", "1"]
    benchmark("many", *effort, "--against", ROOT, "--out", out, "--markdown", page)
    content = json.loads(out.read_text())
    by_kind = content["results"]["replay=0"]
    assert by_kind.keys() == KINDS.keys()
    for by_side in by_kind.values():
        assert by_side.keys() == {HERE, OTHER}
        for figures in by_side.values():
            assert figures["rate"] > 0
            assert 0 < figures["loop"] < figures["processor"]
    assert "replay=0, JSON, other checkout" in page.read_text()
    [table] = blocks(content)["many"]
    assert not isinstance(table, str)
    assert len(table.rows) == 2 * len(KINDS)
