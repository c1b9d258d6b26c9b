"""Every error through a real socket; each leaves the fingerprint of every model as it was."""

from __future__ import annotations

import inspect
import json
import math
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bnp_online.errors as library
from service import errors
from tests.support.running import Json, Server, error, head, serving

MODELS = ("default", "numbers", "image", "raw")
DEEP = 300
LIMIT = 20_000
Case = tuple[str, Any, int, str, str | None]

AS_JSON = {"content-type": "application/json"}
X = {"a": 1.0}
HOT: list[Case] = [
    # path, body (raw where it is bytes), status, code, field
    *[
        (path, body, 400, "invalid_json", None)
        for path in ("/learn", "/predict", "/label", "/models")
        for body in (b"", b"{", b"{} {}", b'{"x": "\xff"}', b'{"NaN": }')
    ],
    *[
        (path, body, 400, "invalid_json", field)
        for path in ("/learn", "/predict", "/label", "/models")
        for body, field in (
            (b'{"x": {"a": NaN}}', "x.a"),
            (b'{"x": {"a": 1, "b": -Infinity, "c": NaN}}', "x.b"),
            (b'{"x": [[1, 2], [3, Infinity]]}', "x[1][1]"),
            (b'{"x": {}, "y": NaN}', "y"),
            (b"NaN", None),
        )
    ],
    ("/learn", b'{"x": {"a": "\\ud800"}, "y": 1}', 400, "invalid_json", None),
    ("/learn", b'{"x": {"\\udc00": 1}, "y": 1}', 400, "invalid_json", None),
    ("/learn", b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b', "y": 1}', 400, "invalid_json", None),
    ("/learn", b'{"x": {"a": 1' + b"0" * 5000 + b'}, "y": 1}', 400, "invalid_json", None),
    ("/learn", b'{"x": {"a": 1}, "y": 1, "y": 2}', 400, "duplicate_key", None),
    ("/learn", b'{"x": {"a": 1, "a": 1}, "y": 1}', 400, "duplicate_key", None),
    ("/predict", b'{"x": {"a": 1, "\\u0061": 2}}', 400, "duplicate_key", None),
    ("/models", b'{"name": "a", "name": "b"}', 400, "duplicate_key", None),
    *[(path, body, 422, "invalid_type", None) for path in ("/learn", "/predict") for body in (b"1", b"null")],
    ("/learn", {"x": X}, 422, "missing_field", "y"),
    ("/learn", {"y": 1}, 422, "missing_field", "x"),
    ("/predict", {}, 422, "missing_field", "x"),
    ("/label", {"y": 1}, 422, "missing_field", "id"),
    ("/label", {"id": "t"}, 422, "missing_field", "y"),
    ("/learn", {"x": X, "y": 1, "why": 1}, 422, "unknown_field", "why"),
    ("/predict", {"x": X, "y": 1}, 422, "unknown_field", "y"),
    ("/label", {"id": "t", "y": 1, "w": 1}, 422, "unknown_field", "w"),
    ("/predict", {"x": "a"}, 422, "invalid_type", "x"),
    ("/predict", {"x": None}, 422, "invalid_type", "x"),
    ("/learn", {"x": X, "y": None}, 422, "invalid_type", "y"),
    ("/learn", {"x": X, "y": [1]}, 422, "invalid_type", "y"),
    ("/learn", {"x": X, "y": "a", "w": "1"}, 422, "invalid_type", "w"),
    ("/learn", {"x": X, "y": "a", "w": True}, 422, "invalid_type", "w"),
    ("/learn", {"x": X, "y": "a", "id": 7}, 422, "invalid_type", "id"),
    ("/learn", {"x": X, "y": "a", "model": 7}, 422, "invalid_type", "model"),
    ("/label", {"id": None, "y": "a"}, 422, "invalid_type", "id"),
    ("/learn", {"x": X, "y": "a", "id": ""}, 422, "invalid_id", "id"),
    ("/predict", {"x": X, "id": "i" * 129}, 422, "invalid_id", "id"),
    ("/learn", {"x": {str(i): 1 for i in range(101)}, "y": "a"}, 422, "too_many_features", "x"),
    ("/predict", {"x": {str(i): 1 for i in range(101)}}, 422, "too_many_features", "x"),
    *[
        (path, {"x": X, "y": "a", "model": name}, 404, "unknown_model", "model")
        for path in ("/learn",)
        for name in ("nobody", "", "../default", "\u0000")
    ],
    ("/predict", {"x": X, "model": "nobody"}, 404, "unknown_model", "model"),
    ("/label", {"id": "t", "y": 1, "model": "nobody"}, 404, "unknown_model", "model"),
    ("/label", {"id": "nobody", "y": "a"}, 404, "unknown_id", "id"),
    ("/learn", b" " * LIMIT + b'{"x": {"a": 1}, "y": "a"}', 413, "body_too_large", None),
    ("/models", b" " * LIMIT + b"{}", 413, "body_too_large", None),
]
SAMPLES: list[Case] = [
    ("/learn", b'{"x": {"a": 1e999}, "y": "a"}', 422, "non_finite_feature", "x.a"),
    ("/predict", b'{"x": {"a": -1e999}}', 422, "non_finite_feature", "x.a"),
    ("/learn", b'{"x": {"a": 1' + b"0" * 400 + b'}, "y": "a"}', 422, "non_finite_feature", "x.a"),
    ("/learn", {"x": {"a": [1]}, "y": "a"}, 422, "invalid_feature", "x.a"),
    ("/predict", {"x": {"a": {"b": 1}}}, 422, "invalid_feature", "x.a"),
    ("/learn", {"x": [1.0], "y": "a"}, 422, "invalid_feature", "x"),
    ("/learn", {"x": X, "y": 1.5}, 422, "invalid_label", "y"),
    ("/learn", b'{"x": {"a": 1}, "y": 1' + b"0" * 400 + b"}", 422, "invalid_label", "y"),
    ("/learn", {"x": X, "y": 2**63}, 422, "invalid_label", "y"),
    ("/learn", {"x": X, "y": 1}, 422, "label_type", "y"),
    ("/learn", {"x": X, "y": True}, 422, "label_type", "y"),
    ("/learn", {"x": X, "y": "one more"}, 422, "too_many_classes", "y"),
    ("/learn", {"x": X, "y": "a", "w": -1}, 422, "invalid_weight", "w"),
    ("/learn", b'{"x": {"a": 1}, "y": "a", "w": 1e999}', 422, "invalid_weight", "w"),
    ("/learn", b'{"x": {"a": 1}, "y": "a", "w": 1' + b"0" * 400 + b"}", 422, "invalid_weight", "w"),
    ("/learn", {"x": {"a": 1e39}, "y": "a", "model": "raw"}, 422, "non_finite_state", None),
    ("/predict", {"x": {"a": 1e39}, "model": "raw"}, 422, "non_finite_state", None),
    ("/learn", {"x": X, "y": "a", "model": "numbers"}, 422, "invalid_label", "y"),
    ("/learn", b'{"x": {"a": 1}, "y": 1e999, "model": "numbers"}', 422, "non_finite_label", "y"),
    ("/learn", {"x": X, "y": "a", "model": "image"}, 422, "wrong_shape", "x"),
    ("/predict", {"x": [[1, 2, 3]], "model": "image"}, 422, "wrong_shape", "x"),
    ("/predict", {"x": [[1, 2], [3]], "model": "image"}, 422, "wrong_shape", "x"),
    ("/predict", {"x": [[1, 2], [3, "a"]], "model": "image"}, 422, "invalid_feature", "x"),
    ("/predict", b'{"x": [[1, 2], [3, 1e999]], "model": "image"}', 422, "non_finite_feature", "x[1][1]"),
    ("/predict", {"x": json.loads("[" * 150 + "]" * 150), "model": "image"}, 422, "wrong_shape", "x"),
]
SPECS: list[Case] = [
    ("/models", {"name": "default"}, 409, "model_exists", "name"),
    ("/models", {}, 409, "model_exists", "name"),
    *[
        ("/models", {"name": name}, 422, "invalid_spec", "name")
        for name in ("", "-a", "a/b", "../a", "a b", "é", "a\n", "a" * 65, 7)
    ],
    ("/models", [], 422, "invalid_spec", None),
    ("/models", {"name": "n", "layers": 3}, 422, "invalid_spec", "layers"),
    ("/models", {"name": "n", "task": "ranking"}, 422, "invalid_spec", "task"),
    ("/models", {"name": "n", "hidden": [0]}, 422, "invalid_spec", "hidden[0]"),
    ("/models", {"name": "n", "hidden": "100"}, 422, "invalid_spec", "hidden"),
    ("/models", {"name": "n", "lr": 0}, 422, "invalid_spec", "lr"),
    ("/models", b'{"name": "n", "lr": 1e999}', 422, "invalid_spec", "lr"),
    ("/models", {"name": "n", "rho": 2}, 422, "invalid_spec", "rho"),
    ("/models", {"name": "n", "seed": -1}, 422, "invalid_spec", "seed"),
    ("/models", {"name": "n", "max_features": 101}, 422, "invalid_spec", "max_features"),
    ("/models", {"name": "n", "max_classes": 4}, 422, "invalid_spec", "max_classes"),
    ("/models", {"name": "n", "task": "regression", "max_classes": 2}, 422, "invalid_spec", "max_classes"),
    ("/models", {"name": "n", "hidden": [4096] * 8}, 422, "invalid_spec", "hidden"),
    ("/models", {"name": "n", "input_shape": [1024] * 4}, 422, "invalid_spec", "hidden"),
    (
        "/models",
        {"name": "n", "input_shape": [3, 1024, 1024], "network": "cnn"},
        422,
        "invalid_spec",
        "hidden",
    ),
    ("/models", {"name": "n", "network": "cnn"}, 422, "invalid_spec", "input_shape"),
    ("/models", {"name": "n", "network": "cnn", "input_shape": [3]}, 422, "invalid_spec", "input_shape"),
]
CHANGES: list[Case] = [
    ("/models/default/rollback", {"step": 2**70}, 422, "invalid_spec", "step"),
    ("/models/default/rollback", {"step": -1}, 422, "invalid_spec", "step"),
    ("/models/default/forget", {"ids": []}, 422, "invalid_spec", "ids"),
    ("/models/default/forget", {"ids": ["a", ""]}, 422, "invalid_spec", "ids[1]"),
    ("/models/default/forget", {"ids": ["nobody"]}, 404, "unknown_id", "ids"),
    ("/models/default/shadows", {"name": "original"}, 409, "shadow_exists", "name"),
    ("/models/default/shadows", {"name": "n", "task": "regression"}, 422, "invalid_spec", "task"),
    ("/models/image/shadows", {"name": "n", "input_shape": [2]}, 422, "invalid_spec", "input_shape"),
    ("/models/nobody/shadows", {"name": "n"}, 404, "unknown_model", "model"),
    ("/models/default/promote", {"shadow": "nobody"}, 404, "unknown_shadow", "shadow"),
    ("/models/default/promote", {"shadow": "a b"}, 422, "invalid_spec", "shadow"),
]
CASES = HOT + SAMPLES + SPECS + CHANGES

