"""Pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a table; a bar or the end of a line in a cell does not break it.

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
    r"""Return a text as it may stand in a table: of bars, those in code are none of the table's.

    Examples
    --------
    >>> print(cell("a|b or `a|b`"))
    a\|b or `a|b`
    """
    return re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", " ".join(text.split()))


def code(value: object) -> str:
    """Return a value as code; nothing for nothing.

    Examples
    --------
    >>> code(8000), code("")
    ('`8000`', '')
    """
    return f"`{value}`" if str(value) else ""


def document(*parts: str) -> str:
    """Return a page of parts, those that are empty left out."""
    return "\n\n".join(part for part in parts if part) + "\n"
