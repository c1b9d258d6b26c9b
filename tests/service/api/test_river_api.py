"""The River API Spec through a plain HTTP client: what it shares with the native routes, and its errors."""

from __future__ import annotations

import base64
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from service.api import river, sse
from service.app import create_app
from service.auth.guard import GuardedRoute, PlainRoute
from service.auth.keys import digest_of
from service.auth.scopes import FORM, SCOPES
from service.http.responses import RIVER
from service.settings import Settings
from tests.support.running import Json, Server

AS_JSON = {"content-type": "application/json"}
ALL, MINE = "all-".ljust(40, "x"), "mine-".ljust(40, "x")
OLD = "o" * 40
KEYS = (
    f"all {','.join(SCOPES)} {ALL}; mine {','.join(SCOPES)} {MINE} models=mine; "
    f"old read {OLD} expires=2020-01-01"
)
SMALL = {"hidden": [4], "replay": 1, "memory": 20}
SAMPLE = {"model": "default", "features": {"a": 1.0}, "ground_truth": "cat"}


def refused(answer: httpx.Response) -> int:
    """Return the status of an error, and check that it is in the one envelope."""
    body = answer.json()
    assert body.keys() == {"message"}
    assert body["message"]
    return answer.status_code


def basic(user: str, token: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'{user}:{token}'.encode()).decode()}"}


def without(body: Json, field: str) -> Json:
    return {name: value for name, value in body.items() if name != field}


def test_it_learns_what_the_native_routes_learn(server: Server) -> None:
    for name in ("native", "river"):
        server.create(name=name, **SMALL)
    for i in range(25):
        x, y, identifier = {"a": i % 5, "b": "red" if i % 2 else "blue"}, i % 3, f"i{i}"
        if i % 3:
            server.learn(x, y, model="native", id=identifier)
            sample = {"model": "river", "features": x, "ground_truth": y, "identifier": identifier}
            assert server.post("/api/learn/", **sample).status_code == 201
        else:
            expected = server.predict(x, model="native", id=identifier)
            given = server.post("/api/predict/", model="river", features=x, identifier=identifier)
            assert given.status_code == 201
            assert given.json() == {
                "model": "river", "prediction": expected["probabilities"], "identifier": identifier,
            }  # fmt: skip
            server.label(identifier, y, model="native")
            labelled = server.post("/api/label/", model="river", identifier=identifier, label=y)
            assert (labelled.status_code, labelled.json()) == (200, "Successful label.")
    assert server.fingerprint("river") == server.fingerprint("native")
    scores = server.get("/models/native/metrics")["cumulative"]
    assert server.get("/api/metrics/?model=river") == scores


def test_an_identifier_makes_a_sample_safe_to_repeat(server: Server) -> None:
    server.create(name="again", **SMALL)
    sample = {**SAMPLE, "model": "again", "identifier": "e-1"}
    for _ in range(3):
        assert server.post("/api/learn/", **sample).status_code == 201
    assert server.get("/models/again")["step"] == 1
    assert refused(server.post("/api/learn/", **{**sample, "ground_truth": "dog"})) == 409


def test_learning_with_the_identifier_of_a_prediction_labels_it(server: Server) -> None:
    for name in ("by-label", "by-learn"):
        server.create(name=name, **SMALL)
        server.learn({"a": 1}, "cat", model=name)
        server.predict({"a": 2}, model=name, id="t")
        server.learn({"a": 3}, "dog", model=name)  # the prediction that is scored is the earlier one
    server.label("t", "dog", model="by-label")
    sample = {"model": "by-learn", "features": {"a": 2}, "ground_truth": "dog", "identifier": "t"}
    assert server.post("/api/learn/", **sample).status_code == 201
    assert server.fingerprint("by-learn") == server.fingerprint("by-label")
    assert refused(server.post("/api/learn/", **sample)) == 409


def test_nested_lists_are_features(server: Server) -> None:
    made = server.post("/api/model/multiclass/image/", input_shape=[2, 2], **SMALL)
    assert made.status_code == 201
    sample = {"model": "image", "features": [[1, 2], [3, 4]], "ground_truth": 7}
    assert server.post("/api/learn/", **sample).status_code == 201


