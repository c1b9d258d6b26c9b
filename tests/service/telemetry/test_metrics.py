"""What Prometheus is told: `test_lifecycle.py` has what it is told of requests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.support.exposition import busy, samples, text_of, value
from tests.support.running import Server, error


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is not here")
def test_promtool_finds_no_fault(serve: Callable[..., Server]) -> None:
    run = subprocess.run(
        ["promtool", "check", "metrics"], input=busy(serve()), capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_model_is_described_as_the_api_describes_it(serve: Callable[..., Server]) -> None:
    server = serve()
    text = busy(server)
    told = server.get("/models/default/dashboard")

    def of(name: str, **labels: str) -> float:
        return samples(text)[name, frozenset({"model": "default", **labels}.items())]

    for over in ("cumulative", "window"):
        for metric in ("Accuracy", "MacroF1", "LogLoss", "ROCAUC"):
            assert of("bnp_model_score", metric=metric, over=over) == told["scores"][over][metric]
        for baseline, metric in (("majority", "Accuracy"), ("majority", "LogLoss"), ("last", "Accuracy")):
            found = of("bnp_model_baseline_score", baseline=baseline, metric=metric, over=over)
            assert found == told["baselines"][over][baseline][metric]
    for layer in told["layers"]:
        for stage in ("before", "after"):
            assert of("bnp_model_layer_unevenness", layer=layer["name"], stage=stage) == layer[stage]
        assert of("bnp_model_layer_columns", layer=layer["name"]) == layer["columns"]
    assert told["mixture"][-1]["kind"] == "stack"
    for each in told["mixture"]:
        labels = {name: str(each[name]).lower() for name in ("replay", "averages")}
        labels |= {name: each[name] for name in ("expert", "kind")}
        labels["lr"] = "" if each["lr"] is None else f"{each['lr']:g}"
        assert of("bnp_model_mixture_weight", **labels) == each["weight"]
    lowest = sum(each["weight"] for each in told["mixture"] if each["expert"] == "network, rate 0.1")
    assert of("bnp_model_mixture_end_weight", end="lowest") == lowest
    assert (of("bnp_model_features"), of("bnp_model_classes")) == (2, 2)
    [kept] = server.get("/models/default/checkpoints")["checkpoints"]
    assert of("bnp_model_checkpoints") == 1
    assert of("bnp_model_checkpoints_size_bytes") == kept["bytes"]


def test_a_scrape_does_not_wait_for_a_model_that_is_busy(serve: Callable[..., Server]) -> None:
    """Its counters are told all the same."""
    server = serve(ready_timeout=0.05)
    server.learn({"a": 1}, 1)
    server.learn({"a": 2}, 2)
    server.create(name="other")
    with server.held():
        assert value(server, "bnp_model_learned_total", model="default") == 2
        assert value(server, "bnp_model_queue_depth", model="default", queue="read") == 1
        assert value(server, "bnp_model_features", model="default") is None
        assert value(server, "bnp_model_features", model="other") == 0
    assert value(server, "bnp_model_features", model="default") == 1


def test_refusals_are_counted_by_their_code(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="wild", hidden=[8], lr=1e30, step_scale="none", task="regression")

    def refused(code: str, model: str = "default") -> float | None:
        return value(server, "bnp_model_refusals_total", model=model, code=code)

    assert (refused("non_finite_feature"), refused("label_type")) == (0, None)
    body = '{"x": {"a": 1e999}, "y": 1}'
    answer = server.client.post("/learn", content=body, headers={"content-type": "application/json"})
    assert error(answer)[1] == "non_finite_feature"
    server.learn({"a": 1}, 1)
    assert error(server.post("/learn", x={"a": 1}, y="cat"))[1] == "label_type"
    assert (refused("non_finite_feature"), refused("label_type")) == (1, 1)
    codes = [server.post("/learn", x={"a": i}, y=1e30 * i, model="wild").status_code for i in range(20)]
    assert 422 in codes
    assert refused("non_finite_state", "wild") == codes.count(422)


def test_what_waits_for_its_label(serve: Callable[..., Server]) -> None:
    server = serve(max_pending=3)

    def waiting() -> float | None:
        return value(server, "bnp_model_pending_labels", model="default")

    for i in range(5):
        server.predict({"a": i}, id=f"t-{i}")
    assert waiting() == 3
    server.label("t-3", 1)
    assert waiting() == 2
    assert value(server, "bnp_model_labelled_total", model="default") == 1
    server.stop()
    server = serve(max_pending=3)
    assert waiting() == 2
    for i in range(5, 7):  # the second one takes the place of the one that has its label
        server.predict({"a": i}, id=f"t-{i}")
    assert waiting() == 3


def test_the_log_and_what_a_start_replays(serve: Callable[..., Server]) -> None:
    server = serve()
    for i in range(5):
        server.learn({"a": i}, i % 2)
    server.client.post("/models/default/checkpoints")
    for i in range(3):
        server.learn({"a": i}, i % 2)
    assert value(server, "bnp_model_unsaved_steps", model="default") == 3
    assert value(server, "bnp_log_events") == 9
    assert value(server, "bnp_log_commit_duration_seconds_count") == 8
    server.post("/models/default/rollback", step=7)
    assert value(server, "bnp_model_recovery_events", model="default") == 2
    server.stop()
    for checkpoint in server.registry.settings.data_dir.glob("checkpoints/*/*"):
        checkpoint.unlink()
    server = serve()
    text = samples(text_of(server))
    assert text["bnp_model_recovery_events", frozenset({("model", "default")})] == 8  # the rollback is one
    assert text["bnp_model_recovery_duration_seconds", frozenset({("model", "default")})] > 0
    assert text["bnp_log_events", frozenset()] == 10
    assert text["bnp_log_size_bytes", frozenset()] > 0
    assert ("bnp_model_checkpoint_timestamp_seconds", frozenset({("model", "default")})) not in text


def test_a_store_that_fails_is_told_of(serve: Callable[..., Server]) -> None:
    server = serve(log_level="critical")
    server.learn({"a": 1}, 1)
    assert value(server, "bnp_log_commit_failures_total") == 0
    server.registry._log.close()
    assert error(server.post("/learn", x={"a": 2}, y=1))[:2] == (503, "storage_failed")
    assert value(server, "bnp_log_commit_failures_total") == 1
    assert value(server, "bnp_model_step", model="default") == 1
    failed = {"route": "/learn", "method": "POST", "outcome": "failed"}
    assert value(server, "bnp_http_request_duration_seconds_count", **failed) == 1


def test_series_go_with_their_model(serve: Callable[..., Server]) -> None:
    server = serve()
    assert '"prices"' in busy(server)
    server.client.delete("/models/prices")
    assert '"prices"' not in text_of(server)
