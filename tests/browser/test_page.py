"""The dashboard in a real browser, on a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

from service.models.cluster import SingleNode
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
        *(scores["Accuracy"] for scores in (window, shown["recent"], cumulative)),
        plain["majority"]["Accuracy"],
        plain["last"]["Accuracy"],
    ]
    assert legend(page, "loss") == [
        window["LogLoss"], shown["recent"]["LogLoss"], cumulative["LogLoss"], plain["majority"]["LogLoss"],
    ]  # fmt: skip
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
    page.get_by_label("Model", exact=True).select_option("prices")
    wait_for_step(page, 60)
    expect(page.locator("#score-title")).to_have_text("Mean absolute error")
    shown = server.get("/models/prices/dashboard")
    plain = shown["baselines"]["window"]
    scores = [shown["scores"]["window"]["MAE"], shown["recent"]["MAE"], shown["scores"]["cumulative"]["MAE"]]
    assert legend(page, "score") == [*scores, plain["mean"]["MAE"], plain["last"]["MAE"]]
    expect(page.locator("#confusion")).to_be_hidden()
    assert [y for y, _ in shown["pairs"]] == [i % 9 / 2 for i in range(60)][-len(shown["pairs"]) :]
    expect(page.locator("#pairs-plot circle")).to_have_count(len(shown["pairs"]))
    expect(page.locator("#pairs-note")).to_contain_text("predictions upwards")


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
    widths = [page.locator(f"#{name}").bounding_box() for name in ("overview", "empty")]
    assert len({each and each["width"] for each in widths}) == 1
    typed = page.locator("#curl-learn").inner_text()
    assert typed.startswith(f"curl -s {server.url}/learn ")
    body = re.search(r"-d '(.*)'", typed)
    assert body is not None
    server.learn(**json.loads(body[1]))
    wait_for_step(page, 1)
    expect(page.locator("#empty")).to_be_hidden()


def test_a_newcomer_sends_samples_to_the_model_that_is_shown(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    server.create(name="other", hidden=[2])
    server.create(name="image", input_shape=[2, 3], hidden=[2])
    page = open_page(server)
    page.get_by_label("Model", exact=True).select_option("other")
    for id in ("curl-learn", "curl-stream"):
        expect(page.locator(f"#{id}")).to_contain_text(f" {server.url}/models/other/learn ")
    expect(page.locator("#empty-about")).to_contain_text("Features and classes come from the data.")
    page.get_by_label("Model", exact=True).select_option("image")
    expect(page.locator("#curl-learn")).to_contain_text('{"x": X, "y": "open"}')
    expect(page.locator("#empty-about")).to_contain_text("nested lists of numbers of the shape [2, 3].")
    server.post("/models/image/learn", x=[[1, 2, 3], [4, 5, 6]], y="open")
    expect(page.locator("#names-note")).to_have_text(
        "A sample is nested lists of numbers of the shape [2, 3]."
    )
    expect(page.locator("#names h3", has_text="Features")).to_be_hidden()


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


def test_it_shows_the_life_of_the_model_and_its_marks(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    """Also after a restart: scores by step or by time, and a list of marks that new ones are added to."""
    first = serve()
    teach(first, 120)
    first.client.post("/models/default/checkpoints")
    teach(first, 60)
    first.post("/models/default/rollback", step=150)
    first.stop()
    server = serve()
    shown, found = server.get("/models/default/dashboard"), server.get("/models/default/history")
    page = open_page(server)
    wait_for_step(page, 150)
    page.locator("#score").get_by_text("As a table").click()
    expect(page.locator("#score tbody tr")).to_have_count(12)
    rows = page.locator("#score tbody th").all_inner_texts()
    assert rows == [str(step) for step in found["step"]][:2:-1]
    right = sum(
        n * score for n, score in zip(found["n"][-11:-1], found["scores"]["Accuracy"][-11:-1], strict=True)
    )
    cells = page.locator("#score tbody tr").nth(1).locator("td").all_inner_texts()
    assert cells[1] == f"{right:.1f}%"  # of the last 100
    assert legend(page, "score")[1] == shown["recent"]["Accuracy"]
    marks = page.locator("#event-list li")
    expect(marks).to_have_count(len(found["marks"]))
    said = marks.all_inner_texts()
    assert any("Rolled back to step 150" in text for text in said)
    assert any("Checkpoint at step 120" in text for text in said)
    page.get_by_role("radio", name="time").check()
    expect(page.locator("#score canvas")).to_have_count(1)
    page.get_by_role("button", name="Create checkpoint").click()
    expect(marks.first).to_contain_text("Checkpoint at step 150")


#: Keeps the charts that are made from here on.
KEEP_CHARTS = """() => {
  const Chart = uPlot;
  window.charts = [];
  window.uPlot = function (...all) {
    const chart = new Chart(...all);
    window.charts.push(chart);
    return chart;
  };
  Object.assign(uPlot, Chart);
}"""


def test_the_axis_of_time_reaches_to_the_last_mark(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    """Its labels are those of 24 hours, with the day below, as all times of the page."""
    server = serve()
    teach(server, 60)
    server.client.post("/models/default/checkpoints")
    found = server.get("/models/default/history")
    assert found["marks"][-1]["time"] > found["time"][-1]
    page = open_page(server, timezone_id="Asia/Tokyo", locale="en-US")
    settled(page, server, 60)
    page.evaluate(KEEP_CHARTS)
    page.get_by_role("radio", name="time").check()
    page.wait_for_function("() => charts.length === 3 && charts.every(each => each.axes[0]._values)")
    first, last, labels = page.evaluate(
        "() => [charts[0].scales.x.min, charts.map(each => each.scales.x.max), charts[0].axes[0]._values]"
    )
    assert (first, {*last}) == (found["time"][0], {found["marks"][-1]["time"]})
    when = datetime.fromtimestamp(found["marks"][-1]["time"], ZoneInfo("Asia/Tokyo"))
    at, on = r"\d\d:\d\d:\d\d(\.\d{3})?", r"\n\d{4}-\d\d-\d\d"
    assert re.fullmatch(at + on, labels[0])
    assert all(re.fullmatch(f"{at}({on})?", label) for label in labels[1:])
    for shown in ("#event-list time", "#checkpoint-list time"):
        expect(page.locator(shown)).to_have_text(f"{when:%Y-%m-%d %H:%M}")


def test_the_shares_of_experts_begin_with_the_model(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    for i in range(32):  # the step of a point
        server.learn({"a": i % 4}, "ab"[i % 2])
    found = server.get("/models/default/history")["experts"]
    page = open_page(server)
    settled(page, server, 32)
    page.locator("#mixture").get_by_text("As a table").click()
    rows = page.locator("#mixture tbody th")
    expect(rows).to_have_count(len(found["step"]))
    assert rows.all_inner_texts() == [str(step) for step in found["step"]][::-1]
    cells = page.locator("#mixture tbody tr:last-child td").all_inner_texts()
    shown = [float(cell.removesuffix("%")) for cell in cells]
    assert shown == pytest.approx([100 * share[0] for share in found["shares"].values()], abs=0.06)


def test_every_mark_is_drawn_as_it_happens(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    """Unlearning, a drift and its action, and an import; what comes after an import is drawn anew."""
    drift = {"action": "reset_slowest", "detector": "page_hinkley", "threshold": 5.0}
    server = serve()
    server.create(name="a-first", drift=drift, hidden=[4])
    page = open_page(server)
    page.get_by_label("Model", exact=True).select_option("a-first")
    flip = [{"x": {"a": i % 2}, "y": (i > 150) ^ i % 2, "model": "a-first", "id": f"{i}"} for i in range(300)]
    post_lines(server, flip)
    marks = page.locator("#event-list")
    for text in ("Drift at step", "Action after a drift, reset_slowest, at step"):
        expect(marks).to_contain_text(text)
    file = server.client.get("/models/a-first/export").content
    server.post("/models/a-first/forget", ids=["7", "9"])
    expect(marks).to_contain_text("2 events unlearned at step")
    expect(page.locator("#announce")).to_contain_text("unlearned")
    wait_for_step(page, 298)
    expect(marks).to_contain_text("2 events unlearned at step 298")  # where the life of the model has it
    octets = {"content-type": "application/octet-stream"}
    server.client.put("/models/a-first/import", content=file, headers=octets).raise_for_status()
    expect(marks).to_contain_text("Imported at step 300")
    wait_for_step(page, 300)
    page.locator("#score").get_by_text("As a table").click()
    expect(page.locator("#score tbody tr")).to_have_count(1)


def test_a_mark_is_kept_that_comes_while_older_ones_are_read(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    teach(server, 10)
    page = open_page(server)
    wait_for_step(page, 10)
    expect(page.locator("#status")).to_have_text(LIVE)
    marks = page.locator("#event-list")
    held: list[Route] = []
    page.route("**/history", lambda route: held.append(route), times=1)
    with page.expect_request("**/history"):
        server.client.post("/models/default/checkpoints")
    while not held:  # the route takes the request a moment after it is announced
        page.wait_for_timeout(20)
    answer = held[0].fetch()
    teach(server, 5)
    server.client.post("/models/default/checkpoints")
    expect(marks).to_contain_text("Checkpoint at step 15")
    with page.expect_request("**/history"):
        held[0].fulfill(response=answer)
    expect(marks.locator("li")).to_have_text([re.compile("at step 15"), re.compile("at step 10")])


def test_single_requests_and_streams_have_two_times(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    teach(server, 40)
    page = open_page(server)
    settled(page, server, 40)
    expect(page.locator("#times .legend li")).to_have_text([re.compile("single"), re.compile("streams")])
    values = page.locator("#times .legend data")
    expect(values).to_have_text(["–", "–"])  # none since it was opened
    server.learn({"size": 1}, "cat")
    expect(values).to_have_text([re.compile("s$"), "–"])
    server.learn({"size": 1}, "cat")  # the one before may be older than ten seconds
    teach(server, 5)
    expect(values).to_have_text([re.compile("s$"), re.compile("s$")])


def test_the_latency_is_that_of_the_server(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    """The tile says so: a request to another model counts."""
    server = serve()
    server.create(name="other")
    teach(server, 40)
    page = open_page(server)
    settled(page, server, 40)
    expect(page.locator("#tile-latency-note")).to_have_text("all models: no single requests")
    server.learn({"size": 1}, "cat", model="other")
    expect(page.locator("#tile-latency-note")).to_contain_text("all models: median of /learn, 99th")
    tile = page.locator(".tile", has=page.locator("#tile-latency"))
    tile.get_by_label("What does “Server latency” mean?").click()
    expect(tile).to_contain_text("over all models of this server, not of the selected model alone")


def test_intervals_are_drawn(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve()
    server.create(name="prices", task="regression", hidden=[4], intervals=4)
    sent = [{"x": {"a": i % 9}, "y": i % 9 / 2 + i % 2, "model": "prices"} for i in range(120)]
    post_lines(server, sent)
    page = open_page(server)
    wait_for_step(page, 0)
    expect(page.locator("#coverage")).to_be_hidden()
    page.get_by_label("Model", exact=True).select_option("prices")
    wait_for_step(page, 120)
    found = server.get("/models/prices/metrics")["intervals"]
    spans = found["window"], found["recent"]
    assert legend(page, "coverage") == [*(span["coverage"] for span in spans), 0.9]
    assert legend(page, "width") == [span["width"] for span in spans]
    page.locator("#width").get_by_text("As a table").click()
    expect(page.locator("#width tbody tr")).to_have_count(12)
    page.get_by_role("button", name="Predict").click()
    low, high = server.predict({"a": 4.0}, model="prices", interval=0.9)["interval"]
    expect(page.locator("#predict-answer .interval")).to_contain_text("With a probability of 90% the target")
    assert low < high
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


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
    expect(page.locator("#predict-answer .answer data")).to_have_text(answer["prediction"])
    shares = page.locator("#predict-answer meter").evaluate_all("all => all.map(one => one.value)")
    assert shares == sorted(answer["probabilities"].values(), reverse=True)
    explained = server.post("/explain", x={"size": 1, "weight": 1000, "colour": "red"}).json()
    strongest = sorted(explained["contributions"].items(), key=lambda each: -abs(each[1]))
    moved = page.locator("#predict-answer .moved li data").evaluate_all("all => all.map(one => +one.value)")
    assert moved == [value for _, value in strongest if value]
    important = server.get("/models/default")["importances"]
    expect(page.locator("#importances li span").first).to_have_text(important[0]["feature"])
    box.fill("")
    page.get_by_role("button", name="Means").click()
    means = server.get("/models/default/dashboard")["means"]
    assert json.loads(box.input_value()) == means
    page.get_by_role("button", name="Latest sample").click()
    expect(page.locator("#fill-said")).to_have_text("The sample of step 150.")
    assert json.loads(box.input_value()) == {"size": 1, "weight": 2000, "colour": "red"}
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
    server.client.post("/models/default/checkpoints")
    expect(page.get_by_role("button", name=re.compile("Roll back to step 60"))).to_be_visible()
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
    later = page.locator("#checkpoint-list tr", has_text="60")
    expect(later).to_contain_text("of an earlier branch")
    expect(later.get_by_role("button")).to_have_count(0)
    assert server.fingerprint() == before


def test_keys(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve(api_keys=KEYS)
    server.client.headers["authorization"] = f"Bearer {'b' * 40}"
    teach(server, 30)
    page = open_page(server)
    field, use = page.get_by_label("API key"), page.get_by_role("button", name="Use key")
    expect(field).to_be_visible()
    expect(page.locator("#model")).to_be_hidden()
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
    expect(page.locator("#no-checkpoints")).to_contain_text("admin")
    page.get_by_role("button", name="Create checkpoint").click()
    expect(page.locator("#key-problem")).to_contain_text("scope admin")
    assert server.get("/models/default/checkpoints")["checkpoints"] == []
    page.get_by_role("button", name="Latest sample").click()
    expect(page.locator("#fill-said")).to_contain_text("scope admin")
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
    page.get_by_label("Model", exact=True).select_option("other")
    wait_for_step(page, 7)
    assert page.url.endswith("#other")
    page.reload()
    wait_for_step(page, 7)
    page.go_back()
    wait_for_step(page, 12)
    expect(page.get_by_label("Model", exact=True)).to_have_value("default")
    page.go_forward()
    wait_for_step(page, 7)
    server.client.delete("/models/other")
    expect(page.locator("#missing")).to_contain_text("There is no model “other”. Choose one")
    page.locator("#overview-list").get_by_role("button", name="default").click()
    wait_for_step(page, 12)
    expect(page.locator("#missing")).to_be_hidden()


@pytest.mark.parametrize("name", ["nowhere", "%", "q" * 300])
def test_an_unknown_model_is_not_replaced_by_another(
    serve: Callable[..., Server], open_page: Callable[..., Page], name: str
) -> None:
    server = serve()
    teach(server, 12)
    page = open_page(server)
    wait_for_step(page, 12)
    page.evaluate("name => { location.hash = name; }", name)
    expect(page.locator("#missing")).to_contain_text(f"There is no model “{name}”.")
    expect(page.locator("#status")).to_have_text("No model")
    expect(page.locator("#shown")).to_be_hidden()
    expect(page.locator("#overview-list th")).to_have_text("default")
    if len(name) > 64:
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
    if name == "nowhere":
        server.create(name=name)
        expect(page.locator("#empty")).to_be_visible()
    server.client.delete("/models/default")
    server.client.delete(f"/models/{name}")
    page.evaluate("() => { location.hash = ''; }")
    expect(page.locator("#missing")).to_contain_text("No models")
    expect(page.get_by_role("button", name="Create model")).to_be_visible()


def names(page: Page) -> list[str]:
    return page.locator("#overview-list th").all_inner_texts()


def reach(page: Page, element: Locator, key: str = "Tab") -> None:
    """Press a key until an element has the focus."""
    for _ in range(60):
        if element.evaluate("each => each === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{element} is not reached by {key}")


@pytest.mark.parametrize("count", [1, 12, 200])
def test_the_overview_shows_all_models(
    serve: Callable[..., Server], open_page: Callable[..., Page], count: int
) -> None:
    server = serve(max_models=300)
    teach(server, 60)
    others = [f"m{i}" for i in range(1, count)]
    if count == 12:
        others[-1] = "z" * 64
    for i, name in enumerate(others):
        server.create(name=name, hidden=[2], replay=0, task="regression" if i == 0 else "classification")
    if others:
        post_lines(server, [{"x": {"a": i % 5}, "y": i % 5, "model": "m1"} for i in range(40)])
    page = open_page(server, viewport={"width": 390, "height": 800})
    rows = page.locator("#overview-list tr")
    expect(rows).to_have_count(count)
    [found] = [each for each in server.get("/overview")["models"] if each["name"] == "default"]
    assert value(page, "#overview-list tr:first-child") == found["recent"]["Accuracy"]
    assert found["recent"]["Accuracy"] == value(page, "#tile-score")
    expect(page.locator("#overview-list .spark polyline")).to_have_count(min(count, 2))
    assert names(page) == ["default", *others]
    expect(page.locator("#compare option")).to_have_count(max(count - 1, 1))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    score = rows.first.locator("td").first.bounding_box()
    assert score is not None
    assert score["x"] + score["width"] < 390, "a long name does not hide the score"
    if count > 1:
        reach(page, page.get_by_role("button", name="Samples"))
        page.keyboard.press("Enter")
        assert names(page)[:2] == ["default", "m1"]
        expect(page.locator("#overview-head [aria-sort=descending]")).to_have_text("Samples")
        page.keyboard.press("Space")
        assert names(page)[-2:] == ["m1", "default"]
        reach(page, page.get_by_label("Filter"), "Shift+Tab")
        page.keyboard.type("m1 regr")
        assert names(page) == ["m1"]
        reach(page, rows.get_by_role("button"))
        page.keyboard.press("Enter")
        wait_for_step(page, 40)
        assert page.url.endswith("#m1")
        expect(page.locator("#overview-list [aria-current]")).to_have_text("m1")
        page.get_by_label("Filter").fill("nothing")
        expect(page.locator("#overview-none")).to_have_text("No model matches “nothing”.")
        expect(page.locator("#overview-more")).to_be_hidden()
        page.get_by_label("Filter").fill("")
        expect(page.locator("#overview-none")).to_be_hidden()
        expect(page.locator("#overview-more")).to_have_text(f"Scroll the list to see all {count}.")
    if count == 12:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_two_models_are_compared(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve()
    server.create(name="other", hidden=[3])
    server.create(name="prices", task="regression")
    teach(server, 90)
    teach(server, 40, model="other")
    found = server.get("/models/other/history")
    page = open_page(server)
    wait_for_step(page, 90)
    assert len(legend(page, "score")) == 5
    choice = page.get_by_label("compared with")
    assert choice.locator("option").all_inner_texts() == ["no other model", "other"]
    choice.select_option("other")
    expect(page.locator("#score .legend")).to_contain_text("other, last 1,000")
    expect(page.locator("#score .legend data")).to_have_count(6)
    n, accuracy = found["n"], found["scores"]["Accuracy"]
    right = [sum(map(float.__mul__, map(float, n[:i]), accuracy[:i])) / sum(n[:i]) for i in (1, 2, 3, 4)]
    assert legend(page, "score")[-1] == pytest.approx(right[-1])
    page.locator("#score").get_by_text("As a table").click()
    expect(page.locator("#score tbody tr")).to_have_count(9)
    cells = page.locator("#score tbody tr td:last-child").all_inner_texts()[::-1]
    assert cells[:4] == [f"{100 * each:.1f}%" for each in right]
    assert cells[4:] == ["–"] * 5  # after the last step of the other model
    assert page.locator("#event-list li").count() == 0
    teach(server, 30, model="other")
    expect(page.locator("#score tbody tr:nth-child(3) td:last-child")).to_have_text(re.compile("%$"))
    choice.select_option("")
    expect(page.locator("#score .legend data")).to_have_count(5)


def test_a_comparison_shows_the_points_of_both_models(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    """By time the axis has both lives, by samples that of the shown one; the other charts are kept."""
    server = serve()
    server.create(name="other", hidden=[3])
    teach(server, 40, model="other")
    teach(server, 20)
    own, other = (server.get(f"/models/{name}/history") for name in ("default", "other"))
    assert other["time"][-1] < own["time"][0]
    page = open_page(server)
    settled(page, server, 20)
    expect(page.locator("#rate canvas")).to_have_count(1)
    page.evaluate("() => { document.querySelector('#rate canvas').kept = true; }")
    page.evaluate(KEEP_CHARTS)
    page.get_by_label("compared with").select_option("other")
    expect(page.locator("#score .legend data")).to_have_count(6)
    data = """() => {
      const { data, scales } = charts[0];
      return [scales.x.max, data[0], data.at(-1).map(each => each ?? null)];
    }"""
    page.wait_for_function("() => charts.length === 2 && charts.every(each => each.scales.x.max)")
    end, steps, values = page.evaluate(data)
    assert (end, steps) == (20, other["step"])
    assert None not in values
    page.evaluate("() => { charts.length = 0; }")
    page.get_by_role("radio", name="time").check()
    page.wait_for_function("() => charts.length === 3 && charts.every(each => each.scales.x.max)")
    _, times, again = page.evaluate(data)
    assert times == sorted({*other["time"], *own["time"]})
    assert again.count(None) == len({*own["time"]})
    assert again.index(None) == len({*other["time"]})
    assert page.evaluate("() => document.querySelector('#rate canvas').kept")


def test_the_seconds_since_the_page_was_opened_are_whole(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    teach(server, 20)
    page = open_page(server)
    settled(page, server, 20)
    page.evaluate(KEEP_CHARTS)
    page.get_by_label("Model", exact=True).evaluate("each => each.dispatchEvent(new Event('change'))")
    page.wait_for_function(
        "() => charts.some(each => each.series[1].label === 'learned' && each.axes[0]._values?.length > 2)"
    )
    places, labels = page.evaluate(
        """() => {
          const { _splits, _values } = charts.find(each => each.series[1].label === 'learned').axes[0];
          return [_splits, _values];
        }"""
    )
    assert labels == [f"{place} s" for place in places]


def test_models_are_created_and_deleted(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve(api_keys=KEYS)
    server.client.headers["authorization"] = f"Bearer {'b' * 40}"
    page = open_page(server)
    field, use = page.get_by_label("API key"), page.get_by_role("button", name="Use key")
    create = page.get_by_role("dialog", name="Create model")

    def fill() -> None:
        page.get_by_role("button", name="Create model").click()
        create.get_by_label("Name").fill("prices")
        create.get_by_label("Task").select_option("regression")
        create.get_by_label("Further parameters").fill('{"hidden": [7]}')
        create.get_by_role("button", name="Create").click()

    field.fill("e" * 40)
    use.click()
    fill()
    expect(page.locator("#key-problem")).to_contain_text("scope admin")
    field.fill("b" * 40)
    use.click()
    expect(page.locator("#status")).to_have_text(LIVE)
    fill()
    expect(page.locator("#overview-list [aria-current]")).to_have_text("prices")
    spec = server.get("/models/prices")["spec"]
    assert (spec["task"], spec["hidden"]) == ("regression", [7])
    page.get_by_role("button", name="Create model").click()
    expect(create.get_by_label("Name")).to_have_value("")
    expect(create.get_by_label("Further parameters")).to_have_value("")
    create.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Delete model").click()
    dialog = page.get_by_role("dialog", name="Delete model?")
    dialog.get_by_label("Name").fill("other")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not the name")
    dialog.get_by_label("Name").fill("prices")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator("#overview-list tr")).to_have_count(1)
    assert [each["name"] for each in server.get("/models")["models"]] == ["default"]


def test_each_chart_says_what_it_means(serve: Callable[..., Server], open_page: Callable[..., Page]) -> None:
    server = serve()
    teach(server, 20)
    page = open_page(server)
    settled(page, server, 20)
    asked = page.locator(".help summary:visible")
    expect(asked).to_have_count(10)
    for each in asked.all():
        each.focus()
        page.keyboard.press("Enter")
        expect(each.locator("xpath=../p")).to_be_visible()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_without_scripts_it_says_where_the_figures_are(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    server.create(name="prices.eu", task="regression")
    teach(server, 1200)
    page = open_page(server, java_script_enabled=False)
    rows = page.locator("#fallback li")
    expect(rows).to_have_text(
        [
            "default, classification, samples learned: 1,200, ready: description, scores, history",
            "prices.eu, regression, samples learned: 0, ready: description, scores, history",
        ]
    )
    page.get_by_role("link", name="scores of prices.eu").click()
    assert page.url == f"{server.url}/models/prices.eu/metrics"
    page.go_back()
    links = page.locator("#fallback a").all()
    assert len(links) == 4 + 2 * 3
    for link in links:
        assert server.client.get(f"/{link.get_attribute('href')}").status_code == 200
        expect(link).to_be_visible()
    expect(page.locator("#status")).to_be_hidden()
    expect(page.locator("#fallback pre")).to_contain_text(f"curl -s {server.url}/overview ")
    behind = {"x-forwarded-proto": "https", "x-forwarded-prefix": "/bnp"}
    assert f"curl -s https{server.url[4:]}/bnp/overview " in server.client.get("/", headers=behind).text


def missing(path: str) -> Callable[[Page], object]:
    return lambda page: page.route(f"**/{path}", lambda route: route.fulfill(status=404))


def refused(page: Page) -> None:
    """Let a proxy's policy forbid scripts."""

    def forbid(route: Route) -> None:
        answer = route.fetch()
        headers = {**answer.headers, "content-security-policy": "script-src 'none'"}
        route.fulfill(response=answer, headers=headers)

    page.route("**/", forbid)