@pytest.mark.parametrize("path", ["/api/metrics/", "/api/stats/"])
def test_a_get_names_its_model_in_its_body_or_in_its_query(server: Server, path: str) -> None:
    by_query = server.client.get(path, params={"model": "default"})
    by_body = server.client.request("GET", path, json={"model": "default"})
    assert by_query.status_code == by_body.status_code == 200
    assert by_query.json() == by_body.json()
    for params, body, status in (
        ({}, None, 422),
        ({"model": "nobody"}, None, 404),
        ({"mode": "default"}, None, 422),
        ({}, {"model": "nobody"}, 404),
        ({"model": "default"}, {}, 422),
        ({}, {"model": 7}, 422),
        ({}, [], 422),
    ):
        assert refused(server.client.request("GET", path, params=params, json=body)) == status
    twice = b'{"model": "default", "model": "default"}'
    assert refused(server.client.request("GET", path, content=twice, headers=AS_JSON)) == 400
    for kind in ({}, {"content-type": "text/plain"}):
        raw = b'{"model": "default"}'
        assert refused(server.client.request("GET", path, content=raw, headers=kind)) == 415


BAD: list[tuple[str, Any, int]] = [
    *[
        (path, body, status)
        for path in ("/api/learn/", "/api/predict/", "/api/label/")
        for body, status in ((b"", 400), (b"{", 400), (b'{"model": "a", "model": "a"}', 400), (b"[]", 422))
    ],
    *[("/api/learn/", without(SAMPLE, field), 422) for field in SAMPLE],
    ("/api/learn/", {**SAMPLE, "ground_truth": None}, 422),  # what the client sends without y
    ("/api/learn/", {**SAMPLE, "model": None}, 422),
    ("/api/learn/", {**SAMPLE, "model": "nobody"}, 404),
    ("/api/learn/", {**SAMPLE, "features": "a"}, 422),
    ("/api/learn/", {**SAMPLE, "features": {"a": [1]}}, 422),
    ("/api/learn/", b'{"model": "default", "features": {"a": 1e999}, "ground_truth": "cat"}', 422),
    ("/api/learn/", {**SAMPLE, "ground_truth": 1.5}, 422),
    ("/api/learn/", {**SAMPLE, "identifier": ""}, 422),
    ("/api/learn/", {**SAMPLE, "identifier": "i" * 129}, 422),
    ("/api/learn/", {**SAMPLE, "x": {}}, 422),
    ("/api/learn/", {**SAMPLE, "features": {f"f{i}": 1 for i in range(21)}}, 422),
    ("/api/learn/", {**SAMPLE, "features": {"a" * 101: 1}}, 422),
    ("/api/learn/", {**SAMPLE, "features": {"a": "b" * 101}}, 422),
    ("/api/learn/", {**SAMPLE, "ground_truth": "c" * 101}, 422),
    ("/api/predict/", {"model": "default"}, 422),
    ("/api/predict/", {"features": {"a": 1}}, 422),
    ("/api/predict/", {"model": "default", "features": {"a": 1}, "identifier": 7}, 422),
    ("/api/label/", {"model": "default", "identifier": "nobody", "label": "cat"}, 404),
    ("/api/label/", {"model": "default", "identifier": None, "label": "cat"}, 422),
    ("/api/label/", {"model": "default", "identifier": "t", "label": "c" * 101}, 422),
    ("/api/learn/", b" " * 5000, 413),
    ("/api/model/regression/", b" " * 5000, 413),
    ("/api/model/regression/", b"", 400),
    ("/api/model/regression/", b"{", 400),
    ("/api/model/regression/", b'{"seed": 1, "seed": 1}', 400),
    ("/api/model/regression/", [], 422),
    ("/api/model/regression/", {"layers": 3}, 422),
    ("/api/model/regression/", {"max_classes": 2}, 422),
    ("/api/model/regression/default/", {"seed": 1}, 409),
    ("/api/model/regression/-a/", {"seed": 1}, 422),
    ("/api/model/regression/a%0A/", {"seed": 1}, 422),
    ("/api/model/regression/a/", {"name": "b"}, 422),
    ("/api/model/regression/a/", {"task": "classification"}, 422),
    ("/api/model/binary/a/", {"task": "regression"}, 422),
    ("/api/model/binary/a/", {"max_classes": 3}, 422),
    ("/api/model/cluster/a/", {"seed": 1}, 422),
    ("/api/model/../a/", {"seed": 1}, 404),
]


