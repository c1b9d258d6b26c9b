"""Parameters of the query that a route does not know are refused, before anything changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.app import create_app
from service.auth.guard import GuardedRoute, PlainRoute
from tests.support.running import Json, Server, error

CSV, LINES, JSON = "text/csv", "application/x-ndjson", "application/json"
X: Json = {"x": {"a": 1}}
#: Values of the variables in the paths of routes. No node has the name.
PATHS = {"{m}": "default", "{flavor}": "binary", "{shard}": "0", "{name}": "nobody"}
#: Routes that need no key, and the scraper's.
OPEN = {
    "/health/live", "/health/ready", "/health/owner/{shard}", "/health/replica", "/metrics", "/openapi.json",
    "/v2/health/live", "/v2/health/ready", "/api/", "/api/auth/token/", "/", "/docs",
}  # fmt: skip
ROUTES = [route for route in create_app().routes if isinstance(route, GuardedRoute | PlainRoute)]
STRICT = [route for route in ROUTES if not route.access.any_query and isinstance(route, GuardedRoute)]


def ask(server: Server, route: GuardedRoute | PlainRoute, query: str) -> Any:
    path = route.path
    for name, value in PATHS.items():
        path = path.replace(name, value)
    [method] = set(route.methods or ()) - {"HEAD"}
    headers = {"content-type": next(iter(route.access.takes), JSON)}
    content = None if method == "GET" else b"{}"
    return server.client.request(method, path + query, content=content, headers=headers)


def refused(route: GuardedRoute, answer: Any) -> tuple[str, str]:
    """Return the code and the message of a refusal in the envelope of its route; in River's, no code."""
    assert answer.status_code == 422
    body: Any = answer.json()
    if route.path.startswith("/api/"):
        return "", body["message"]
    if route.path.startswith("/v2/") or route.path == "/v2":
        return body["code"], body["error"]
    return body["error"]["code"], body["error"]["message"]


def state(server: Server) -> Json:
    return {"models": server.get("/models"), "default": server.fingerprint()}


def test_every_route_that_needs_a_key_refuses_what_it_does_not_know(server: Server) -> None:
    before = state(server)
    for route in STRICT:
        code, message = refused(route, ask(server, route, "?bogus=1"))
        assert code in ("unknown_field", "")
        known = ", ".join(route.parameters)
        rest = f"; it has {known}" if known else ", which has none: omit it"
        assert message == f"'bogus' is not a parameter of this route{rest}"
    assert state(server) == before
    assert len(STRICT) > 40


def test_every_parameter_is_known_once(server: Server) -> None:
    before = state(server)
    found = [(route, name) for route in STRICT for name in route.parameters]
    for route, name in found:
        code, message = refused(route, ask(server, route, f"?{name}=1&{name}=2"))
        assert (code or "invalid_request", message) == (
            "invalid_request",
            f"the query has {name} twice: send it once",
        )
        _, message = refused(route, ask(server, route, f"?{name}_=1"))
        assert message == f"'{name}_' is not a parameter of this route: did you mean {name}?"
    assert state(server) == before
    assert {"kept", "after", "points", "model", "shadow", "target"} <= {name for _, name in found}


def test_the_document_has_the_parameters_that_are_known(server: Server) -> None:
    paths = server.get("/openapi.json")["paths"]
    for route in ROUTES:
        if isinstance(route, GuardedRoute):
            operation = paths[route.path][min(route.methods or {""}).lower()]
            documented = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
            assert sorted(documented) == sorted(route.parameters)
            codes = operation["responses"].get("422", {}).get("description", "")
            assert route.access.any_query or {"`unknown_field`", "`invalid_request`"} <= {*codes.split(", ")}


def test_pages_probes_and_scrapers_may_add_parameters(server: Server) -> None:
    """Browsers and proxies do, against caches; scrapers ask for formats."""
    lenient = [route for route in ROUTES if route.access.any_query]
    assert {route.path for route in lenient if "." not in route.path} == OPEN - {"/openapi.json"}
    assert all("." not in route.path or isinstance(route, PlainRoute) for route in lenient)
    for route in lenient:
        expected = 401 if route.path == "/api/auth/token/" else 200
        assert ask(server, route, "?v=7&v=8&format=prometheus").status_code == expected