@pytest.mark.parametrize("prepare", [refused, missing("dashboard/app.js"), missing("dashboard/dom.js")])
def test_a_script_that_cannot_run_leaves_the_page_readable(
    serve: Callable[..., Server], open_page: Callable[..., Page], prepare: Callable[[Page], object]
) -> None:
    page = open_page(serve(), prepare, viewport={"width": 390, "height": 800})
    expect(page.get_by_role("heading", name="The script of this page has not run")).to_be_visible()
    for name in ("overview", "scores of default"):
        expect(page.get_by_role("link", name=name)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_without_the_chart_library_the_numbers_are_there(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    server = serve()
    teach(server, 40)
    page = open_page(server, missing("dashboard/uplot/uPlot.iife.min.js"))
    settled(page, server, 40)
    expect(page.locator("#score .plot")).to_have_text("The chart did not load: see the table.")
    page.locator("#score").get_by_text("As a table").click()
    expect(page.locator("#score tbody tr")).to_have_count(4)
    expect(page.locator("#fallback")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("state", ["empty", "full", "key"])
def test_anybody_can_use_it(
    serve: Callable[..., Server], open_page: Callable[..., Page], theme: str, width: int, state: str
) -> None:
    """axe finds nothing, and no width makes the page scroll sideways."""
    server = serve(api_keys=KEYS if state == "key" else None)
    if state == "full":
        server.create(name="m" * 64)
        post_lines(server, [{"x": {f"feature-{j}": i for j in range(30)}, "y": i % 14} for i in range(60)])
        server.client.post("/models/default/checkpoints")
    page = open_page(server, color_scheme=theme, viewport={"width": width, "height": 800})
    if state == "full":
        settled(page, server, 60)
        expect(page.locator("#compare option")).to_have_count(2)
        expect(page.locator("#checkpoint-list tr")).to_have_count(1)
        page.get_by_role("button", name="Predict").click()
        expect(page.locator("#predict-answer meter").first).to_be_visible()
        for table in page.locator("summary:visible", has_text="As a table").all():
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
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#shown') !== null")  # after the list of models
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "take":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#checkpoint-list tr")).to_have_count(1)


def shard(number: int, owner: str | None) -> Json:
    address = None if owner is None else f"http://{owner}.example:8000"
    return {"shard": number, "epoch": 3, "owner": owner, "address": address, "models": 5, "lag_ms": 12.0}


def node(name: str, role: str, seen: float, owned: list[int], lag: float | None) -> Json:
    address = f"http://{name}.example:8000"
    return {
        "node": name,
        "role": role,
        "address": address,
        "seen_seconds": seen,
        "owned": owned,
        "staleness_ms": lag,
    }


class Cluster(SingleNode):
    """Cluster of three nodes, one of which is lost."""

    async def description(self) -> Json:
        owners = [*["a"] * 6, *["b"] * 8, None, "a"]
        return {
            "node": "a",
            "role": "owner",
            "shards": [shard(i, owner) for i, owner in enumerate(owners)],
            "nodes": [
                node("a", "owner", 0.4, [0, 1, 2, 3, 4, 5, 15], None),
                {**node("b", "standby", 1.2, list(range(6, 14)), 41.0), "failed": ["m1", "m2"]},
                node("c", "replica", 95.0, [], 95_000.0),
            ],
        }


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_shows_the_cluster(
    serve: Callable[..., Server], open_page: Callable[..., Page], theme: str, width: int
) -> None:
    server = serve()
    server.app.state.cluster = Cluster(server.app.state.settings)
    page = open_page(server, color_scheme=theme, viewport={"width": width, "height": 800})
    expect(page.locator("#cluster-about")).to_have_text(
        "Node a (owner) shows this page. 16 shards. Without an owner: 14."
    )
    nodes = [" ".join(text.split()) for text in page.locator("#node-list tr").all_inner_texts()]
    assert nodes == [
        "a (this page) owner live 0–5, 15 – http://a.example:8000",
        "b standby live, without m1, m2 6–13 41 ms http://b.example:8000",
        "c replica not seen for 95 s – 95 s http://c.example:8000",
    ]
    page.get_by_text("All shards").click()
    expect(page.locator("#shard-list tr")).to_have_count(16)
    assert page.locator("#shard-list tr").nth(14).inner_text().split() == ["14", "none", "3", "5", "12", "ms"]
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_a_cluster_there_is_no_panel(
    serve: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    page = open_page(serve())
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#cluster")).to_be_hidden()