def test_each_error_has_its_message_and_changes_nothing(serve: Callable[..., Server]) -> None:
    server = serve(max_features=20, max_string_length=100, max_body_bytes=4000)
    server.learn({"a": 1.0}, "cat")
    before, models = server.fingerprint(), server.get("/models")
    for path, body, status in BAD:
        if isinstance(body, bytes):
            answer = server.client.post(path, content=body, headers=AS_JSON)
        else:
            answer = server.client.post(path, json=body)
        assert refused(answer) == status, (path, body, answer.text)
    assert (server.fingerprint(), server.get("/models")) == (before, models)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api", 404),
        ("GET", "/api/nowhere/", 404),
        ("POST", "/api/learn", 404),
        ("GET", "/api/learn/", 405),
        ("PUT", "/api/model/regression/", 405),
        ("GET", "/api/model/nobody/", 404),
        ("GET", "/api/model/download/nobody/", 404),
    ],
)
def test_routes(server: Server, method: str, path: str, status: int) -> None:
    answer = server.client.request(method, path)
    assert refused(answer) == status
    assert (status == 405) == ("allow" in answer.headers)


def test_a_spec_may_say_what_the_path_says(server: Server) -> None:
    for path, spec, name in (
        ("/api/model/regression/one/", {"name": "one", "task": "regression"}, "one"),
        ("/api/model/multiclass/", {"name": "two", "max_classes": 5}, "two"),
        ("/api/model/binary/three/", {"max_classes": 2}, "three"),
    ):
        made = server.post(path, **SMALL, **spec)
        assert (made.status_code, made.json()) == (201, {"name": name})
    made = server.post("/api/model/regression/", seed=1)
    assert re.fullmatch("regression-[0-9a-f]{8}", made.json()["name"])
    assert server.get("/models/two")["spec"]["max_classes"] == 5


def test_a_binary_model_takes_two_classes(server: Server) -> None:
    server.post("/api/model/binary/two-classes/", **SMALL)
    for label, status in (("a", 201), ("b", 201), ("c", 422), ("a", 201)):
        sample = {"model": "two-classes", "features": {"a": 1}, "ground_truth": label}
        assert server.post("/api/learn/", **sample).status_code == status
    assert server.get("/models/two-classes")["step"] == 3


@pytest.mark.parametrize("path", ["/api/model/regression/", "/api/model/regression/pickled/"])
@pytest.mark.parametrize("kind", [None, "", "application/octet-stream", "text/plain", FORM])
def test_what_is_not_json_is_no_model(server: Server, path: str, kind: str | None) -> None:
    """Not even if it is JSON inside: any page elsewhere could send it."""
    for body in (pickle.dumps(7), b'{"seed": 1}'):
        headers = {} if kind is None else {"content-type": kind}
        answer = server.client.post(path, content=body, headers=headers)
        assert refused(answer) == 400
        assert "application/json" in answer.json()["message"]
    answer = server.client.post(path, content=pickle.dumps(7), headers=AS_JSON)
    assert refused(answer) == 400
    assert server.client.get("/api/model/pickled/").status_code == 404


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("model=gone", 200),
        ("model=nobody", 404),
        ("model=%00", 404),
        ("model=", 404),
        ("", 422),
        ("name=gone", 422),
        ("model=gone&force=1", 422),
        ("model=gone&model=gone", 400),
        ("%FF=%FF&;", 422),
    ],
)
def test_a_form_names_the_model_to_delete(server: Server, form: str, status: int) -> None:
    server.create(name="gone", **SMALL)
    answer = server.client.request("DELETE", "/api/model/", content=form, headers={"content-type": FORM})
    assert answer.status_code == status
    assert status == 200 or refused(answer) == status
    assert server.client.get("/models/gone").status_code == (404 if status == 200 else 200)
    server.client.delete("/models/gone")


