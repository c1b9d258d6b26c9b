"""A real Chromium, as the system has it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support.running import Server, serving

_ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
#: What Chromium says itself of a request that was refused, or of a server that is not there.
_OF_THE_NETWORK = "Failed to load resource"


@pytest.fixture(scope="module")  # while it is there its event loop runs, in the thread of all tests
def browser() -> Iterator[Browser]:
    """Chromium; without one these tests fail: `.ci/run` installs it where it can."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "Chromium is needed (apt-get install chromium), or leave these out: -m 'not browser'"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with settings of the test's own, on the same data."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(tmp_path / "data", **settings))


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page of a server; at the end nothing has gone wrong in it, and it asked no other host."""
    said: list[str] = []
    asked: set[str] = set()
    with ExitStack() as stack:

        def note(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and _OF_THE_NETWORK not in message.text:
                said.append(message.text)

        def visit(server: Server, prepare: Callable[[Page], object] | None = None, **options: Any) -> Page:
            """Open the page; `prepare` may change what the browser receives, and then see its complaints."""
            context = browser.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            if prepare is not None:
                prepare(page)
                page.goto(server.url)
                return page
            page.on("console", note)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.add(request.url))
            page.goto(server.url)
            hosts.add(server.url)
            return page

        hosts: set[str] = set()
        yield visit
    assert said == []
    assert [url for url in asked if not url.startswith((*hosts, "data:"))] == []
