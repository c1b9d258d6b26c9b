"""Guarantees in SECURITY.md: each names an existing test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\|.*\| `", line)]


def test_the_page_has_promises() -> None:
    assert len(ROWS) > 10


@pytest.mark.parametrize("row", ROWS)
def test_each_is_shown_by_a_test(row: str) -> None:
    found = re.search(r"`([\w/]+\.py)(?:::(\w+))?`", row)
    assert found
    source = (ROOT / "tests" / found[1]).read_text(encoding="utf-8")
    assert found[2] is None or f"def {found[2]}(" in source