def test_a_form_is_taken_where_no_page_can_send_one() -> None:
    """A page elsewhere can make a browser POST a form without being asked whether it may; never DELETE."""
    taking = {
        (method, route.path)
        for route in create_app(Settings()).routes
        if isinstance(route, GuardedRoute | PlainRoute) and FORM in route.access.takes
        for method in route.methods or ()
    }
    assert taking == {("DELETE", "/api/model/")}


@pytest.mark.parametrize("kind", ["text/plain", FORM, "multipart/form-data; boundary=a", None])
def test_no_page_elsewhere_drives_a_server_without_keys(server: Server, kind: str | None) -> None:
    before = server.fingerprint()
    headers = {} if kind is None else {"content-type": kind}
    for path in ("/api/learn/", "/api/predict/", "/api/label/"):
        answer = server.client.post(path, content=b"{}", headers=headers)
        assert refused(answer) == 415
    for method, path, more in (
        ("POST", "/api/learn/", {"origin": "https://evil.example", **AS_JSON}),
        ("POST", "/api/learn/", {"host": "evil.example", **AS_JSON}),
        ("DELETE", "/api/model/", {"origin": "https://evil.example", "content-type": FORM}),
        ("GET", "/api/models/", {"host": "evil.example"}),
        ("GET", "/api/stream/events/", {"origin": "null"}),
    ):
        assert refused(server.client.request(method, path, headers=more)) == 403
    # A browser asks before it sends DELETE or application/json for a page, and is not told that it may.
    asked = server.client.options("/api/model/", headers={"access-control-request-method": "DELETE"})
    assert refused(asked) == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]
    assert server.fingerprint() == before


def test_who_has_to_wait_is_told_how_long(serve: Callable[..., Server]) -> None:
    server = serve(queue_size=1)
    with ThreadPoolExecutor() as others:
        with server.held():
            waiting = others.submit(httpx.post, f"{server.url}/api/learn/", json=SAMPLE, timeout=60)
            server.wait_for_queue(2)
            for answer in (
                server.post("/api/learn/", **SAMPLE),
                server.post("/api/predict/", **without(SAMPLE, "ground_truth")),
                server.client.get("/api/metrics/", params={"model": "default"}),
            ):
                assert refused(answer) == 429
                assert answer.headers["retry-after"] == "1"
        assert waiting.result().status_code == 201
    assert server.get("/models/default")["step"] == 1


def test_one_connection_too_many(serve: Callable[..., Server]) -> None:
    server = serve(max_connections=1)
    server.get("/api/models/")  # its connection stays open
    answer = httpx.get(f"{server.url}/api/models/", timeout=60)
    assert refused(answer) == 503
    assert answer.headers["retry-after"] == "1"


def test_a_challenge_leads_to_a_token(serve: Callable[..., Server]) -> None:
    server = serve(api_keys=KEYS)
    for sent in ({}, {"authorization": "Bearer wrong"}, basic("somebody", ALL)):
        answer = server.client.get("/api/models/", headers=sent)
        assert refused(answer) == 401
        realm = f"{server.url}/api/auth/token/"
        assert answer.headers["www-authenticate"] == f'Bearer realm="{realm}",service="bnp-online"'
    token = server.client.get(realm, headers=basic("", ALL))
    assert (token.status_code, token.json()) == (200, {"token": ALL})
    assert token.headers["cache-control"] == "no-store"
    for wrong in (
        {},
        basic("somebody", "wrong"),
        basic("somebody", ALL[:-1]),
        basic(ALL, ""),
        basic("somebody", OLD),
        basic("somebody", "é"),
        {"authorization": f"Bearer {ALL}"},
        {"authorization": "Basic"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic " + base64.b64encode(ALL.encode()).decode()},
    ):
        answer = server.client.get("/api/auth/token/", headers=wrong)
        assert refused(answer) == 401
        assert "token" not in answer.json()
    native = server.client.get("/models")
    assert native.headers["www-authenticate"] == 'Bearer realm="bnp-online"'


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({"host": "ml.example"}, "http://ml.example"),
        ({"host": "ml.example:80", "x-forwarded-proto": "https"}, "https://ml.example:80"),
        ({"host": "[::1]:8000", "x-forwarded-proto": "http"}, "http://[::1]:8000"),
        ({"host": "ml.example", "x-forwarded-prefix": "/bnp/v1/"}, "http://ml.example/bnp/v1"),
        ({"host": "ml.example", "x-forwarded-prefix": '/a",service="b'}, "http://ml.example"),
        ({"host": "ml.example", "x-forwarded-prefix": "//other.example"}, "http://ml.example"),
        ({"host": "ml.example", "x-forwarded-prefix": ".other.example"}, "http://ml.example"),
        ({"host": 'a",service="b'}, ""),
        ({"host": "a/b"}, ""),
        ({"host": "user@a"}, ""),
        ({"host": ""}, ""),
    ],
)
def test_a_challenge_names_the_address_that_the_client_used(
    keyed: Server, headers: dict[str, str], origin: str
) -> None:
    challenge = keyed.client.get("/api/models/", headers=headers).headers["www-authenticate"]
    assert challenge == f'Bearer realm="{origin}/api/auth/token/",service="bnp-online"'


