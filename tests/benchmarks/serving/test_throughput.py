"""The benchmark of serving: it runs, says what it needs, and shows what it measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.serving.tables import FLOOD, IDIOMATIC, IDLE, LINES, STREAMS, durability_table, tables
from tests.support.programs import benchmark


def test_it_says_how_to_get_what_sends_the_requests(tmp_path: Path) -> None:
    ended = benchmark("http", code=1, PATH=str(tmp_path))
    assert "apt-get install wrk" in ended.stderr


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_it_writes_tables_and_json(tmp_path: Path) -> None:
    out, page = tmp_path / "http.json", tmp_path / "page.md"
    page.write_text("<!-- http:begin -->\nold\n<!-- http:end -->\nend\n")
    effort = ["--log", "none", "--models", "one member", "--connections", "2", "--repeats", "1"]
    benchmark("http", *effort, "--out", out, "--markdown", page)
    content = json.loads(out.read_text())
    assert content["client"] == "wrk"
    assert {"commit", "cpu", "versions"} <= content["environment"].keys()
    found = content["results"]["none"]
    assert found.keys() == {"/learn 2", "/predict 2", *STREAMS, IDLE, *FLOOD.values()}
    assert found["/learn 2"].keys() == {IDIOMATIC, "bare Starlette", "one member"}
    assert found["/learn 2"]["one member"]["rate"] > 0
    assert all(found[each]["one member"]["processor"] > 0 for each in STREAMS)
    assert "one member: idle" in page.read_text()
    assert page.read_text().endswith("<!-- http:end -->\nend\n")


def test_rates_are_shown_as_multiples_of_the_idiomatic_endpoint() -> None:
    def figure(rate: float, p99: float = 1.0) -> dict[str, float]:
        return {"rate": rate, "p50": 0.5, "p95": 0.9, "p99": p99, "processor": 20.0}

    sides = {IDIOMATIC: figure(1000.0), "ours": figure(1500.0)}
    rates, latencies = tables(
        "none",
        {
            "/learn 16": sides,
            **{each: {"ours": figure(9000.0)} for each in STREAMS},
            IDLE: {"ours": figure(1.0, p99=0.25)},
            FLOOD["lines"]: {"ours": figure(1.0, p99=0.5)},
            FLOOD["json"]: {"ours": figure(1.0, p99=1.0)},
        },
    )
    assert [[cell.text for cell in row] for row in rates.rows] == [
        ["/learn 16", "1,000 (1.00×; 20 µs)", "1,500 (1.50×; 20 µs)"],
        *([shown, "", "9,000 (9.00×; 20 µs)"] for shown in STREAMS.values()),
    ]
    assert [row[-1].text for row in latencies.rows] == ["", "2.0×", "4.0×"]


def test_what_durability_costs_is_a_share_of_what_no_log_allows() -> None:
    def figures(idiomatic: float, ours: float) -> dict[str, dict[str, dict[str, float]]]:
        both = {IDIOMATIC: {"rate": idiomatic}, "ours": {"rate": ours}}
        return {"/learn 16": both, LINES: {"ours": {"rate": 1.0}}}

    table = durability_table({"full": figures(1000.0, 750.0), "none": figures(500.0, 500.0)})
    assert table.header == ["", "full", "none"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["ours: /learn 16", "0.75× (0.75)", "1.00× (1.00)"]
    ]
