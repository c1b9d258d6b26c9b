"""Tables and marked blocks of pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.report import Cell, Table, put_between_marks, renew


def test_markdown_needs_both_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- quality:begin -->")
    with pytest.raises(ValueError, match="lacks the marks"):
        put_between_marks(page, "quality", "x")


def test_table_in_markdown() -> None:
    table = Table("t", ["stream", "SGD*"], [[Cell("a*"), Cell("1\n(0.1)", True)]])
    assert table.markdown() == "| stream | SGD\\* |\n| --- | --: |\n| a\\* | **1 (0.1)** |"


def test_only_marked_blocks_are_renewed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- one:begin -->\nold\n<!-- one:end -->\n")
    renew(page, {"one": "new", "two": "elsewhere"})
    assert page.read_text() == "<!-- one:begin -->\nnew\n<!-- one:end -->\n"
    with pytest.raises(ValueError, match="two:begin"):
        renew(page, {"two": "x"})
