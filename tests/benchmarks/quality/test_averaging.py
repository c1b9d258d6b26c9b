"""The benchmark of workers that share a stream, by running its program."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.quality import averaging
from tests.support.programs import DOCS, RESULTS


def test_the_program_measures_each_way(tmp_path: Path) -> None:
    out = tmp_path / "averaging.json"
    averaging.main(["--quick", "--seeds", "0", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert list(results) == list(averaging.STREAMS)
    for of in results.values():
        assert list(of) == [averaging.ONE, *averaging.WAYS]
        assert all(50.0 < found <= 100.0 for way in of.values() for ((found, _),) in way.values())
    assert (tmp_path / "averaging.png").exists()


def test_the_mean_of_states_has_the_moments_of_all_samples() -> None:
    parts = torch.tensor([[1.0, 3.0], [5.0, 7.0]], dtype=torch.float64)
    states = [
        {"inputs.mean": part.mean(), "inputs.var": part.var(correction=0), "step": torch.tensor(2)}
        for part in parts
    ]
    mean = averaging.averaged(states)
    assert {name: float(value) for name, value in mean.items()} == {"inputs.mean": 4.0, "inputs.var": 5.0}


def test_the_page_shows_the_results_of_record(tmp_path: Path) -> None:
    page = tmp_path / "cluster.md"
    before = (DOCS / "cluster.md").read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    averaging.main(["--read", str(RESULTS / "averaging.json"), "--markdown", str(page)])
    assert page.read_text(encoding="utf-8") == before
