"""What the page is told, over a real socket."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import service
from bnp_online import BNPClassifier
from bnp_online.evaluation.baselines import Baselines
from service.api import dashboard
from tests.support.running import Json, Server
from tests.support.streaming import post_lines

KEYS = f"all learn,read,admin {'a' * 40};mine read {'b' * 40} models=mine"


def watch(server: Server, model: str = "default") -> Json:
    return server.get(f"/models/{model}/dashboard")


def test_a_classification(serve: Callable[..., Server]) -> None:
    server = serve()
    labels = ["cat", "dog", "cow", "cat"]
    samples = [({"a": i % 4, "b": 1000 * (i % 3), "c": 1}, labels[i % 4]) for i in range(60)]
    clf, baselines = BNPClassifier(), Baselines("classification")
    table: dict[Any, int] = {}
    for x, y in samples:
        prediction = clf.predict_one(x)
        table[y, prediction] = table.get((y, prediction), 0) + 1
        clf.learn_one(x, y)
        baselines.update(y)
        server.learn(x, y)
    server.predict({"a": 1}, id="t")
    shown, described = watch(server), server.get("/models/default")
    assert shown["scores"] == server.get("/models/default/metrics")
    assert shown["baselines"] == baselines.report()
    assert shown["mixture"] == described["mixture"]
    assert [layer["name"] for layer in shown["layers"]] == ["inputs", "body.1", "body.3", "head"]
    assert [layer["before"] for layer in shown["layers"]] == [layer.before for layer in clf.diagnose()]
    confusion = shown["confusion"]
    for i, y in enumerate(confusion["labels"]):
        for j, prediction in enumerate(confusion["labels"]):
            assert confusion["counts"][i][j] == table.get((y, prediction), 0)
    assert sum(map(sum, confusion["counts"])) == 59
    assert (shown["step"], shown["pending"], shown["predicted"]) == (60, 1, 1)
    assert shown["classes"] == {"count": 3, "latest": ["cat", "dog", "cow"]}
    assert shown["features"] == {"count": 3, "latest": ["a", "b", "c"]}
    assert shown["latency"]["learn"][-1] == 60
    assert shown["latency"]["predict"][-1] == 1
    assert shown["latency"]["seconds"][-1] is None


def test_a_regression(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="prices", task="regression")
    for i in range(5):
        server.learn({"a": i}, i / 2, model="prices")
    shown = watch(server, "prices")
    assert shown["confusion"] is None
    assert shown["classes"] == {"count": 0, "latest": []}
    assert shown["baselines"]["cumulative"]["last"]["MAE"] == 0.5
    assert shown["baselines"]["cumulative"]["mean"]["MAE"] == pytest.approx((0.5 + 0.75 + 1 + 1.25) / 4)


def test_streams_have_times_of_their_own(serve: Callable[..., Server]) -> None:
    """A stream's samples are not among the times of single requests, in JSON and for Prometheus."""
    server = serve()
    for i in range(3):
        server.learn({"a": i}, i % 2)
        server.predict({"a": i})
    post_lines(server, [{"x": {"a": i}, "y": i % 2} for i in range(500)])
    post_lines(server, [{"x": {"a": i}} for i in range(5)], "/predict")
    latency = watch(server)["latency"]
    assert (latency["learn"][-1], latency["predict"][-1]) == (3, 3)
    assert 1 <= latency["learn_streams"][-1] <= 500
    assert 1 <= latency["predict_streams"][-1] <= 5
    text = server.client.get("/metrics").text.splitlines()
    for route in ("/learn", "/predict"):
        labels = f'{{method="POST",outcome="ok",route="{route}"}}'
        assert f"bnp_http_request_duration_seconds_count{labels} 3.0" in text
        assert f"bnp_http_stream_duration_seconds_count{labels} 1.0" in text


def test_a_sample_to_try_is_the_latest_or_the_means(serve: Callable[..., Server]) -> None:
    server = serve()
    assert server.get("/models/default/sample") == {"model": "default", "step": 0, "x": None, "y": None}
    server.learn({"a": 1.5, "city": "Lund", "n": 3}, "cat")
    post_lines(server, [{"x": {"a": i, "city": "Ulm", "n": 2**60}, "y": "dog"} for i in range(3)])
    latest = {"model": "default", "step": 4, "x": {"a": 2, "city": "Ulm", "n": 2**60}, "y": "dog"}
    assert server.get("/models/default/sample") == latest
    assert watch(server)["means"] == {"a": 1.125, "city": None, "n": pytest.approx(0.75 * 2**60)}
    server.post("/models/default/rollback", step=1)
    assert server.get("/models/default/sample")["x"] == {"a": 1.5, "city": "Lund", "n": 3}
    server.create(name="image", input_shape=[2, 2])
    server.learn([[0, 1], [2, 3]], 1, model="image")
    assert watch(server, "image")["means"] == [[0.0, 1.0], [2.0, 3.0]]
    server.stop()
    server = serve()
    assert server.get("/models/image/sample")["x"] == [[0, 1], [2, 3]]
    file = server.client.get("/models/image/export").content
    octets = {"content-type": "application/octet-stream"}
    server.client.put("/models/image/import", content=file, headers=octets).raise_for_status()
    assert server.get("/models/image/sample")["x"] is None


