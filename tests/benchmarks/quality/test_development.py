"""The generated streams, by running their program."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from benchmarks.common.generated import STREAMS, Sample
from benchmarks.quality import development


def test_the_program_shows_and_writes_both_learners(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "development.json"
    development.main(["--streams", "moons", "line", "--seeds", "0", "--length", "300", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert list(results) == ["moons", "line"]
    assert all(list(of) == ["auto", "auto, replay=0"] for of in results.values())
    assert min(results["moons"].values()) > 70.0
    printed = capsys.readouterr().out
    assert f"{results['line']['auto']:.4g}" in printed
    assert "geometric mean" in printed


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_its_seed_s(name: str) -> None:
    def head(seed: int) -> list[Sample]:
        return list(itertools.islice(STREAMS[name].samples(seed), 20))

    assert len(head(0)) == 20
    assert head(0) == head(0)
    assert head(0) != head(1)
