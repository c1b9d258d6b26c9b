"""Lines of code, as `tools.code_size` counts them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import code_size

SOURCE = '''"""Docstring.

Of several lines.
"""

import os  # a comment


class A:
    """Docstring."""

    x = 1
    "Docstring of an attribute."

    def f(self) -> str:
        # A comment.
        return """a string
        of two lines"""
'''


def test_docstrings_comments_and_blank_lines_do_not_count() -> None:
    assert code_size.python_lines(SOURCE) == 6


def test_the_program_sums_packages_and_compares_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, extra in (("here", ""), ("there", "y = 1\nz = 2\n")):
        folder = tmp_path / name / "service" / "store"
        (folder / "uplot").mkdir(parents=True)
        (folder / "a.py").write_text(SOURCE + extra)
        (folder / "page.css").write_text("/* comment */\na {\n}\n\n")
        (folder / "uplot" / "vendored.js").write_text("x\n" * 50)
    root = ["--root", str(tmp_path / "here"), "--against", str(tmp_path / "there")]
    monkeypatch.setattr(sys, "argv", ["code_size", "service", *root])
    code_size.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["service", "6", "8", "-2"] in rows
    assert ["service/store/", "6", "8", "-2"] in rows
    assert ["service/store/page.css", "2", "2", "+0"] in rows
