"""Environment of a measurement, tables, JSON files and marked blocks of pages."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

import bnp_online

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = (
    "bnp-online",
    "matplotlib",
    "numba",
    "numpy",
    "river",
    "scikit-learn",
    "torch",
    "vowpalwabbit",
)


def environment() -> dict[str, Any]:
    """Return date, commit, processor and versions of a measurement."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "HEAD"),
        # The figures belong to the commit only if this is empty.
        "modified": (_git("status", "--porcelain", "--", "bnp_online", "benchmarks") or "").splitlines(),
        "cpu": _cpu(),
        "cores": torch.multiprocessing.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "library": library_digest(),
        "torch_threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    """Return the version of a package; None if it is missing, for example on a lent machine."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def library_digest() -> str:
    """Return the SHA-256 of the library's source, which is more specific than its version."""
    folder = Path(bnp_online.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    """Return the output of git; None outside a checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.rstrip()


def _cpu() -> str:
    """Return the name of the processor, or ``"unknown"``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically. NaN and infinity raise ValueError, since JSON has neither."""
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def escaped(text: str) -> str:
    """Return text with its asterisks escaped for Markdown."""
    return text.replace("*", "\\*")


@dataclass(frozen=True)
class Cell:
    """Entry of a table; `best` shows it in bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Table for a terminal and for Markdown.

    Attributes
    ----------
    title : str
        Description of the figures.
    header : list of str
        One name a column.
    rows : list of list of Cell
        Cells by row.
    """

    title: str
    header: list[str]
    rows: list[list[Cell]]

    def show(self, console: Console) -> None:
        """Print the table to a terminal."""
        table = RichTable(
            title=self.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1)
        )
        for i, name in enumerate(self.header):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell.text, style="bold green" if cell.best else "") for cell in row))
        console.print(table)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [[escaped(name) for name in self.header], ["---", *["--:"] * (len(self.header) - 1)]]
        for row in self.rows:
            texts = [escaped(cell.text.replace("\n", " ")) for cell in row]
            lines.append([f"**{t}**" if cell.best else t for t, cell in zip(texts, row, strict=True)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def renew(page: Path, contents: Mapping[str, str]) -> None:
    """Replace the marked blocks of a page; the page must have at least one of them.

    Raises
    ------
    ValueError
        If the page has none of the marks, or a begin mark without its end mark.
    """
    text = page.read_text(encoding="utf-8")
    marked = [name for name in contents if f"<!-- {name}:begin -->" in text]
    for name in marked or contents:
        put_between_marks(page, name, contents[name])


def put_between_marks(path: Path, name: str, content: str) -> None:
    """Replace the text of a page between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises
    ------
    ValueError
        If a mark is missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = path.read_text(encoding="utf-8")
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{path} lacks the marks {begin} and {end}")
    path.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")
