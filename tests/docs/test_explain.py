"""Figures of the page on the algorithm: the named program draws them."""

from __future__ import annotations

from pathlib import Path

from tests.docs.blocks import DOCS
from tests.support.programs import benchmark


def test_the_figures_are_drawn_by_their_program(tmp_path: Path) -> None:
    done = benchmark("explain", "--samples", "300", "--out", tmp_path)
    drawn = {file.name for file in tmp_path.glob("*.svg")}
    assert drawn == {"columns.svg", "curves.svg", "learner.svg", "mixture.svg", "stage.svg", "values.svg"}
    # The drawings have the rates and windows of the code: draw them anew if they change.
    for name in ("learner.svg", "stage.svg"):
        assert (tmp_path / name).read_bytes() == (DOCS / "images" / name).read_bytes()
    page = (DOCS / "algorithm.md").read_text(encoding="utf-8")
    assert [
        name for name in drawn if f"](images/{name})" not in page or not (DOCS / "images" / name).exists()
    ] == []
    assert done.stdout.count(" at 0.003") == 4  # the accuracy of each side at each rate
