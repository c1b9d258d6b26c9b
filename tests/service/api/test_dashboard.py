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
