"""The dashboard in a real browser, on a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.running import Json, Server
from tests.support.streaming import post_lines

pytestmark = pytest.mark.browser

KEYS = f"boss learn,predict,read,admin {'b' * 40};eye read {'e' * 40}"
LIVE = re.compile("^Live$")


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=30_000)


def teach(server: Server, n: int = 150, **more: Any) -> None:
    labels = ["cat", "dog", "cow", "cat"]
    lines = [
        {"x": {"size": i % 4, "weight": 1000 * (i % 3), "colour": "red"}, "y": labels[i % 4], **more}
        for i in range(n)
    ]
    post_lines(server, lines)


def value(page: Page, selector: str) -> float:
    return float(page.locator(f"{selector} data").first.get_attribute("value") or "nan")


def wait_for_step(page: Page, step: int) -> None:
    expect(page.locator("#tile-step data")).to_have_attribute("value", str(step))


def settled(page: Page, server: Server, step: int) -> Json:
    """Wait until the page shows a step in all its parts; return what the server tells of it."""
    shown = server.get("/models/default/dashboard")
    assert shown["step"] == step
    expect(page.locator("#tile-score data")).to_have_attribute(
        "value", str(shown["scores"]["window"]["Accuracy"])
    )
    wait_for_step(page, step)
    return shown


def legend(page: Page, chart: str) -> list[float]:
    found = page.locator(f"#{chart} .legend data").evaluate_all("all => all.map(one => Number(one.value))")
    assert all(isinstance(number, int | float) for number in found)
    return list(found)


def test_the_numbers_are_those_of_the_api(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    teach(server)
    server.predict({"size": 1}, id="t-1")
    page = open_page(server)
    shown = settled(page, server, 150)
    window, cumulative = shown["scores"]["window"], shown["scores"]["cumulative"]
    plain = shown["baselines"]["window"]
    assert legend(page, "score") == [
        window["Accuracy"], cumulative["Accuracy"], plain["majority"]["Accuracy"], plain["last"]["Accuracy"],
    ]  # fmt: skip
    assert legend(page, "loss") == [window["LogLoss"], cumulative["LogLoss"], plain["majority"]["LogLoss"]]
    assert legend(page, "mixture") == [*shown["shares"].values()]
    assert shown["leading"]
    expect(page.locator("#mixture .about")).to_have_text(shown["leading"])
    experts = page.locator("#expert-list tr").all_text_contents()
    sorted_by_share = sorted(shown["mixture"], key=lambda each: -each["weight"])
    assert len(experts) == len(sorted_by_share)
    assert experts[0].startswith(sorted_by_share[0]["expert"])
    assert value(page, "#tile-pending") == 1
    assert value(page, "#class-count") == 3
    assert value(page, "#feature-count") == 3
    assert page.locator("#class-list li").all_inner_texts() == shown["classes"]["latest"][::-1]
    layers = page.locator("#layer-list li")
    expect(layers).to_have_count(4)
    for i, layer in enumerate(shown["layers"]):
        numbers = layers.nth(i).locator("data").evaluate_all("all => all.map(one => Number(one.value))")
        assert numbers == [layer["before"], layer["after"]]
    cells = page.locator("#confusion-table tbody td").all_inner_texts()
    assert [int(cell) for cell in cells] == [n for row in shown["confusion"]["counts"] for n in row]


def test_a_regression(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve()
    server.create(name="prices", task="regression")
    post_lines(server, [{"x": {"a": i % 9}, "y": i % 9 / 2, "model": "prices"} for i in range(60)])
    page = open_page(server)
    page.get_by_label("Model").select_option("prices")
    wait_for_step(page, 60)
    expect(page.locator("#score-title")).to_have_text("Mean absolute error")
    shown = server.get("/models/prices/dashboard")
    plain = shown["baselines"]["window"]
    scores = [shown["scores"][part]["MAE"] for part in ("window", "cumulative")]
    assert legend(page, "score") == [*scores, plain["mean"]["MAE"], plain["last"]["MAE"]]
    expect(page.locator("#confusion")).to_be_hidden()


def evidence(server: Server) -> list[Json]:
    answer = server.post("/models/default/evidence", x={"tags": ["t1", "t8"], "user": "new"})
    found: list[Json] = answer.json()["evidence"]
    return found


def test_strings_and_words_are_counted(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve()
    page = open_page(server)
    teach(server, 20)
    wait_for_step(page, 20)
    expect(page.locator("#fields")).to_be_hidden()
    post_lines(
        server, [{"x": {"tags": [f"t{i}", f"t{i + 1}"], "user": f"u{i}"}, "y": "cat"} for i in range(9)]
    )
    wait_for_step(page, 29)
    expect(page.locator("#field-list tr")).to_have_text(["tags10", "user9", "colour1"])
    assert value(page, "#field-count") == 20
    assert "(count)" not in page.locator("#predict-x").input_value()
    page.get_by_label("Sample (JSON)").fill('{"tags": ["t1", "t8"], "user": "new"}')
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".evidence tbody tr")).to_have_count(2)
    [(feature, label)] = {(each["feature"], each["label"]) for each in evidence(server)}
    expect(page.locator(".evidence tbody tr").first).to_contain_text(f"{feature}t1{label}")


def test_a_newcomer_is_told_what_to_type(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    page = open_page(server)
    expect(page.locator("#empty")).to_be_visible()
    typed = page.locator("#curl-learn").inner_text()
    assert typed.startswith(f"curl -s {server.url}/learn ")
    body = re.search(r"-d '(.*)'", typed)
    assert body is not None
    server.learn(**json.loads(body[1]))
    wait_for_step(page, 1)
    expect(page.locator("#empty")).to_be_hidden()


def test_it_is_live(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    """It shows what is learned while the model learns, and draws it ten times a second at most."""
    server = serve()
    teach(server, 10)
    page = open_page(server)
    expect(page.locator("#status")).to_have_text(LIVE)
    wait_for_step(page, 10)
    page.evaluate(
        """() => {
          const tile = document.querySelector("#tile-step");
          window.changes = [];
          const note = () => window.changes.push([performance.now(), tile.innerText]);
          new MutationObserver(note).observe(tile, { subtree: true, characterData: true, childList: true });
        }"""
    )
    with ThreadPoolExecutor() as pool:
        learning = pool.submit(teach, server, 4000)
        wait_for_step(page, 4010)
        learning.result()
    changes = page.evaluate("window.changes")
    assert changes[-1][1] == "4,010"
    span = (changes[-1][0] - changes[0][0]) / 1000
    assert len(changes) <= 11 * span + 3
    server.learn({"size": 1, "weight": 0, "colour": "red"}, "dog")
    wait_for_step(page, 4011)
    expect(page.locator("#tile-latest")).to_contain_text("latest: dog")


def test_it_shows_what_was_before_it_was_opened(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    for _ in range(3):
        teach(server, 20)
        before = server.get("/models/default")["step"]
        while not (points := server.get("/models/default/dashboard?history=true")["history"]):
            pass
        while points[-1]["step"] < before:
            points = server.get("/models/default/dashboard?history=true")["history"]
    page = open_page(server)
    wait_for_step(page, 60)
    page.locator("#score details summary").click()
    rows = page.locator("#score tbody th").all_inner_texts()
    assert rows == [str(point["step"]) for point in reversed(points)]


def test_a_prediction_is_tried(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve()
    teach(server)
    page = open_page(server)
    settled(page, server, 150)
    box = page.get_by_label("Sample (JSON)")
    expect(box).to_have_value(re.compile('"size"'))
    box.fill('{"size": 1, "weight": 1000, "colour": "red"}')
    page.get_by_role("button", name="Predict").click()
    answer = server.predict({"size": 1, "weight": 1000, "colour": "red"})
    expect(page.locator("#predict-answer data")).to_have_text(answer["prediction"])
    shares = page.locator("#predict-answer meter").evaluate_all("all => all.map(one => one.value)")
    assert shares == sorted(answer["probabilities"].values(), reverse=True)
    box.fill("{size: 1}")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#predict-answer")).to_contain_text("Invalid JSON")
    box.fill('{"size": 1e999}')
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#predict-answer .problem")).to_contain_text("size")


def test_a_checkpoint_is_taken_and_gone_back_to(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    teach(server, 40)
    page = open_page(server)
    settled(page, server, 40)
    before = server.fingerprint()
    page.get_by_role("button", name="Create checkpoint").click()
    back = page.get_by_role("button", name=re.compile("Roll back to step 40"))
    expect(back).to_be_visible()
    teach(server, 20)
    wait_for_step(page, 60)
    dialog = page.get_by_role("dialog", name="Roll back?")
    back.click()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert server.get("/models/default")["step"] == 60
    back.click()
    dialog.get_by_role("button", name="Cancel").click()
    assert server.get("/models/default")["step"] == 60
    back.click()
    dialog.get_by_role("button", name="Roll back").click()
    wait_for_step(page, 40)
    expect(page.locator("#event-list .rollback")).to_contain_text("Rolled back to step 40")
    assert server.fingerprint() == before


def test_keys(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve(api_keys=KEYS)
    server.client.headers["authorization"] = f"Bearer {'b' * 40}"
    teach(server, 30)
    page = open_page(server)
    field, use = page.get_by_label("API key"), page.get_by_role("button", name="Use key")
    expect(field).to_be_focused()
    expect(page.locator("#shown")).to_be_hidden()
    for wrong, why in (("w" * 40, "unknown"), ("schlüssel", "ASCII")):
        field.fill(wrong)
        use.click()
        expect(page.locator("#key-problem")).to_contain_text(why)
        expect(page.locator("#shown")).to_be_hidden()
    field.fill("e" * 40)
    use.click()
    wait_for_step(page, 30)
    expect(page.locator("#checkpoint-said")).to_contain_text("admin")
    page.get_by_role("button", name="Create checkpoint").click()
    expect(page.locator("#key-problem")).to_contain_text("scope admin")
    assert server.get("/models/default/checkpoints")["checkpoints"] == []
    field.fill("b" * 40)
    use.click()
    wait_for_step(page, 30)
    page.get_by_role("button", name="Create checkpoint").click()
    expect(page.locator("#checkpoint-list tr")).to_have_count(1)
    stored = page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]")
    assert stored == [0, "", 1]  # the key is gone with the tab
    page.reload()
    wait_for_step(page, 30)


def test_it_comes_back_after_a_restart(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    first = serve()
    teach(first, 30)
    page = open_page(first)
    expect(page.locator("#status")).to_have_text(LIVE)
    wait_for_step(page, 30)
    first.stop()
    expect(page.locator("#status")).to_contain_text("Connection lost")
    again = serve(port=first.port)
    expect(page.locator("#status")).to_have_text(LIVE)
    teach(again, 5)
    wait_for_step(page, 35)


def test_another_model_is_chosen(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve()
    server.create(name="other")
    teach(server, 12)
    teach(server, 7, model="other")
    page = open_page(server)
    wait_for_step(page, 12)
    page.get_by_label("Model").select_option("other")
    wait_for_step(page, 7)
    assert page.url.endswith("#other")
    page.reload()
    wait_for_step(page, 7)
    server.client.delete("/models/other")
    wait_for_step(page, 12)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("state", ["empty", "full", "key"])
def test_anybody_can_use_it(
    serve: Callable[..., Server], open_page: Callable[..., Page], theme: str, width: int, state: str
) -> None:
    """axe finds nothing, and no width makes the page scroll sideways."""
    server = serve(api_keys=KEYS if state == "key" else None)
    if state == "full":
        post_lines(server, [{"x": {f"feature-{j}": i for j in range(30)}, "y": i % 14} for i in range(60)])
        server.client.post("/models/default/checkpoints")
    page = open_page(server, color_scheme=theme, viewport={"width": width, "height": 800})
    if state == "full":
        settled(page, server, 60)
        expect(page.locator("#checkpoint-list tr")).to_have_count(1)
        page.get_by_role("button", name="Predict").click()
        expect(page.locator("#predict-answer meter").first).to_be_visible()
        for table in page.get_by_text("As a table").all():
            table.click()
    else:
        expect(page.locator("#empty" if state == "empty" else "#key-form")).to_be_visible()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    if state == "full":
        page.get_by_role("button", name=re.compile("Roll back to step")).click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_the_keyboard_is_enough(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve()
    teach(server, 20)
    page = open_page(server)
    settled(page, server, 20)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the model"
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "take":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#checkpoint-list tr")).to_have_count(1)
