"""The derivation quotes lines of code: each exists in its file."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\|[^|]*\| `((?:bnp_online)/[\w/]+\.py)`: `(.+)` \|$", PAGE, flags=re.MULTILINE)


def test_every_quoted_line_stands_in_its_file() -> None:
    assert len(QUOTED) == len(re.findall(r"^\|.*\.py`", PAGE, flags=re.MULTILINE)) > 15
    for path, line in QUOTED:
        lines = [found.strip() for found in (ROOT / path).read_text(encoding="utf-8").splitlines()]
        assert lines.count(line) >= 1, f"{path} has no line: {line}"


def test_every_equation_that_is_numbered_has_its_code() -> None:
    numbered = {int(n) for n in re.findall(r"\\qquad \((\d+)\) \$\$$", PAGE, flags=re.MULTILINE)}
    coded = {
        int(n)
        for row in re.findall(r"^\| ([^|]*)\| `bnp_online", PAGE, flags=re.MULTILINE)
        for n in re.findall(r"\((\d+)\)", row)
    }
    assert numbered == set(range(1, max(numbered) + 1))
    assert numbered - coded == {1}  # the Hessian, which nothing needs to compute
