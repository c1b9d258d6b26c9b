"""The documentation in a real browser: layout, accessibility, search."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize

pytestmark = pytest.mark.browser

DESKTOP, PHONE = ViewportSize(width=1300, height=900), ViewportSize(width=390, height=844)
PAGES = ["index", "tutorial", "algorithm", "comparison", "reference/http", "reference/settings"]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever, name="documentation")
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pages_are_whole(browser: Browser, url: str, size: ViewportSize, scheme: str) -> None:
    """No page is wider than its window, asks another host, or reports an error."""
    said: list[str] = []
    asked: set[str] = set()
    context = browser.new_context(viewport=size, color_scheme="dark" if scheme == "dark" else "light")
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(request.url))
    for name in PAGES:
        page.goto(f"{url}/{name}.html")
        assert page.locator("article h1").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
        assert _broken_images(page) == []
    context.close()
    assert said == []
    assert [request for request in asked if not request.startswith(url)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_can_be_read_by_all(browser: Browser, url: str, scheme: str) -> None:
    """axe finds no serious violation in the article; the rest of the page belongs to the theme."""
    context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    page = context.new_page()
    for name in ("index", "algorithm", "reference/settings"):
        page.goto(f"{url}/{name}.html")
        violations = Axe().run(page, context="article").response["violations"]
        found = [each for each in violations if each["impact"] in ("serious", "critical")]
        assert [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found] == []
    context.close()


def test_a_word_is_found(browser: Browser, url: str) -> None:
    page = browser.new_page(viewport=DESKTOP)
    page.goto(f"{url}/index.html")
    page.get_by_placeholder("Search").click()
    page.get_by_placeholder("Search").press_sequentially("unlearn")
    page.locator(".md-search-result__link").first.wait_for()
    assert "unlearn" in page.locator(".md-search-result__list").inner_text().lower()
    page.close()


@pytest.mark.parametrize(
    ("query", "how_to"),
    [
        ("drift", "how-to/drift"),
        ("unlearn", "how-to/recover"),
        ("rollback", "how-to/recover"),
        ("keys", "how-to/secure"),
        ("streams", "how-to/send-samples"),
        ("checkpoint", "how-to/recover"),
    ],
)
def test_the_search_finds_the_how_to_before_the_decision(
    browser: Browser, url: str, query: str, how_to: str
) -> None:
    page = browser.new_page(viewport=DESKTOP)
    page.goto(f"{url}/index.html")
    page.get_by_placeholder("Search").click()
    page.get_by_placeholder("Search").press_sequentially(query)
    page.locator(".md-search-result__link").first.wait_for()
    links: list[str] = page.locator(".md-search-result__link").evaluate_all("all => all.map(a => a.href)")
    page.close()
    pages = [link.removeprefix(f"{url}/").partition(".html")[0] for link in links]
    assert how_to in pages
    assert "decisions/" not in "".join(pages[: pages.index(how_to)])


def _broken_images(page: Page) -> list[str]:
    broken: list[str] = page.evaluate(
        "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    )
    return broken
