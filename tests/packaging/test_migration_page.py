"""The page about the migration from River: its code runs with the packages that it names, and no others."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.service.conftest import server as server  # the fixture
from tests.support.programs import ROOT
from tests.support.running import Server

PAGE = ROOT / "docs" / "how-to" / "migrate-from-river.md"
_RUN = """
import doctest, pathlib, sys
text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
test = doctest.DocTestParser().get_doctest(text, {}, "migrate-from-river.md", None, 0)
runner = doctest.DocTestRunner()
runner.run(test)
print(runner.tries, "examples")
sys.exit(runner.failures)
"""


def needed(requirement: Requirement, found: set[str]) -> Iterator[str]:
    """Yield the distributions that a requirement installs."""
    for extra in ("", *requirement.extras):
        key = f"{requirement.name.lower()}[{extra}]"
        if key in found:
            continue
        found.add(key)
        if not extra and requirement.name != "bnp-online":
            yield requirement.name
        for text in distribution(requirement.name).requires or ():
            each = Requirement(text)
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                yield from needed(each, found)


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def installed(page: str) -> set[str]:
    """Return the distributions that the commands on the page install."""
    words = re.findall(r"^pip install '?([^'\n]+?)'?$", page, re.MULTILINE)
    assert words == [".", ".[client]"]
    found: set[str] = set()
    return {name for word in words for name in needed(Requirement(word.replace(".", "bnp-online")), found)}


def environment(folder: Path, names: set[str]) -> Path:
    """Create an environment with these distributions, linked, and the checkout; return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in names:
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top != ".." and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    (packages / "checkout.pth").write_text(f"{ROOT}\n")
    return folder / "bin" / "python"


def test_its_code_runs_as_printed(page: str, server: Server, tmp_path: Path) -> None:
    names = installed(page)
    assert {"torch", "river", "httpx"} <= {name.lower() for name in names}
    assert not {"fastapi", "pytest", "pyarrow", "polars"} & {name.lower() for name in names}
    text = re.sub(r" *# doctest: \+SKIP", "", page).replace("http://localhost:8000", server.url)
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    python = environment(tmp_path / "environment", names)
    command = [str(python), "-W", "error", "-c", _RUN, str(tmp_path / "page.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "15 examples\n"
    missing = subprocess.run([python, "-c", "import fastapi"], capture_output=True, check=False)
    assert missing.returncode != 0
    assert sys.prefix != str(python.parent.parent)