# These are shown elsewhere, for they need more than one request, or a server in trouble.
ELSEWHERE = {
    "already_labelled", "body_timeout", "client_disconnected", "device_failed", "device_memory_full",
    "forbidden", "foreign_origin",
    "id_conflict", "id_forgotten", "invalid_checkpoint", "invalid_encoding", "model_failed",
    "invalid_request", "invalid_row", "invalid_table", "not_kept", "unsupported_encoding",
    "not_owner", "not_ready", "not_there_yet", "out_of_descriptors", "outcome_unknown", "pickled_model",
    "queue_full", "rebuilding", "shadow_failed", "shutting_down",
    "storage_failed", "storage_full", "stream_timeout", "string_too_long", "too_many_connections",
    "position_moved", "too_many_models", "too_many_shadows", "too_stale", "unknown_source",
    "unauthorized", "unknown_checkpoint", "unknown_host", "unsupported_media_type", "wrong_node",
}  # fmt: skip
# No request leads to these: they guard against mistakes in the code, or belong to features not built yet.
UNREACHABLE = {
    "batch_refused",  # of messages of topics, as `log_gap`
    "internal_error",
    "invalid_state",
    "log_gap",
    "unsupported_layer",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tight limits, and models that have learned a little."""
    limits = {"max_body_bytes": LIMIT, "max_features": 100, "max_classes": 3, "max_models": len(MODELS) + 1}
    with serving(tmp_path_factory.mktemp("errors"), **limits) as running:
        running.create(name="numbers", task="regression")
        running.create(name="image", input_shape=[2, 2])
        running.create(name="raw", standardize=False, learner=1)  # which does not bound values
        for i, y in enumerate(("a", "b", "c")):
            running.learn({"a": float(i), "b": "red"}, y)
            running.learn({"a": float(i)}, i / 3, model="numbers")
            running.learn([[i, 1], [2, None]], y, model="image")
            running.learn({"a": float(i)}, y, model="raw")
        yield running


def fingerprints(server: Server) -> list[Json]:
    return [server.fingerprint(model) for model in MODELS]


def send(server: Server, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.client.post(path, content=content, headers=AS_JSON)


@pytest.mark.parametrize(("path", "body", "status", "code", "field"), CASES)
def test_each(server: Server, path: str, body: Any, status: int, code: str, field: str | None) -> None:
    before = fingerprints(server)
    assert error(send(server, path, body)) == (status, code, field)
    assert fingerprints(server) == before


def test_nothing_is_left_out() -> None:
    shown = {case[3] for case in CASES}
    table = {row.code for row in errors.TABLE.values() if row.code is not None}
    assert table == (shown & table) | ELSEWHERE | UNREACHABLE
    assert not shown & (ELSEWHERE | UNREACHABLE)


def test_every_library_error_has_a_row() -> None:
    classes = {
        cls for _, cls in inspect.getmembers(library, inspect.isclass) if issubclass(cls, library.BNPError)
    }
    assert classes
    assert classes <= errors.TABLE.keys()


def test_every_error_of_the_server_has_a_row() -> None:
    classes = {
        cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.RequestError)
    }
    assert classes <= errors.TABLE.keys()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/learn/", 404, "not_found"),
        ("GET", "/models/a/b", 404, "not_found"),
        ("GET", "/learn", 405, "method_not_allowed"),
        ("PUT", "/models", 405, "method_not_allowed"),
        ("POST", "/health/live", 405, "method_not_allowed"),
        ("GET", "/models/nobody", 404, "unknown_model"),
        ("GET", "/models/nobody/metrics", 404, "unknown_model"),
        ("GET", "/models/nobody/fingerprint", 404, "unknown_model"),
        ("GET", "/models/%00", 404, "unknown_model"),
        ("GET", "/models/%FF", 404, "unknown_model"),
        ("DELETE", "/models/nobody", 404, "unknown_model"),
    ],
)
def test_routes(server: Server, method: str, path: str, status: int, code: str) -> None:
    answer = server.client.request(method, path)
    assert error(answer)[:2] == (status, code)
    if status == 405:
        assert answer.headers["allow"]


def test_an_empty_name_is_not_the_default_model(server: Server) -> None:
    sample = {"x": X, "y": "a"}
    in_header = server.client.post("/learn", json=sample, headers={"BNP-Model": ""})
    for answer in (in_header, server.client.post("/learn", json={**sample, "model": ""})):
        assert answer.status_code == 404
        assert "no model ''" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("branch=-1", "branch"),
        (f"branch={2**64}", "branch"),
        (f"after={2**64}", "after"),
        ("after=1.5", "after"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(server: Server, query: str, field: str) -> None:
    answer = server.client.get(f"/models/default/events?{query}")
    assert error(answer) == (422, "invalid_request", field)
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/learn", ["POST"]),
        ("/models", ["GET", "HEAD", "POST"]),
        ("/models/default", ["DELETE", "GET", "HEAD", "PATCH"]),
        ("/models/nobody/checkpoints", ["GET", "HEAD", "POST"]),
        ("/openapi.json", ["GET", "HEAD"]),
    ],
)
def test_a_refused_method_names_all_that_the_path_takes(
    server: Server, path: str, methods: list[str]
) -> None:
    answer = server.client.request("OPTIONS", path)
    assert error(answer)[:2] == (405, "method_not_allowed")
    assert sorted(answer.headers["allow"].split(", ")) == methods


def test_a_chunked_body_is_limited_while_it_comes(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    before = fingerprints(server)
    assert error(server.client.post("/learn", content=endless(), headers=AS_JSON))[:2] == (
        413,
        "body_too_large",
    )
    assert fingerprints(server) == before


def test_an_announced_body_is_refused_before_it_comes(server: Server) -> None:
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(head("/learn", 999_999_999))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_in_the_middle_of_its_body(server: Server) -> None:
    before = fingerprints(server)
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(head("/learn", 500) + b'{"x": {"a": 1}, "y": "a"')
    assert fingerprints(server) == before
    while 'status="400"' not in (metrics := server.client.get("/metrics").text):
        pass
    assert 'status="500"' not in metrics


def test_answers_do_not_grow_with_what_they_refuse(server: Server) -> None:
    answer = send(server, "/learn", {"x": {"long" * 1000: []}, "y": "a"})
    assert error(answer)[:2] == (422, "string_too_long")
    assert len(answer.content) < 2000


def test_an_id_stands_for_one_body(server: Server) -> None:
    server.learn({"a": 1.0}, "a", id="e-1")
    server.predict({"a": 1.0}, id="t-1")
    before = fingerprints(server)
    for body in (
        {"x": {"a": 2.0}, "y": "a"},
        {"x": {"a": 1.0}, "y": "b"},
        {"x": {"a": 1.0}, "y": "a", "w": 2},
    ):
        assert error(server.post("/learn", id="e-1", **body)) == (409, "id_conflict", "id")
    assert error(server.post("/predict", id="t-1", x={"a": 2.0})) == (409, "id_conflict", "id")
    assert fingerprints(server) == before


def test_the_number_of_models_is_limited(server: Server) -> None:
    server.create(name="last")
    before = fingerprints(server)
    assert error(server.post("/models", name="one more")) == (422, "invalid_spec", "name")
    assert error(server.post("/models", name="one-more")) == (409, "too_many_models", None)
    assert fingerprints(server) == before
    server.client.delete("/models/last")


def test_a_prediction_has_one_label(server: Server) -> None:
    server.predict({"a": 3.0}, id="t-2")
    assert error(server.post("/label", id="t-2", y=1)) == (422, "label_type", "y")
    server.label("t-2", "a")  # the refused label has not used it up
    before = fingerprints(server)
    assert error(server.post("/label", id="t-2", y="a")) == (409, "already_labelled", "id")
    assert error(server.post("/predict", id="t-2", x={"a": 3.0})) == (409, "already_labelled", "id")
    assert fingerprints(server) == before


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "x": st.dictionaries(st.text(max_size=3), values, max_size=4) | values,
        "y": st.sampled_from(["a", "b"]) | values,
        "w": values,
        "id": values,
        "model": st.sampled_from(MODELS) | values,
    },
)


@given(
    st.sampled_from(["/learn", "/predict", "/label", "/models"]),
    bodies.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=30),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_breaks_the_server(server: Server, path: str, body: bytes) -> None:
    before = fingerprints(server)
    answer = send(server, path, body)
    assert answer.status_code < 500
    if answer.status_code == 200:
        assert math.isfinite(answer.json()["step"])
    else:
        error(answer)
        assert fingerprints(server) == before
