"""The benchmark of staleness: a real owner and a replica, and delays from the times of the answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving.staleness import Tally, delays, marks, understated
from tests.support.postgres import PostgresServer
from tests.support.programs import benchmark


def test_it_measures_a_replica(postgres: PostgresServer, tmp_path: Path) -> None:
    out, page = tmp_path / "staleness.json", tmp_path / "page.md"
    page.write_text("<!-- staleness:begin -->\nold\n<!-- staleness:end -->\nend\n")
    url = postgres.url(postgres.schema())
    effort = ["--rate", "50", "--seconds", "2", "--warm-up", "1"]
    benchmark("staleness", "--url", url, *effort, "--out", out, "--markdown", page)
    content = json.loads(out.read_text())
    assert content["learned"] > 0
    assert content["predictions"] > 0
    for kind in ("stated", "delay"):
        assert 0 <= content[kind]["p50"] <= content[kind]["p99"] <= content[kind]["max"]
    assert set(content["cores"]) == {"owner", "replica"}
    assert "stated by a prediction" in page.read_text()


def test_a_step_is_delayed_until_the_first_answer_that_has_it() -> None:
    learned = {1: 10.0, 2: 10.1, 3: 10.2, 4: 10.3}
    predictions = [(10.0, 10.05, 1, 0.0), (10.2, 10.25, 1, 90.0), (10.3, 10.35, 3, 5.0)]
    tally = Tally(learned, predictions)  # step 4 was never seen
    assert delays(tally) == pytest.approx([50.0, 250.0, 150.0])
    # The second prediction was asked for 100 ms after step 2 was learned.
    assert understated(tally) == pytest.approx([10.0])


def test_percentiles_of_one_value_are_the_value() -> None:
    assert marks([3.0]) == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert marks([*map(float, range(101))]) == {"p50": 50.0, "p99": 99.0, "max": 100.0}
