"""The documentation, built once."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.browser.conftest import browser as browser  # the fixture
from tests.docs.blocks import ROOT


class Page(HTMLParser):
    """Text of a page, and the URLs that a browser would load for it.

    Parameters
    ----------
    file : path
        Of the page.
    """

    _LOADED = frozenset(
        {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
    )

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.words: list[str] = []
        self._silent = 0
        self.feed(file.read_text(encoding="utf-8"))

    @property
    def text(self) -> str:
        """Text of the page, with one space between words."""
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value for name, value in attrs if (tag, name) in self._LOADED and value]
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: an unlinked page, a dead link and a dead anchor are errors.

    ``--quiet`` is not used: it hides warnings from ``--strict``.
    """
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder
