"""Figures of the pages: marked blocks, and figures in sentences, follow from the results of record."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import PROGRAMS
from benchmarks.common import report
from benchmarks.serving import capacity
from bnp_online.evaluation import history
from tests.docs.blocks import DOCS
from tests.support.programs import RESULTS, ROOT
from tools.reference.figures import sparse

_MARKED = re.compile(r"<!-- ([\w-]+):begin -->\n+(.*?)\n+<!-- \1:end -->", re.DOTALL)
_RECORDS = [name for name in PROGRAMS if (RESULTS / f"{name}.json").exists()]
#: Options that a program needs, though it measures nothing.
_NEEDED = {"steps": ["--against", "unused"]}
#: Blocks of programs with another form: `tests/benchmarks` compares them with the results of record.
_ELSEWHERE = {"capacity", "gpu", "paper-conv", "paper-cost", "paper-mlp", "takeover"}


def marked() -> dict[tuple[Path, str], str]:
    """Return the blocks of all pages, by page and name."""
    pages = [ROOT / "README.md", *DOCS.glob("**/*.md")]
    return {(page, name): text for page in pages for name, text in _MARKED.findall(page.read_text("utf-8"))}


def shown(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[Path, str], str]:
    """Return what a program would write into the pages from the results of record, by page and name."""
    found: dict[tuple[Path, str], str] = {}

    def collect(page: Path, blocks: dict[str, str]) -> None:
        found.update({(page, block): text for block, text in blocks.items()})

    monkeypatch.setattr(report, "renew", collect)
    main = importlib.import_module(f"benchmarks.{PROGRAMS[name][0]}").main
    pages = {str(page) for page, _ in marked()}
    with contextlib.suppress(SystemExit):  # some programs end with a code
        main(["--read", str(RESULTS / f"{name}.json"), "--markdown", *pages, *_NEEDED.get(name, [])])
    return {place: text for place, text in found.items() if place in marked()}


@pytest.mark.parametrize("name", _RECORDS)
def test_a_block_shows_the_results_of_record(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_pages, found = marked(), shown(name, monkeypatch)
    assert found
    for place, text in found.items():
        assert on_pages[place] == text.strip("\n"), f"python -m benchmarks {name} --record renews it"


def test_each_block_has_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {place for name in _RECORDS for place in shown(name, monkeypatch)}
    assert {name for page, name in marked() if (page, name) not in known} == _ELSEWHERE


def record(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def require(page: str, words: str) -> None:
    assert words in " ".join((DOCS / page).read_text("utf-8").split())


def test_how_much_faster_a_model_without_replay_is() -> None:
    rates = {side: of["samples_per_second"] for side, of in record("speed")["parts"]["dicts"].items()}
    ratio = rates["BNPClassifier(replay=0)"] / rates["BNPClassifier()"]
    require(
        "tutorial.md", f"it predicts and learns {ratio:.1f} times as many samples per second of [the digits]"
    )


def test_the_times_of_sparse_samples() -> None:
    rows = [line.split("|") for line in sparse().splitlines()[2:]]
    ours, theirs = ([int(row[column]) for row in rows] for column in (5, 6))
    require(
        "comparison.md",
        f"takes {min(theirs)} to {max(theirs)} µs per sample, bnp-online {min(ours)} to {max(ours)} µs",
    )
    text = (DOCS / "benchmarks.md").read_text("utf-8")  # in a marked block
    (least, most), *_ = re.findall(r"BNP takes ([\d.]+) to ([\d.]+) times its processor time", text)
    times = f"{float(least):.0f} to {float(most):.0f} times the processor time of Vowpal Wabbit"
    require("comparison.md", f"takes [{times}]")


def test_the_bytes_of_the_log_follow_from_the_plan() -> None:
    planned = capacity.plan(100_000, capacity.figures())
    log = float(planned["write-ahead log, MB/s"])
    require("cluster.md", f"With 100,000 samples a second the write-ahead log takes {log:.0f} MB/s")


def test_the_size_of_a_history_is_that_of_the_code() -> None:
    """A point has 8 bytes in each column, and a sample that is not in a point yet has 6 numbers."""
    point, sample = 8 * history._COLUMNS, 8 * 6

    def bytes_after(steps: float) -> float:
        return (64 * math.log2(steps / history.MERGE_EVERY) + 256) * point + history.MERGE_EVERY * sample

    with_intervals = point + 8 * history._INTERVALS
    thousands, most = bytes_after(1e6) / 1e3, bytes_after(2**63) / 1e6
    require("how-to/monitor.md", f"A point takes {point} bytes, {with_intervals} with intervals.")
    require(
        "how-to/monitor.md", f"at most {thousands:.0f} kB after a million samples, and at most {most:.1f} MB"
    )
