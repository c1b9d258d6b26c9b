"""The figure of the quality benchmark: mean rank of each model, and ours against the best rival."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .summary import Entry


def draw(entries: Sequence[Entry], ours: str, path: Path) -> None:
    """Draw."""
