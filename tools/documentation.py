"""MkDocs hook of the documentation: generated pages, pages outside docs/, search weights, formulas.

The hook converts formulas to MathML, so that no page needs a script or another host.
"""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools.reference import PAGES
from tools.reference.figures import FIGURES

ROOT = Path(__file__).parents[1]
#: Pages that stand elsewhere, where people look for them first.
ABOVE = {
    "changelog.md": "CHANGELOG.md",
    "container.md": "docker/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
#: Weights of pages in the search: instructions come before explanations, and decisions and changes come last.
BOOSTS = {"tutorial": 4.0, "how-to/": 4.0, "decisions/": 0.01, "changelog": 0.01}
#: How a page from above links to one of these.
_INTO_DOCS = re.compile(r"\]\((?:\.\./)?docs/")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder where the navigation names the folder alone, ``decisions/``."""
    config.nav = _expanded(config.nav, Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written from the code, and those from above."""
    for path, source in ABOVE.items():
        content = _INTO_DOCS.sub("](", (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, path, content=content))
    for path in PAGES:
        files.append(File.generated(config, path, content=_written(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the tables that a page requests, and set the page's weight in the search."""
    for prefix, boost in BOOSTS.items():
        if page.file.src_uri.startswith(prefix):
            page.meta["search"] = {"boost": boost}
    for comment, written in FIGURES.items():
        if comment in markdown:
            markdown = markdown.replace(comment, written())
    return markdown


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make MathML of the formulas."""
    return _FORMULA.sub(_mathml, content)


@functools.cache  # mkdocs serve builds again and again, and the code it has imported stays the same
def _written(path: str) -> str:
    return PAGES[path]()


def _expanded(nav: Any, docs: Path) -> Any:
    if isinstance(nav, list):
        return [_expanded(entry, docs) for entry in nav]
    if isinstance(nav, dict):
        return {title: _expanded(entry, docs) for title, entry in nav.items()}
    if isinstance(nav, str) and nav.endswith("/"):
        return [f"{nav}{page.name}" for page in sorted((docs / nav).glob("*.md"))]
    return nav


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    return str(convert(html.unescape(found[2]).strip(), display=display))
