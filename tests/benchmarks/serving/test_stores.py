"""The benchmark of stores: real servers on both stores and of another checkout, and ratios within a round."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.serving.stores import OTHER, POSTGRES, RATIOS, SQLITE, blocks, postmaster, time_of_children
from benchmarks.serving.stores import main as stores
from tests.support.postgres import PostgresServer
from tests.support.programs import ROOT, benchmark


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_it_measures_each_server_in_each_round(postgres: PostgresServer, tmp_path: Path) -> None:
    out, page = tmp_path / "stores.json", tmp_path / "page.md"
    page.write_text("<!-- stores:begin -->\nold\n<!-- stores:end -->\nend\n")
    url = postgres.url(postgres.schema())
    benchmark("stores", "--url", url, "--against", ROOT, "--rounds", "1", "--out", out, "--markdown", page)
    content = json.loads(out.read_text())
    assert content["results"].keys() == {"/learn", "/predict"}
    for found in content["results"].values():
        assert found["sides"].keys() == {SQLITE, POSTGRES, OTHER}
        for name, of in found["sides"].items():
            assert of["rate"] > 0
            assert of["server"] > 0
            assert ("database" in of) == (name == POSTGRES)
        for name, (above, below) in RATIOS.items():
            for figure, ratios in found["ratios"][name].items():
                ratio = found["sides"][above][figure] / found["sides"][below][figure]
                assert ratios == pytest.approx([ratio] * 3, rel=1e-3)  # of the only round
    assert content["results"]["/learn"]["sides"][POSTGRES]["database"] > 0
    assert "/learn, PostgreSQL / SQLite" in page.read_text()
    sides, ratios = blocks(content)["stores"]
    assert not isinstance(sides, str)
    assert not isinstance(ratios, str)
    assert (len(sides.rows), len(ratios.rows)) == (6, 4)


def test_it_needs_a_database(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("BNP_STORE", raising=False)
    with pytest.raises(SystemExit):
        stores([])
    assert "--url postgresql://" in capsys.readouterr().err


def test_the_processor_time_of_postgres_counts_processes_that_have_ended(postgres: PostgresServer) -> None:
    parent = postmaster(postgres.url())
    assert parent is not None
    before = time_of_children(parent)
    postgres.execute("SELECT count(*) FROM generate_series(1, 3000000)")  # in a process of its own
    assert time_of_children(parent) - before > 2 / os.sysconf("SC_CLK_TCK")
