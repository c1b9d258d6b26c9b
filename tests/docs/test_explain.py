"""The figures of the page on the algorithm are drawn by the program that it names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import DOCS, ROOT


def test_the_figures_are_drawn_by_their_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.explain", "--samples", "300", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    drawn = {file.name for file in tmp_path.glob("*.svg")}
    assert drawn == {"columns.svg", "curves.svg", "mixture.svg"}
    page = (DOCS / "algorithm.md").read_text(encoding="utf-8")
    assert [
        name for name in drawn if f"](images/{name})" not in page or not (DOCS / "images" / name).exists()
    ] == []
    assert done.stdout.count(" at 0.003") == 4  # the accuracy of each side at each rate
