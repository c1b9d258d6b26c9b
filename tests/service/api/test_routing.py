"""The model in the path, in a header or in the body; headers of predictions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from bnp_online.client.calls import new_id
from tests.support.running import Json, Server, error

X = {"a": 1.0}
AS_LINES = {"content-type": "application/x-ndjson"}


@pytest.fixture
def model(server: Server) -> str:
    """A model of the test's own, with one sample."""
    name = new_id()
    server.create(name=name, hidden=[4], replay=0)
    server.learn(X, "a", model=name)
    return name


@contextmanager
def lagging(server: Server, model: str, seconds: float) -> Iterator[None]:
    """Let a model lag behind the log, as on a replica."""
    worker = server.registry.get(model)
    worker.staleness = lambda: seconds
    try:
        yield
    finally:
        worker.staleness = None


def lines(*bodies: Json) -> bytes:
    return b"\n".join(json.dumps(body).encode() for body in bodies)


def by_path(server: Server, model: str, action: str, body: Json) -> httpx.Response:
    return server.post(f"/models/{model}/{action}", **body)


def by_header(server: Server, model: str, action: str, body: Json) -> httpx.Response:
    return server.client.post(f"/{action}", json=body, headers={"BNP-Model": model})


def by_both(server: Server, model: str, action: str, body: Json) -> httpx.Response:
    headers = {"BNP-Model": model}
    return server.client.post(f"/models/{model}/{action}", json={**body, "model": model}, headers=headers)


@pytest.mark.parametrize("send", [by_path, by_header, by_both])
def test_the_path_or_a_header_names_the_model(
    server: Server, model: str, send: Callable[[Server, str, str, Json], httpx.Response]
) -> None:
    learned = send(server, model, "learn", {"x": X, "y": "b"}).json()
    assert (learned["model"], learned["step"]) == (model, 2)
    predicted = send(server, model, "predict", {"x": X, "id": "t-1"}).json()
    assert (predicted["model"], predicted["step"]) == (model, 2)
    labelled = send(server, model, "label", {"id": "t-1", "y": "a"}).json()
    assert (labelled["model"], labelled["step"]) == (model, 3)


@pytest.mark.parametrize("action", ["learn", "predict"])
@pytest.mark.parametrize("in_path", [True, False])
def test_arrays_and_lines_are_for_the_named_model(
    server: Server, model: str, action: str, in_path: bool
) -> None:
    path, headers = f"/{action}", {"BNP-Model": model}
    if in_path:
        path, headers = f"/models/{model}/{action}", {}
    bodies: list[Json] = [{"x": X, "y": "b"} if action == "learn" else {"x": X}] * 2
    bodies[1] = {**bodies[1], "model": "default"}
    array = server.client.post(path, json=bodies, headers=headers).json()
    stream = server.client.post(path, content=lines(*bodies), headers={**headers, **AS_LINES})
    for first, second in (array, [json.loads(line) for line in stream.text.splitlines()]):
        assert first["model"] == model
        assert second["error"]["code"] == "invalid_request"
        assert second["error"]["field"] in ("model", "[1].model")


def test_names_that_differ_are_refused(server: Server, model: str) -> None:
    headers = {"BNP-Model": model}
    body = {"x": X, "model": "default"}
    differing = [
        server.client.post(f"/models/{model}/predict", json=body),
        server.client.post("/predict", json=body, headers=headers),
    ]
    assert [error(answer) for answer in differing] == [(422, "invalid_request", "model")] * 2
    in_path = server.client.post("/models/default/predict", json={"x": X}, headers=headers)
    assert error(in_path) == (422, "invalid_request", "BNP-Model")
    unknown = server.client.post("/predict", json={"x": X}, headers={"BNP-Model": "no one"})
    assert error(unknown) == (404, "unknown_model", "model")


@pytest.mark.parametrize(
    "path", ["/models//learn", "/models/a/b/learn", "/models/a/learn/", "/models/a%2Fb/learn"]
)
def test_other_paths_are_unknown(server: Server, path: str) -> None:
    assert error(server.post(path, x=X, y=1))[:2] == (404, "not_found")