@pytest.fixture
def keyed(serve: Callable[..., Server]) -> Server:
    return serve(api_keys=KEYS)


def test_a_key_for_some_models(keyed: Server) -> None:
    keyed.client.headers["authorization"] = f"Bearer {MINE}"
    assert keyed.post("/api/model/binary/mine/", **SMALL).status_code == 201
    assert keyed.get("/api/models/") == {"models": ["mine"]}
    assert keyed.get("/api/model/mine/")["name"] == "mine"
    for answer in (
        keyed.post("/api/learn/", **SAMPLE),
        keyed.post("/api/model/binary/", **SMALL),
        keyed.post("/api/model/binary/other/", **SMALL),
        keyed.client.get("/api/model/default/"),
        keyed.client.get("/api/stats/", params={"model": "default"}),
        keyed.client.request("DELETE", "/api/model/", data={"model": "default"}),
    ):
        assert refused(answer) == 403


@pytest.mark.parametrize(("path", "label"), [("events", "learn"), ("metrics", "mine")])
def test_a_stream_has_the_models_of_its_key(keyed: Server, path: str, label: str) -> None:
    keyed.client.headers["authorization"] = f"Bearer {ALL}"
    keyed.create(name="mine", **SMALL)
    headers = {"authorization": f"Bearer {MINE}"}
    with httpx.stream("GET", f"{keyed.url}/api/stream/{path}/", headers=headers, timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/plain")
        lines = stream.iter_lines()
        assert next(lines) == ""
        keyed.learn({"a": 1}, "cat")
        keyed.learn({"a": 1}, "cat", model="mine")
        line = next(filter(None, lines))
    assert line.startswith(f"{label}: {{")
    assert path == "metrics" or '"model":"mine"' in line


@pytest.mark.parametrize("path", ["events", "metrics"])
def test_a_stream_ends_once_its_key_is_taken_away(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.02)
    keys = tmp_path / "keys"
    keys.write_text(f"a read sha256:{digest_of(ALL.encode()).hex()}\n")
    server = serve(keys_file=keys)
    headers = {"authorization": f"Bearer {ALL}"}
    with httpx.stream("GET", f"{server.url}/api/stream/{path}/", headers=headers, timeout=60) as stream:
        lines = stream.iter_lines()
        assert [next(lines), next(lines)] == ["", ""]  # it begins, and is alive
        keys.write_text(f"a read sha256:{digest_of(MINE.encode()).hex()}\n")
        server.app.state.keyring.reload()
        rest = [line for line in lines if line]
    assert [line.partition(": ")[0] for line in rest] == ["notice"]
    assert '"reason":"refused"' in rest[0]


def test_every_route_is_of_the_spec_and_ends_in_a_slash() -> None:
    routes = [route for route in river.ROUTES if isinstance(route, Route)]
    assert len(routes) == len(river.ROUTES)
    for route in routes:
        assert route.path.startswith(RIVER)
        assert route.path.endswith("/")