@pytest.mark.parametrize(
    ("method", "path", "field", "words"),
    [
        ("POST", "/models/default/predict?novelty=1", "novelty", "send novelty as a field of the body"),
        ("POST", "/predict?interval=0.9", "interval", "send interval as a field of the body"),
        ("POST", "/models?nmae=m", "nmae", "send name as a field of the body"),
        ("POST", "/models/default/upgrade?keep=true", "keep", "did you mean kept?"),
        ("GET", "/models/default/events?aftr=5", "aftr", "did you mean after?"),
        ("GET", "/models/default/history?buckts=10", "buckts", "it has points"),
        ("GET", "/models?models=default", "models", "which has none"),
        ("GET", "/events?Model=default", "Model", "did you mean model?"),
        ("GET", "/events?", None, ""),
        ("GET", "/models?&", None, ""),
        ("GET", "/models?=", "", "''"),
        ("GET", "/models?a", "a", "'a'"),
        ("GET", "/models?%C3%A9=1", "é", "'é'"),
        ("GET", "/models/default/fingerprint?shadow=x&shadw=y", "shadw", "did you mean shadow?"),
        ("DELETE", "/models/default?confirm=false", "confirm", "which has none"),
        ("HEAD", "/models?x=1", "x", ""),
        ("POST", "/models/default/evidence?x=1", "x", "send x as a field of the body"),
    ],
)
def test_the_message_has_a_remedy(
    server: Server, method: str, path: str, field: str | None, words: str
) -> None:
    before = state(server)
    with server.client.stream(method, path, json=X if method == "POST" else None) as answer:
        assert answer.status_code == (200 if field is None else 422)
        if field is None or method == "HEAD":
            return
        answer.read()
        assert error(answer) == (422, "unknown_field", field)
    assert words in answer.json()["error"]["message"]
    assert state(server) == before


@pytest.mark.parametrize("path", ["/learn", "/models/default/learn"])
@pytest.mark.parametrize(
    ("query", "kind", "code", "words"),
    [
        ("?lable=y", CSV, "unknown_field", "it has target, id, weight"),
        ("?targt=y", CSV, "unknown_field", "did you mean target?"),
        ("?target=y&w=a", CSV, "unknown_field", "send w as a field of the body"),
        ("?target=y", JSON, "invalid_request", "the body is application/json: omit it. The fields"),
        ("?id=e-1", LINES, "invalid_request", "fields of the body are x, y, "),
        ("?a=1", LINES, "unknown_field", "'a'"),
        ("?a=1", "application/vnd.apache.arrow.stream", "unknown_field", "it has target, id, weight"),
    ],
)
def test_columns_are_named_for_a_table_alone(
    server: Server, path: str, query: str, kind: str, code: str, words: str
) -> None:
    before = state(server)
    body = b"a,y\n1,0\n" if kind == CSV else b'{"x":{"a":1},"y":0}'
    answer = server.client.post(path + query, content=body, headers={"content-type": kind})
    assert error(answer)[:2] == (422, code)
    assert words in answer.json()["error"]["message"]
    assert state(server) == before


def test_the_message_is_short(server: Server) -> None:
    answer = server.client.get(f"/models?{'long' * 2000}=1")
    assert answer.status_code == 422
    assert len(answer.content) < 1000


def test_the_key_is_checked_first(serve: Callable[..., Server]) -> None:
    server = serve(api_keys=f"mine read {'b' * 40} models=mine")
    for path in ("/models", "/models/default/events"):
        assert server.client.get(f"{path}?a=1").status_code == 401
    assert server.client.post("/learn?a=1", json=X).status_code == 401
    server.client.headers["authorization"] = f"Bearer {'b' * 40}"
    assert error(server.client.get("/models/other?a=1"))[:2] == (403, "forbidden")
    assert error(server.client.get("/models?a=1"))[:2] == (422, "unknown_field")


def test_a_query_and_a_body_may_not_name_two_models(server: Server) -> None:
    """The routes of River that take the name in either."""
    server.create(name="river")
    for name, status in (("river", 200), ("default", 422)):
        answer = server.client.request("GET", f"/api/stats/?model={name}", json={"model": "river"})
        assert answer.status_code == status
    assert answer.json() == {"message": "the query names a model, and the body another: omit one of them"}
