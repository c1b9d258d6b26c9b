"""Markdown tables, cells and documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a table; bars and line breaks in cells are escaped.

    Examples
    --------
    >>> print(table(["name", "is"], [["a|b", "one\ntwo"]]))
    | name | is |
    | --- | --- |
    | a\|b | one two |
    """
    lines = [head, ["---"] * len(head), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    r"""Return the text of a table cell, with bars escaped outside code.

    Examples
    --------
    >>> print(cell("a|b or `a|b`"))
    a\|b or `a|b`
    """
    return re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", " ".join(text.split()))


def code(value: object) -> str:
    """Return a value as code; an empty string for an empty value.

    Examples
    --------
    >>> code(8000), code("")
    ('`8000`', '')
    """
    return f"`{value}`" if str(value) else ""


def document(*parts: str) -> str:
    """Return a page of its parts without the empty ones."""
    return "\n\n".join(part for part in parts if part) + "\n"
