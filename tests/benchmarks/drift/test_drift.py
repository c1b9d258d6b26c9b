"""The benchmark of drift, by running its program on a short stream."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from benchmarks.drift import main as drift


def test_the_program_shows_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figure, page = tmp_path / "drift.json", tmp_path / "drift.png", tmp_path / "page.md"
    page.write_text("a\n<!-- drift:begin -->\n<!-- drift:end -->\nb\n")
    short = ["--streams", "Sine", "Friedman, other units", "--seeds", "0", "--before", "500", "--part", "200"]
    drift.main([*short, "--out", str(out), "--figure", str(figure), "--markdown", str(page)])
    results = json.loads(out.read_text())["results"]
    assert list(results) == ["Sine", "Friedman, other units"]
    for of in results.values():
        assert list(of) == list(drift.ACTIONS)
        assert of["none"]["before"] == of["reset_slowest"]["before"]  # nothing is done before the change
        assert of["none"]["first"] > of["none"]["before"]
        assert len(of["none"]["curve"]) == 6
    sine = results["Sine"]["none"]["adwin"]
    assert sine["false"] == 0
    assert 0 < sine["delays"][0] < 200
    assert results["Sine"]["none"]["first"] != results["Sine"]["reset_slowest"]["first"]
    shown = f"{100 * results['Sine']['none']['first']:.2f}"
    assert shown in capsys.readouterr().out
    assert shown in page.read_text()
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [name for name in drift.STREAMS if "gradual" not in name])
def test_a_stream_changes_where_it_should(name: str) -> None:
    def head(at: int) -> list[drift.Sample]:
        return list(itertools.islice(drift.STREAMS[name].samples(3, at), 80))

    early, late = head(40), head(10**6)
    assert early[:40] == late[:40]
    assert (early == late) == (name == "RandomRBF, no change")