def test_a_model_that_has_learned_nothing(serve: Callable[..., Server]) -> None:
    shown = watch(serve())
    assert (shown["step"], shown["scores"]["n"]) == (0, 0)
    assert [layer["columns"] for layer in shown["layers"]] == [0, 0, 100, 100]


def test_a_table_of_many_classes_is_bounded(serve: Callable[..., Server]) -> None:
    server = serve()
    post_lines(server, [{"x": {"a": i}, "y": i % 40} for i in range(120)])
    confusion = watch(server)["confusion"]
    assert len(confusion["labels"]) == len(confusion["counts"]) == 12
    assert sum(map(sum, confusion["counts"])) + confusion["other"] == 119


def test_looking_changes_nothing(serve: Callable[..., Server]) -> None:
    server = serve()
    server.learn({"a": 1}, 1)
    before = server.fingerprint()
    watch(server)
    assert server.fingerprint() == before


def test_a_key_for_some_models_learns_nothing_of_the_others(serve: Callable[..., Server]) -> None:
    server = serve(api_keys=KEYS)
    server.client.headers["authorization"] = f"Bearer {'a' * 40}"
    server.create(name="mine")
    assert watch(server, "mine")["latency"] is not None
    server.client.headers["authorization"] = f"Bearer {'b' * 40}"
    assert watch(server, "mine")["latency"] is None


def listed(server: Server, **headers: str) -> str:
    """Return what the page tells of the models if its script does not run."""
    answer = server.client.get("/", headers=headers)
    assert answer.status_code == 200
    [found] = re.findall(r"all routes</a>\.</p>\n(.*)", answer.text)
    return str(found)


def test_the_page_lists_the_models_that_its_reader_may_see(serve: Callable[..., Server]) -> None:
    server = serve(api_keys=f"{KEYS};writes learn {'c' * 40}")
    boss, mine, writes = ({"authorization": f"Bearer {letter * 40}"} for letter in "abc")
    server.client.post("/models", json={"name": "mine"}, headers=boss).raise_for_status()
    assert re.findall(r"<b>(.*?)</b>", listed(server, **boss)) == ["default", "mine"]
    assert re.findall(r"<b>(.*?)</b>", listed(server, **mine)) == ["mine"]
    assert listed(server, **writes) == (
        "    <p>The models are not listed here: this request needs the scope read, which your key does not "
        "have.</p>"
    )
    for headers in ({}, {"authorization": "Bearer <b>no</b>"}):
        found = listed(server, **headers)
        assert found.startswith("    <p>The models are not listed here: ")
        assert "default" not in found
        assert "<b>" not in found


def test_the_page_lists_some_of_many_models(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "_MOST", 2)
    server = serve()
    for name in ("b-1", "b_2", "b.3"):
        server.create(name=name)
    found = listed(server)
    assert re.findall(r"<b>(.*?)</b>", found) == ["default", "b-1"]
    assert found.endswith("<p>And 2 more.</p>")
    for name in ("default", "b-1", "b_2", "b.3"):
        server.client.delete(f"/models/{name}").raise_for_status()
    assert "<p>There is no model yet.</p>" in listed(server)


def test_baselines_come_back_with_the_model(serve: Callable[..., Server]) -> None:
    """From a checkpoint, from the log behind it, and after a rollback."""
    server = serve()
    seen = []
    for i in range(8):
        server.learn({"a": i}, "ab"[i % 3 == 0])
        seen.append(watch(server)["baselines"])
        if i == 4:
            server.client.post("/models/default/checkpoints")
    server.stop()
    server = serve()
    assert watch(server)["baselines"] == seen[7]
    for step in (7, 5, 3):
        server.post("/models/default/rollback", step=step)
        assert watch(server)["baselines"] == seen[step - 1]


def test_every_file_of_the_page_is_served_or_about_a_library(server: Server) -> None:
    folder = Path(service.__file__).with_name("dashboard")
    served = {route.path.removeprefix("/dashboard/") for route in dashboard.ROUTES} - {"/"}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there - served == {"index.html", "docs.html", "docs.js", "uplot/LICENSE", "uplot/README.md"}
    for name in served:
        imported = re.findall(r'from "\./([^"]+)"', (folder / name).read_text())
        assert served.issuperset(imported)
        assert server.client.get(f"/dashboard/{name}").status_code == 200