def test_the_name_in_the_path_may_be_encoded(server: Server, model: str) -> None:
    answer = server.post(f"/models/%{ord(model[0]):x}{model[1:]}/predict", x=X)
    assert answer.json()["model"] == model


def test_requests_by_path_count_in_the_metrics_and_on_the_page(server: Server, model: str) -> None:
    before = sum(server.get("/models/default/dashboard")["latency"]["predict"])
    by_path(server, model, "predict", {"x": X})
    assert sum(server.get("/models/default/dashboard")["latency"]["predict"]) > before
    assert 'route="/models/{m}/predict"' in server.client.get("/metrics").text


def test_a_prediction_tells_how_much_the_model_had_learned(server: Server, model: str) -> None:
    answer = by_path(server, model, "predict", {"x": X})
    assert answer.headers["BNP-Step"] == "1"
    assert "BNP-Staleness-Ms" not in answer.headers
    with lagging(server, model, 0.25):
        answer = by_path(server, model, "predict", {"x": X})
        array = server.client.post("/predict", json=[{"x": X, "model": model}])
        stream = server.client.post(f"/models/{model}/predict", content=lines({"x": X}), headers=AS_LINES)
        mixed = server.client.post("/predict", json=[{"x": X, "model": model}, {"x": X}])
    for each in (answer, array, stream):
        assert each.headers["BNP-Step"] == "1"
        assert 250.0 <= float(each.headers["BNP-Staleness-Ms"]) < 60_000.0  # as it was before the prediction
    assert 250.0 <= float(mixed.headers["BNP-Staleness-Ms"]) < 60_000.0
    assert "BNP-Step" not in mixed.headers
    assert "BNP-Step" not in server.post("/learn", x=X, y="b", model=model).headers


def minimum(server: Server, model: str, step: object, **options: Any) -> httpx.Response:
    options = {"json": {"x": X}, **options}
    headers = {"BNP-Min-Step": str(step), **options.pop("headers", {})}
    return server.client.post(f"/models/{model}/predict", headers=headers, **options)


@pytest.mark.parametrize(
    "options", [{}, {"json": [{"x": X}]}, {"json": None, "content": lines({"x": X}), "headers": AS_LINES}]
)
def test_a_prediction_waits_for_a_step(server: Server, model: str, options: Json) -> None:
    assert minimum(server, model, 1, **options).status_code == 200
    later = threading.Timer(0.1, server.learn, (X, "b"), {"model": model})
    later.start()
    answer = minimum(server, model, 2, **options)
    later.join()
    assert (answer.status_code, answer.headers["BNP-Step"]) == (200, "2")


def test_a_step_that_does_not_come_is_refused_after_a_second(server: Server, model: str) -> None:
    start = time.monotonic()
    answer = minimum(server, model, 2)
    assert error(answer) == (503, "not_there_yet", "BNP-Min-Step")
    assert answer.headers["Retry-After"] == "1"
    assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize("step", ["", "-1", "1.5", "a", "9" * 17])
def test_a_step_is_a_number(server: Server, model: str, step: str) -> None:
    assert error(minimum(server, model, step)) == (422, "invalid_request", "BNP-Min-Step")


def test_a_step_is_that_of_one_model(server: Server, model: str) -> None:
    array = [{"x": X}, {"x": X, "model": "default"}]
    answers = minimum(server, model, 1, json=array).json()
    assert answers[0]["model"] == model
    assert answers[1]["error"]["field"] == "[1].model"


def test_the_headers_are_documented(server: Server) -> None:
    paths = server.get("/openapi.json")["paths"]
    for path, names in (
        ("/predict", {"BNP-Model", "BNP-Min-Step", "target", "id", "weight"}),
        ("/models/{m}/predict", {"m", "BNP-Min-Step", "target", "id", "weight"}),
    ):
        operation = paths[path]["post"]
        assert {each["name"] for each in operation["parameters"]} == names
        assert operation["responses"]["200"]["headers"].keys() == {"BNP-Step", "BNP-Staleness-Ms"}
        assert "`not_there_yet`" in operation["responses"]["503"]["description"]
        assert "`wrong_node`" in operation["responses"]["421"]["description"]
