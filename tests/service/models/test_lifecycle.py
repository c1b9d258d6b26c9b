"""Models come and go; a server starts, fails, and ends."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bnp_online import BNPClassifier, BNPRegressor
from service.models import readiness
from service.schemas import ModelSpec
from service.storage.checkpoints import CheckpointFiles
from tests.support.running import Server, error
from tests.support.streaming import post_lines, refusals, streaming


def names(server: Server) -> list[str]:
    return [model["name"] for model in server.get("/models")["models"]]


def series(server: Server) -> dict[tuple[str, str], float]:
    """Values of the series with a model, by name and model."""
    text = server.client.get("/metrics").text
    return {
        (sample.name, sample.labels["model"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "model" in sample.labels
    }


def test_a_model_is_made_looked_at_and_deleted(serve: Callable[..., Server]) -> None:
    server = serve(max_features=50)
    assert names(server) == ["default"]
    made = server.create(name="prices", task="regression", hidden=[4], lr=0.1, seed=3)
    assert made == server.get("/models/prices")
    assert made["spec"]["hidden"] == [4]
    assert made["spec"]["max_features"] == 50
    assert made["spec"]["max_classes"] is None
    assert (made["step"], made["classes"], made["features"]) == (0, [], [])
    assert (made["device"], made["engine"]) == ("cpu", "numba")
    assert {"bnp-online", "torch", "river", "python"} <= made["versions"].keys()
    server.learn({"b": 1, "a": "x"}, 2.5, model="prices")
    learned = server.get("/models/prices")
    assert (learned["step"], learned["features"]) == (1, ["a=x", "b"])
    assert learned["parameters"] > made["parameters"]
    assert server.get("/models")["models"][1] == {
        "name": "prices", "task": "regression", "step": 1, "state": "ready",
    }  # fmt: skip
    answer = server.client.delete("/models/prices")
    assert (answer.status_code, answer.content) == (204, b"")
    assert names(server) == ["default"]
    assert error(server.post("/predict", x={}, model="prices"))[:2] == (404, "unknown_model")


def test_a_model_of_the_same_name_starts_anew(serve: Callable[..., Server]) -> None:
    server = serve()
    fresh = server.fingerprint()
    server.learn({"a": 1}, "cat", id="e")
    server.client.delete("/models/default")
    assert error(server.client.get("/models/default"))[:2] == (404, "unknown_model")
    server.create()
    assert server.fingerprint() == fresh
    assert not server.learn({"a": 1}, 7, id="e")["duplicate"]


def test_the_default_model_is_made_from_its_setting(serve: Callable[..., Server]) -> None:
    server = serve(default_model=ModelSpec.model_validate_json('{"task": "regression", "hidden": [3]}'))
    assert server.get("/models/default")["spec"]["hidden"] == [3]
    assert server.learn({"a": 1}, 1.5)["step"] == 1


@pytest.mark.parametrize(
    ("task", "estimator"), [("classification", BNPClassifier), ("regression", BNPRegressor)]
)
def test_a_spec_has_the_defaults_of_the_library(task: str, estimator: Any) -> None:
    spec = ModelSpec.model_validate({"task": task})
    library = estimator()
    for name in spec.model_fields_set ^ set(type(spec).model_fields) - {"name", "task", "drift"}:
        if getattr(spec, name) is not None:
            assert getattr(spec, name) == getattr(library, name), name


def test_requests_that_wait_for_a_deleted_model(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="gone")
    with ThreadPoolExecutor() as pool:
        with server.held("gone"):
            before = pool.submit(server.post, "/learn", x={"a": 1}, y=1, model="gone")
            server.wait_for_queue(2, "gone")
            deleting = pool.submit(server.client.delete, "/models/gone")
            server.wait_for_queue(3, "gone")
            after = pool.submit(server.post, "/learn", x={"a": 1}, y=1, model="gone")
            server.wait_for_queue(4, "gone")
        assert before.result().json()["step"] == 1
        assert deleting.result().status_code == 204
        assert error(after.result())[:2] == (404, "unknown_model")


def test_the_last_checkpoints_are_written_concurrently(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, save = threading.Barrier(4), CheckpointFiles.save

    def wait(*arguments: Any) -> Any:
        together.wait(60)
        return save(*arguments)

    server = serve()
    for i in range(8):
        server.create(name=f"m{i}", hidden=[4])
        server.learn({"a": 1}, "cat", model=f"m{i}")
    monkeypatch.setattr(CheckpointFiles, "save", wait)
    server.stop()
    monkeypatch.undo()
    server = serve()
    for i in range(8):
        assert len(server.get(f"/models/m{i}/checkpoints")["checkpoints"]) == 1
        assert server.predict({"a": 1}, model=f"m{i}")["step"] == 1


def test_health(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "INTERVAL", 0.0)
    server = serve(ready_timeout=0.05)
    assert server.get("/health/live") == {"status": "alive"}
    assert server.get("/health/ready") == {"status": "ready"}
    with server.held():
        answer = server.client.get("/health/ready")
        assert error(answer)[:2] == (503, "not_ready")
        assert answer.headers["retry-after"]
        assert server.get("/health/live") == {"status": "alive"}
    assert server.get("/health/ready") == {"status": "ready"}


def test_an_unforeseen_error_ends_a_model_and_no_other(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(readiness, "INTERVAL", 0.0)
    server = serve()
    server.create(name="other")

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with ThreadPoolExecutor() as pool:
        with server.held():
            monkeypatch.setattr(server.registry.get().model.estimator, "learn_samples", fail)
            learning = [pool.submit(server.post, "/learn", x={"a": i}, y="cat") for i in range(3)]
            server.wait_for_queue(4)
        answers = [future.result() for future in learning]
    for answer in (*answers, server.post("/predict", x={}), server.client.get("/models/default")):
        assert error(answer)[:2] == (503, "model_failed")
    reported = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert reported == [ZeroDivisionError]
    assert error(server.client.get("/health/ready"))[:2] == (503, "not_ready")
    assert server.get("/models")["models"][0]["state"] == "failed"
    assert series(server)["bnp_model_up", "default"] == 0
    assert server.learn({"a": 1}, 1, model="other")["step"] == 1
    assert server.client.delete("/models/default").status_code == 204
    assert server.get("/health/ready") == {"status": "ready"}


def test_a_stream_outlives_a_model_that_fails(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    server.create(name="other")
    monkeypatch.setattr(server.registry.get().model.estimator, "learn_samples", lambda _: 1 // 0)
    bad, good = {"x": {"a": 1}, "y": 1}, {"x": {"a": 1}, "y": 1, "model": "other"}
    answers = post_lines(server, [bad, good, bad, b"{}\n", good])
    assert refusals(answers) == {1: "model_failed", 3: "model_failed", 4: "missing_field"}
    assert [answer["step"] for answer in answers if "step" in answer] == [1, 2]


def test_an_unforeseen_error_in_a_stream_cuts_its_answer_off(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it must not take it for whole."""
    server = serve()
    with streaming(server) as stream:
        stream.send({"x": {"a": 1}, "y": 1})
        assert stream.read()["step"] == 1
        monkeypatch.setattr("service.api.fast_path.read_fields", lambda *_: 1 // 0)
        stream.send({"x": {"a": 1}, "y": 1})
        with pytest.raises(http.client.IncompleteRead):
            stream.rest()


def test_an_unforeseen_error_in_a_route_is_an_error_like_any_other(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr("service.api.models.models_of", lambda scope: 1 // 0)
    answer = server.client.get("/models")
    assert error(answer) == (500, "internal_error", None)
    assert "division" not in answer.text


def test_metrics(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="other")
    losses = [server.learn({"a": i}, ["cat", "dog"][i % 2])["loss"] for i in range(4)]
    server.predict({"a": 1})
    for i in range(3):
        server.client.get(f"/models/nobody-{i}")
        server.client.get(f"/nowhere-{i}")
        server.client.request(["COPY", "LINK", "PURGE"][i], "/learn")
    of = series(server)
    assert of["bnp_model_learned_total", "default"] == of["bnp_model_step", "default"] == 4
    assert of["bnp_model_predicted_total", "default"] == 1
    assert of["bnp_model_loss_count", "default"] == 3
    assert of["bnp_model_loss_sum", "default"] == sum(losses[1:])
    assert of["bnp_model_last_loss", "default"] == losses[-1]
    assert of["bnp_model_up", "other"] == 1
    assert ("bnp_model_last_loss", "other") not in of
    text = server.client.get("/metrics").text
    assert 'bnp_http_requests_total{method="POST",route="/learn",status="200"} 4.0' in text
    assert 'bnp_http_requests_total{method="GET",route="/models/{m}",status="404"} 3.0' in text
    assert 'bnp_http_requests_total{method="GET",route="unmatched",status="404"} 3.0' in text
    assert 'bnp_http_requests_total{method="other",route="/learn",status="405"} 3.0' in text
    assert 'bnp_model_queue_depth{model="other",queue="learn"} 0.0' in text
    assert 'bnp_http_request_duration_seconds_count{method="POST",outcome="ok",route="/predict"} 1.0' in text
    server.client.delete("/models/other")
    assert not any(model == "other" for _, model in series(server))


def test_stopping_answers_what_was_taken(serve: Callable[..., Server]) -> None:
    server = serve()
    with ThreadPoolExecutor() as pool:
        with server.held():
            learning = [pool.submit(server.learn, {"a": i}, "cat") for i in range(5)]
            server.wait_for_queue(6)
            server.ask_to_stop()
        assert sorted(future.result()["step"] for future in learning) == [1, 2, 3, 4, 5]


def test_an_import_creates_a_model(serve: Callable[..., Server], tmp_path: Path) -> None:
    """It has the task and the state of the file; a file that is none, or a wrong name, creates nothing."""
    server = serve()
    regressor = BNPRegressor(hidden=(4,), replay=0, device="cpu")
    for i in range(5):
        regressor.learn_one({"a": i}, 2.0 * i)
    regressor.save(tmp_path / "file")

    def send(name: str, content: bytes) -> httpx.Response:
        headers = {"content-type": "application/octet-stream"}
        return server.client.put(f"/models/{name}/import", content=content, headers=headers)

    assert error(send("new", b"no file"))[:2] == (422, "invalid_checkpoint")
    refused = send("a%20b", (tmp_path / "file").read_bytes())
    assert error(refused)[:2] == (422, "invalid_request")
    assert refused.json()["error"]["field"] == "m"
    assert refused.json()["error"]["message"].startswith("m must")
    assert names(server) == ["default"]
    created = send("new", (tmp_path / "file").read_bytes()).json()
    assert (created["name"], created["spec"]["task"], created["step"]) == ("new", "regression", 5)
    assert server.fingerprint("new")["model_sha256"] == regressor.fingerprint()
