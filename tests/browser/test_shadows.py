"""The panel of shadows in a real browser."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.running import Json, Server
from tests.support.streaming import post_lines

pytestmark = pytest.mark.browser

KEYS = f"boss learn,predict,read,admin {'b' * 40};eye read {'e' * 40}"


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=30_000)


def rows(count: int, seed: int = 1) -> list[Json]:
    """Samples whose class depends on a product, which no linear model learns."""
    rng = random.Random(seed)  # noqa: S311
    pairs = [(rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(count)]
    labels = ["same" if a * b > 0 else "different" for a, b in pairs]
    return [
        {"x": {"a": a, "b": b}, "y": y, "model": "signs"} for (a, b), y in zip(pairs, labels, strict=True)
    ]


def test_create_compare_promote_and_delete(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    server.client.delete("/models/default").raise_for_status()
    server.create(name="signs", hidden=[], lr=0.1, replay=0)
    post_lines(server, rows(20))
    page = open_page(server)
    panel = page.locator("#shadows")
    expect(panel).to_contain_text("No shadows")
    panel.get_by_role("button", name="Create shadow").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("wider")
    page.get_by_label("Parameters (JSON)").fill("{")
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("Invalid JSON")
    page.get_by_label("Parameters (JSON)").fill('{"hidden": [30], "lr": "high"}')
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("lr")
    page.get_by_label("Parameters (JSON)").fill(json.dumps({"hidden": [30], "lr": 0.1}))
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(panel.locator("tbody tr")).to_have_count(1)
    post_lines(server, rows(2000, 2))
    expect(panel.locator("tbody tr")).to_contain_text("better")
    expect(panel.locator("tbody td").nth(4)).to_have_text("1,999")  # the first came before it could predict
    found = server.get("/models/signs/shadows")["shadows"][0]["comparison"]
    assert found["n"] == 1999
    name = panel.locator("svg.interval").get_attribute("aria-label")
    assert name is not None
    assert name.startswith("Interval from −")
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()

    page.once("dialog", lambda dialog: dialog.dismiss())
    panel.get_by_role("button", name="Promote wider").click()
    assert server.get("/models/signs/shadows")["champion"] == "original"
    page.once("dialog", lambda dialog: dialog.accept())
    panel.get_by_role("button", name="Promote wider").click()
    expect(panel.get_by_role("status")).to_contain_text("wider answers now")
    expect(panel.locator("tbody th")).to_have_text("original")
    expect(page.locator("#event-list")).to_contain_text("Shadow wider promoted at step 2,000")
    expect(page.locator("#tile-step data")).to_have_attribute("value", "2000")
    page.once("dialog", lambda dialog: dialog.dismiss())
    panel.get_by_role("button", name="Delete original").click()
    assert len(server.get("/models/signs/shadows")["shadows"]) == 1
    page.once("dialog", lambda dialog: dialog.accept())
    panel.get_by_role("button", name="Delete original").click()
    expect(panel).to_contain_text("original is deleted")
    assert server.get("/models/signs/shadows")["shadows"] == []


def test_the_promotion_of_an_untrained_shadow_is_reverted(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    """The marks of the former champion have its name, and its checkpoint too."""
    server = serve()
    server.create(name="signs", hidden=[], lr=0.1, replay=0)
    post_lines(server, rows(20))
    server.client.post("/models/signs/checkpoints").raise_for_status()
    server.post("/models/signs/shadows", name="wider", hidden=[5]).raise_for_status()
    page = open_page(server)
    page.get_by_label("Model", exact=True).select_option("signs")
    panel, marks = page.locator("#shadows"), page.locator("#event-list")
    page.on("dialog", lambda dialog: dialog.accept())
    panel.get_by_role("button", name="Promote wider").click()
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#score")).to_be_hidden()
    expect(marks).to_contain_text("Checkpoint at step 20 of the former champion original")
    expect(page.locator("#checkpoint-list th")).to_have_text("20 of original")
    page.get_by_role("button", name="Roll back to step 20").click()
    expect(page.locator("#rollback-text")).to_contain_text("step 20 of its former champion “original”")
    page.keyboard.press("Escape")
    panel.get_by_role("button", name="Promote original").click()
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator("#tile-step data")).to_have_attribute("value", "20")
    expect(marks).not_to_contain_text("Checkpoint at step 20 of the former")
    expect(marks).to_contain_text("Shadow wider promoted at its step 0")


def test_a_key_that_reads_sees_shadows_and_cannot_promote(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve(api_keys=KEYS)
    server.client.headers["authorization"] = f"Bearer {'b' * 40}"
    server.create(name="signs", hidden=[], lr=0.1, replay=0)
    post_lines(server, rows(20))
    server.post("/models/signs/shadows", name="wider", hidden=[5]).raise_for_status()
    page = open_page(server)
    page.get_by_label("API key", exact=True).fill("e" * 40)
    page.get_by_role("button", name="Use key").click()
    page.get_by_label("Model", exact=True).select_option("signs")
    panel = page.locator("#shadows")
    expect(panel.locator("tbody th")).to_contain_text("wider")
    page.once("dialog", lambda dialog: dialog.accept())
    panel.get_by_role("button", name="Promote wider").click()
    expect(panel.get_by_role("status")).to_contain_text("admin")
    assert server.get("/models/signs/shadows")["champion"] == "original"
