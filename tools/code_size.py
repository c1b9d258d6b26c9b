"""``python -m tools.code_size``: lines of code of the product, without blank lines, comments and docstrings.

A line of Python counts if one of its tokens is neither a comment nor part of a docstring. Each string that is
a statement by itself is a docstring, also after an attribute. The files of the dashboard (.js, .html, .css)
are counted apart: lines that are neither blank nor comments, without vendored files.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

DEFAULT = ("bnp_online", "service")
WEB = (".js", ".html", ".css")
#: Folders that are not counted.
VENDORED = {"uplot", "vendor", "__pycache__"}

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
_BLOCK_COMMENT = re.compile(r"/\*.*?\*/|<!--.*?-->", re.DOTALL)


def python_lines(source: str) -> int:
    r"""Return the number of lines of code in Python source.

    Examples
    --------
    >>> python_lines('"Says what it is."\n\n# a comment\nx = 1  # another\n"What x is."\ny = (\n    2\n)\n')
    4
    """
    docstrings = _docstrings(source)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE and not any(start <= token.start < end for start, end in docstrings):
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def _docstrings(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the start and end of each docstring, as `tokenize` counts (line, column)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            value = node.value
            if isinstance(value.value, str):
                # Columns of `ast` count bytes. Only indentation precedes a statement, so its start is exact;
                # its end is taken to be the end of the line.
                found.append(((value.lineno, value.col_offset), ((value.end_lineno or 0) + 1, 0)))
    return found


def web_lines(source: str) -> int:
    r"""Return the number of lines of a script, page or style sheet that are neither blank nor comments.

    Examples
    --------
    >>> web_lines("/* of\n   this */\nlet a = 1; // so\n// not this\n\nlet b = 2;\n")
    2
    """
    lines = (line.strip() for line in _BLOCK_COMMENT.sub("", source).splitlines())
    return sum(1 for line in lines if line and not line.startswith("//"))


def count(root: Path, paths: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Return the lines of code of each file below `root`: Python's, and the dashboard's."""
    python: Counter[str] = Counter()
    web: Counter[str] = Counter()
    for file in _files(root, paths):
        name = file.relative_to(root).as_posix()
        if file.suffix == ".py":
            python[name] = python_lines(file.read_text(encoding="utf-8"))
        else:
            web[name] = web_lines(file.read_text(encoding="utf-8"))
    return python, web


def _files(root: Path, paths: Iterable[str]) -> Iterator[Path]:
    for path in paths:
        top = root / path
        candidates = [top] if top.is_file() else sorted(top.rglob("*"))
        for file in candidates:
            if file.suffix in (".py", *WEB) and not VENDORED.intersection(file.relative_to(root).parts):
                yield file


def package_of(name: str) -> str:
    """Return the top-level package of a file."""
    return name.partition("/")[0]


def prefix_of(name: str) -> str:
    """Return the group of a file: its folder, or for a module of a package its name up to an underscore.

    Examples
    --------
    >>> prefix_of("service/store/sqlite.py"), prefix_of("service/paper_nets.py")
    ('service/store/', 'service/paper')
    """
    package, _, rest = name.partition("/")
    folder, slash, _ = rest.partition("/")
    if slash:
        return f"{package}/{folder}/"
    stem = folder.rpartition(".")[0]
    return f"{package}/{stem if stem.startswith('_') else stem.partition('_')[0]}"


def grouped(files: Counter[str], by: str) -> Counter[str]:
    """Return the lines by ``package``, ``prefix`` or ``file``."""
    groups: Counter[str] = Counter()
    for name, lines in files.items():
        groups[package_of(name) if by == "package" else prefix_of(name) if by == "prefix" else name] += lines
    return groups


def _print(title: str, here: Counter[str], other: Counter[str] | None) -> None:
    print(title)
    for name in sorted({*here, *(other or ())}):
        _print_row(name, here[name], None if other is None else other[name])
    _print_row("in all", here.total(), None if other is None else other.total())


def _print_row(name: str, here: int, other: int | None) -> None:
    compared = "" if other is None else f"{other:8d}{here - other:+8d}"
    print(f"  {name:36s}{here:8d}{compared}")


def main() -> None:
    """Count lines of code."""
    parser = argparse.ArgumentParser(prog="python -m tools.code_size", description=main.__doc__)
    parser.add_argument("paths", nargs="*", default=DEFAULT, help="folders and files (default: the product)")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout (default: this folder)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    parser.add_argument("--files", action="store_true", help="every file, instead of prefixes")
    options = parser.parse_args()
    python, web = count(options.root, options.paths)
    other_python, other_web = count(options.against, options.paths) if options.against else (None, None)
    if options.against:
        print(f"{'':38s}{'here':>8s}{'there':>8s}{'more':>8s}")
    for by in ("package", "file" if options.files else "prefix"):
        here = grouped(python, by)
        _print(f"Python, by {by}", here, None if other_python is None else grouped(other_python, by))
    if web or other_web:
        _print("Dashboard", web, other_web)


if __name__ == "__main__":
    main()
