"""Audit lines: each change of a model is logged with the name of the key, by whichever route it comes.

The routes are those of the application: a route with the scope `admin` that is not listed here fails.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.auth.keys import new_secret
from service.settings import Settings
from tests.support.brokers import Kafka
from tests.support.programs import ROOT
from tests.support.server_process import RestartableServer, restartable, wait_until

KEY = new_secret()
OCTETS = {"content-type": "application/octet-stream"}
FORM = {"content-type": "application/x-www-form-urlencoded"}

#: Each route that changes a model: path and arguments of a request, and fields of the line that it logs.
#: The requests are sent in this order. FILE stands for an exported model.
CHANGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "POST /models": (
        "/models",
        {"json": {"name": "a", "learner": 1}},
        {"message": "model created", "model": "a", "task": "classification"},
    ),
    "POST /models/{m}/checkpoints": (
        "/models/default/checkpoints",
        {},
        {"message": "checkpoint taken", "model": "default", "step": 8},
    ),
    "POST /models/{m}/rollback": (
        "/models/default/rollback",
        {"json": {"step": 6}},
        {"message": "model rolled back", "model": "default", "step": 6, "step_before": 8, "branch": 1},
    ),
    "POST /models/{m}/forget": (
        "/models/default/forget",
        {"json": {"ids": ["secret-1", "secret-2"]}},
        {"message": "samples unlearned", "model": "default", "ids": 2, "events": 2},
    ),
    "POST /models/{m}/upgrade": (
        "/models/a/upgrade",
        {},
        {"message": "upgrade requested", "model": "a", "step": 0, "learner": 2, "kept": False},
    ),
    "PATCH /models/{m}": (
        "/models/default",
        {"json": {"max_classes": 7}},
        {"message": "model changed", "model": "default", "changes": {"max_classes": 7}},
    ),
    "PUT /models/{m}/import": (
        "/models/a/import",
        {"content": "FILE", "headers": OCTETS},
        {"message": "model imported", "model": "a", "step": 8, "step_before": 0},
    ),
    "POST /models/{m}/ingest": (
        "/models/default/ingest",
        {"json": {"topic": "kafka:samples", "partition": 0, "position": 0}},
        {
            "message": "position changed",
            "model": "default",
            "topic": "kafka:samples",
            "partition": 0,
            "position": 0,
            "before": 0,
        },
    ),
    "DELETE /models/{m}": ("/models/a", {}, {"message": "model deleted", "model": "a", "step": 8}),
    "POST /api/model/{flavor}/{m}/": (
        "/api/model/regression/b/",
        {"json": {}},
        {"message": "model created", "model": "b", "task": "regression"},
    ),
    "POST /api/model/{flavor}/": (
        "/api/model/regression/",
        {"json": {"name": "c"}},
        {"message": "model created", "model": "c", "task": "regression"},
    ),
    "POST /models/{m}/shadows": (
        "/models/c/shadows",
        {"json": {"name": "s", "hidden": [4]}},
        {"message": "shadow created", "model": "c", "step": 0, "shadow": "s"},
    ),
    "POST /models/{m}/promote": (
        "/models/c/promote",
        {"json": {"shadow": "s"}},
        {"message": "shadow promoted", "model": "c", "step": 0, "shadow": "s", "former": "original"},
    ),
    "DELETE /models/{m}/shadows/{name}": (
        "/models/c/shadows/original",
        {},
        {"message": "shadow deleted", "model": "c", "step": 0, "shadow": "original"},
    ),
    "DELETE /api/model/": (
        "/api/model/",
        {"content": "model=b", "headers": FORM},
        {"message": "model deleted", "model": "b", "step": 0},
    ),
}
#: Routes that give a model away, with paths.
EXPORTS = {
    "GET /models/{m}/export": "/models/default/export",
    "GET /api/model/download/{m}/": "/api/model/download/default/",
}
#: Route that shows a sample.
SAMPLE = {"GET /models/{m}/sample": "/models/default/sample"}
#: Routes that only read, and no samples.
READS = {
    "GET /models/{m}/events": "/models/default/events",
    "GET /models/{m}/checkpoints": "/models/default/checkpoints",
}


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with contextlib.closing(Kafka()) as kafka:
        kafka.create("samples")
        yield kafka


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka) -> Iterator[RestartableServer]:
    keys = f"ops learn,predict,read,admin {KEY}"
    settings = {"BNP_API_KEYS": keys, "BNP_LOG_FORMAT": "json", "BNP_INGEST": kafka.url("samples")}
    with restartable(tmp_path_factory.mktemp("data"), **settings) as running:
        running.start().headers["authorization"] = f"Bearer {KEY}"
        yield running


def lines(server: RestartableServer) -> list[dict[str, Any]]:
    """Return the audit lines of a server so far."""
    found = [json.loads(line) for line in server.running.lines if line.startswith("{")]
    return [line for line in found if line["logger"] == "service.audit"]


def line_of(server: RestartableServer, answer: httpx.Response) -> dict[str, Any]:
    """Return the audit line of a request, which must have exactly one."""
    assert answer.is_success, answer.text

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line.get("request_id") == answer.headers["x-request-id"]]

    wait_until(found)
    (line,) = found()
    return line


def test_each_change_of_a_model_is_logged_with_the_name_of_the_key(server: RestartableServer) -> None:
    routes: Any = create_app(Settings()).routes
    administrative = {
        f"{method} {route.path}"
        for route in routes
        for method in route.methods - {"HEAD"}
        if route.access.scope == "admin"
    }
    assert CHANGES.keys() | EXPORTS.keys() | SAMPLE.keys() | READS.keys() == administrative
    wait_until(lambda: server.client.get("/models/default").json()["ingest"][0]["state"] == "running")
    for i in range(8):
        sample = {"x": {"a": i / 8}, "y": "ab"[i % 2], "id": f"secret-{i}"}
        server.client.post("/learn", json=sample).raise_for_status()
    file = server.client.get("/models/default/export").content
    for route, (path, options, expected) in CHANGES.items():
        request = {**options, "content": file} if options.get("content") == "FILE" else options
        line = line_of(server, server.client.request(route.split()[0], path, **request))
        assert line.items() >= {**expected, "level": "info", "key": "ops"}.items(), route
    wait_until(lambda: any("rebuilt" in line["message"] for line in lines(server)))
    (rebuilt,) = (line for line in lines(server) if "rebuilt" in line["message"])
    assert {"request_id", "key"}.isdisjoint(rebuilt)
    assert "secret" not in "".join(server.running.lines)


@pytest.mark.parametrize("path", EXPORTS.values())
def test_an_export_is_logged(server: RestartableServer, path: str) -> None:
    answer = server.client.get(path)
    line = line_of(server, answer)
    assert line["message"] == "model exported"
    assert (line["model"], line["bytes"], line["key"]) == ("default", len(answer.content), "ops")


def test_a_sample_that_is_shown_is_logged_without_its_content(server: RestartableServer) -> None:
    (path,) = SAMPLE.values()
    answer = server.client.get(path)
    line = line_of(server, answer)
    assert (line["message"], line["key"]) == ("sample shown", "ops")
    assert (line["model"], line["step"]) == ("default", answer.json()["step"])
    assert not {"x", "y"} & line.keys()


def test_the_documentation_has_each_message() -> None:
    calls = [
        node
        for path in (ROOT / "service").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "audit"
    ]
    messages = {ast.literal_eval(call.args[0]) for call in calls}
    page = (ROOT / "docs" / "how-to" / "secure.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([a-z ]+)` \| (?:info|warning) \|", page, re.MULTILINE)
    assert sorted(table) == sorted(messages)


def test_the_creation_of_the_default_model_has_no_key(server: RestartableServer) -> None:
    first = lines(server)[0]
    assert (first["message"], first["model"]) == ("model created", "default")
    assert {"request_id", "key"}.isdisjoint(first)


def test_refused_changes_and_reads_have_no_audit_line(server: RestartableServer) -> None:
    before = len(lines(server))
    client = server.client
    assert client.post("/models", json={"name": "default"}).status_code == 409
    assert client.delete("/models/missing").status_code == 404
    assert client.post("/models/default/rollback", json={"step": 999}).status_code == 404
    assert client.post("/models/default/forget", json={"ids": ["unknown"]}).status_code == 404
    assert client.patch("/models/default", json={"max_classes": 10**6}).status_code == 422
    for path in READS.values():
        assert client.get(path).status_code == 200
    assert client.post("/models/default/ingest", json={"topic": "t", "position": 0}).status_code == 404
    line_of(server, client.post("/models/default/checkpoints"))  # a later line
    assert len(lines(server)) == before + 1


def test_a_drift_is_logged_as_a_warning_without_a_key(server: RestartableServer) -> None:
    spec = {"name": "drifting", "hidden": [4], "drift": {"detector": "page_hinkley", "threshold": 2.0}}
    server.client.post("/models", json=spec).raise_for_status()

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line["message"] == "drift detected"]

    for i in range(1000):
        sample = {"model": "drifting", "x": {"a": i % 2}, "y": "ab"[(i + i // 200) % 2]}
        server.client.post("/learn", json=sample).raise_for_status()
        if found():
            break
    line = found()[0]
    assert (line["level"], line["model"], line["detector"]) == ("warning", "drifting", "page_hinkley")
    assert isinstance(line["step"], int)
    assert {"request_id", "key"}.isdisjoint(line)


def test_a_refused_message_is_logged_without_its_content(server: RestartableServer, kafka: Kafka) -> None:
    refused = {
        b'{"x": {"a": 1}, "y": "secret"': "invalid_json",
        b'{"x": {"a": 0.5}, "y": "a", "id": "secret-7"}': "id_conflict",
        b'{"x": {"a": "%s"}, "y": "a"}' % (b"secret" * 1000): "string_too_long",
        b'{"x": {"a": 1}, "y": 1, "secret": 1}': "unknown_field",
    }
    server.client.post("/learn", json={"x": {"a": 0.25}, "y": "a", "id": "secret-7"})  # or it is known

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line["message"] == "message refused"]

    kafka.publish("samples", [*refused])
    wait_until(lambda: len(found()) == len(refused))
    common = {"level": "warning", "model": "default", "topic": "kafka:samples", "partition": 0}
    for line in found():
        assert line.items() >= common.items()
        assert {"request_id", "key"}.isdisjoint(line)
    assert {line["position"]: line["code"] for line in found()} == dict(enumerate(refused.values()))
    assert "secret" not in "".join(server.running.lines)


def test_a_server_without_keys_logs_changes_too(tmp_path: Path) -> None:
    with restartable(tmp_path) as server:
        server.start().post("/models", json={"name": "a"}, headers={"x-request-id": "me"}).raise_for_status()
        server.running.wait_for("service.audit: model created request_id=me model=a task=classification$")
