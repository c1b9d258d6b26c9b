"""Who may do what, generated from the table of routes, so that no new route can be forgotten."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from pydantic import TypeAdapter
from starlette.routing import Route

from service.api import dashboard, health
from service.api.fast_path import HotRoute
from service.app import create_app
from service.auth.guard import GuardedRoute, PlainRoute
from service.auth.scopes import SCOPES, Access, UndeclaredRouteError, needs
from service.errors import row
from service.http.responses import is_open_inference, is_river
from service.settings import Settings
from tests.support.running import Json, Server, serving
from tests.support.running import error as native_error


@dataclass(frozen=True)
class Way:
    """A method of a route, with a body that it takes."""

    method: str
    path: str
    access: Access
    body: Json | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def naming(self, model: str) -> tuple[str, Json | None] | None:
        """Return the path and body that name a model; None if the route names none."""
        field = next(
            (name for name in ("model", "name") if self.body is not None and name in self.body), None
        )
        if "{m}" not in self.path and field is None:
            return None
        body = self.body if field is None else {**(self.body or {}), field: model}
        return self.path.replace("{m}", model).replace("{flavor}", "binary"), body


#: Bodies of the routes that have no example.
BODIES: dict[str, Json] = {
    "/api/model/{flavor}/": {"name": "default"},
    "/api/model/{flavor}/{m}/": {"seed": 1},
    "/api/model/": {"model": "default"},
    "/api/metrics/": {"model": "default"},
    "/api/stats/": {"model": "default"},
}


def ways() -> list[Way]:
    found = []
    for route in create_app(Settings()).routes:
        assert isinstance(route, GuardedRoute | PlainRoute)
        body = BODIES.get(route.path)
        if isinstance(route, HotRoute) or (route.path, route.methods) == ("/models", {"POST"}):
            assert isinstance(route, GuardedRoute)
            assert route.body_field is not None
            declared: Any = route.body_field.field_info.annotation
            schema = TypeAdapter(declared).json_schema()
            body = dict(schema["examples"][0])
            body.update({name: "default" for name in ("model", "name") if name in schema["properties"]})
        found += [Way(method, route.path, route.access, body) for method in sorted(route.methods or ())]
    return found


WAYS = ways()
GUARDED = [way for way in WAYS if way.access.scope is not None]
PUBLIC = [way for way in WAYS if way.access.scope is None]
TOKEN = "/api/auth/token/"  # noqa: S105 (a path: what it needs is a key in another dress)
NAMING = [way for way in GUARDED if way.naming("default")]
# Of what is there these answer the part that the key is for.
LISTS = {
    "GET /models", "GET /overview", "GET /events",
    "GET /api/models/", "GET /api/stream/events/", "GET /api/stream/metrics/",
    "GET /v2",  # name and version
}  # fmt: skip

SECRETS = {
    name: f"{name}-".ljust(40, "x") for name in ("all", "mine", "old", "later", *(f"no-{s}" for s in SCOPES))
}
ENTRIES = [
    f"all {','.join(SCOPES)} {SECRETS['all']}",
    f"mine {','.join(SCOPES)} sha256:{hashlib.sha256(SECRETS['mine'].encode()).hexdigest()} models=mine,more",
    f"old {','.join(SCOPES)} {SECRETS['old']} expires=2020-02-29",
    f"later {','.join(SCOPES)} {SECRETS['later']} expires=9999-12-31",
    *(f"no-{s} {','.join(other for other in SCOPES if other != s)} {SECRETS[f'no-{s}']}" for s in SCOPES),
]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys, whose own client has the one that may do everything."""
    with serving(tmp_path_factory.mktemp("keyed"), api_keys=";\n".join(ENTRIES)) as running:
        running.client.headers["authorization"] = f"Bearer {SECRETS['all']}"
        running.create(name="mine")
        yield running


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Return the status, code and field of an error; the River API Spec's has neither code nor field."""
    if is_open_inference(answer.url.path):
        said = answer.json()
        return answer.status_code, said["code"], said["field"]
    if not is_river(answer.url.path):
        return native_error(answer)
    assert answer.json().keys() == {"message"}
    return answer.status_code, {401: "unauthorized", 403: "forbidden"}[answer.status_code], "model"


def ask(server: Server, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    """Ask as a stranger would; of an answer that is a stream only the head is waited for."""
    form = method == "DELETE" and body is not None
    with (
        httpx.Client(base_url=server.url, timeout=60.0) as client,
        client.stream(
            method, path, json=None if form else body, data=body if form else None, headers=headers
        ) as answer,
    ):
        if "content-length" in answer.headers:
            answer.read()
        return answer


@pytest.mark.parametrize("way", GUARDED, ids=str)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        SECRETS["all"],
        f"Basic {SECRETS['all']}",
        f"Bearer {SECRETS['all']}x",
        f"Bearer {SECRETS['all'][:-1]}",
        f"Bearer {SECRETS['all'].upper()}",
        f"Bearer {SECRETS['all']} {SECRETS['all']}",
        f"Bearer {hashlib.sha256(SECRETS['all'].encode()).hexdigest()}",
        f"Bearer sha256:{hashlib.sha256(SECRETS['all'].encode()).hexdigest()}",
        f"Bearer {SECRETS['old']}",
        "Bearer \N{LATIN SMALL LETTER E WITH ACUTE}",
    ],
)
def test_each_route_refuses_who_has_no_key(keyed: Server, way: Way, authorization: str | None) -> None:
    before = keyed.fingerprint()
    headers = {} if authorization is None else {"authorization": authorization}
    path, body = way.naming("default") or (way.path, way.body)
    with httpx.Client(base_url=keyed.url, timeout=60.0) as client:
        raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        answer = client.request(way.method, path, json=body, headers=raw)
    assert error(answer)[:2] == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert keyed.fingerprint() == before


@pytest.mark.parametrize("way", GUARDED, ids=str)
def test_each_route_refuses_its_missing_scope(keyed: Server, way: Way) -> None:
    before = keyed.fingerprint()
    path, body = way.naming("default") or (way.path, way.body)
    answer = ask(keyed, way.method, path, body, bearer(f"no-{way.access.scope}"))
    assert error(answer)[:2] == (403, "forbidden")
    assert f"scope {way.access.scope}" in answer.text
    assert keyed.fingerprint() == before


@pytest.mark.parametrize("way", GUARDED, ids=str)
@pytest.mark.parametrize("key", ["all", "later"])
def test_each_route_lets_its_scope_in(keyed: Server, way: Way, key: str) -> None:
    """To a model that is not there: what the route then says is its own business."""
    path, body = way.naming("nobody") or (way.path, way.body)
    assert ask(keyed, way.method, path, body, bearer(key)).status_code not in (401, 403)
    keyed.client.delete("/models/nobody")


@pytest.mark.parametrize("way", GUARDED, ids=str)
def test_no_route_needs_more_than_its_own_scope(keyed: Server, way: Way) -> None:
    path, body = way.naming("nobody") or (way.path, way.body)
    for other in set(SCOPES) - {way.access.scope}:
        assert ask(keyed, way.method, path, body, bearer(f"no-{other}")).status_code not in (401, 403)
    keyed.client.delete("/models/nobody")


@pytest.mark.parametrize("way", [way for way in PUBLIC if way.path != TOKEN], ids=str)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
def test_what_needs_no_key(keyed: Server, way: Way, headers: dict[str, str]) -> None:
    path = way.path.replace("{shard}", "0")
    assert ask(keyed, way.method, path, None, headers).status_code == 200


def test_the_routes_without_a_key_are_these() -> None:
    assert {way.path for way in PUBLIC} == {
        "/health/live", "/health/ready", "/health/owner/{shard}", "/health/replica", "/openapi.json",
        "/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css",
        "/api/", TOKEN, "/v2/health/live", "/v2/health/ready", *(route.path for route in dashboard.ROUTES),
    }  # fmt: skip


def test_every_route_is_about_models_in_a_way_that_is_tested() -> None:
    """A route names a model, lists those of the caller, or is about all: else this needs a new test."""
    rest = {str(way) for way in GUARDED if way not in NAMING and not way.access.whole_server}
    assert rest == LISTS


@pytest.mark.parametrize("way", NAMING, ids=str)
def test_a_key_for_some_models_is_for_no_other(keyed: Server, way: Way) -> None:
    before = keyed.fingerprint()
    answers = []
    for model in ("default", "nobody", "Mine", "mine2"):  # there or not there: the answer does not tell
        path, body = way.naming(model) or ("", None)
        answer = ask(keyed, way.method, path, body, bearer("mine"))
        assert error(answer) == (403, "forbidden", "model")
        answers.append(answer.text.replace(f"'{model}'", ""))
    assert len(set(answers)) == 1
    assert keyed.fingerprint() == before


@pytest.mark.parametrize("path", ["/learn", "/predict"])
def test_a_key_for_some_models_is_checked_on_each_line(keyed: Server, path: str) -> None:
    before = keyed.fingerprint()
    lines = b"".join(
        b'{"x": {"a": 1}, %s"model": "%s"}\n' % (b'"y": 1, ' if path == "/learn" else b"", model)
        for model in (b"mine", b"default", b"mine", b"nobody")
    )
    headers = {**bearer("mine"), "content-type": "application/x-ndjson"}
    answer = httpx.post(f"{keyed.url}{path}", content=lines, headers=headers, timeout=60)
    codes = [json.loads(line).get("error", {}).get("code") for line in answer.text.splitlines()]
    assert codes == [None, "forbidden", None, "forbidden"]
    assert keyed.fingerprint() == before


@pytest.mark.parametrize(
    "way", [way for way in NAMING if "{m}" not in way.path and not is_river(way.path)], ids=str
)
@pytest.mark.parametrize("named", [{}, {"model": None}])
def test_a_model_that_is_not_named_is_the_default_one(keyed: Server, way: Way, named: Json) -> None:
    body = {name: value for name, value in (way.body or {}).items() if name not in ("model", "name")}
    if way.path != "/models":
        body |= named
    assert error(ask(keyed, way.method, way.path, body, bearer("mine"))) == (403, "forbidden", "model")


@pytest.mark.parametrize("way", NAMING, ids=str)
def test_a_key_for_a_model_is_enough_for_it(keyed: Server, way: Way) -> None:
    path, body = way.naming("more") or ("", None)  # it may be made, but is not there
    assert ask(keyed, way.method, path, body, bearer("mine")).status_code not in (401, 403)
    keyed.client.delete("/models/more")


@pytest.mark.parametrize("way", [way for way in GUARDED if way.access.whole_server], ids=str)
def test_a_key_for_some_models_does_not_see_all(keyed: Server, way: Way) -> None:
    assert error(ask(keyed, way.method, way.path, way.body, bearer("mine")))[:2] == (403, "forbidden")


def test_a_list_has_the_models_of_the_key(keyed: Server) -> None:
    for name, seen in (("all", ["default", "mine"]), ("mine", ["mine"])):
        listed = ask(keyed, "GET", "/models", None, bearer(name)).json()["models"]
        assert [model["name"] for model in listed] == seen


def test_readiness_names_no_model(keyed: Server) -> None:
    """It needs no key, so it must not tell what a key is needed for."""
    with keyed.held("mine"):
        answer = ask(keyed, "GET", "/health/ready", None, {})
    assert error(answer) == (503, "not_ready", None)
    assert "mine" not in answer.text


def test_the_scheme_is_written_as_one_likes(keyed: Server) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"authorization": f"{scheme} {SECRETS['all']}"}
        assert ask(keyed, "GET", "/models", None, headers).status_code == 200


def test_the_document_says_which_scope_each_operation_needs(keyed: Server) -> None:
    document = keyed.get("/openapi.json")
    assert [scheme["scheme"] for scheme in document["components"]["securitySchemes"].values()] == ["bearer"]
    (scheme,) = document["components"]["securitySchemes"]
    for way in WAYS:
        operation = document["paths"].get(way.path, {}).get(way.method.lower())
        if operation is None:
            assert way in PUBLIC
            continue
        scopes = [] if way.access.scope is None else [{scheme: [way.access.scope]}]
        assert operation["security"] == scopes
        assert {"401", "403"} <= operation["responses"].keys() or way in PUBLIC
        refused = {str(row(way.access.otherwise).status)} if way.access.takes else set()
        assert refused <= operation["responses"].keys()
        assert ("415" in operation["responses"]) == bool(way.access.takes)  # for the encoding of the body


#: Routes without a body.
BARE = [way for way in WAYS if not way.access.takes]


@pytest.mark.parametrize("way", BARE, ids=str)
def test_a_route_without_a_body_accepts_an_empty_object(keyed: Server, way: Way) -> None:
    path, headers = re.sub(r"{[^}]*}", "1", way.path), bearer("all")
    expected = ask(keyed, way.method, path, None, headers).status_code
    assert expected not in (415, 422)
    typed = {**headers, "content-type": "application/json"}
    with httpx.Client(base_url=keyed.url, timeout=60.0) as client:
        for raw in (b"{}", b" { }\n", b"\xef\xbb\xbf{}", b" "):
            with client.stream(way.method, path, content=raw, headers=typed) as answer:
                assert answer.status_code == expected, raw
        for raw, status in ((b'{"kept": true}', 422), (b"[]", 422), (b"{", 400)):
            with client.stream(way.method, path, content=raw, headers=typed) as answer:
                assert answer.status_code == status, raw
        with client.stream(way.method, path, content=b"{}", headers=headers) as answer:
            assert answer.status_code == 415  # pages of other origins can send bodies of other types


def test_an_unexpected_field_is_named(keyed: Server) -> None:
    answer = keyed.client.post("/models/mine/upgrade", json={"kept": True})
    assert error(answer) == (422, "unknown_field", "kept")
    assert answer.json()["error"]["message"] == (
        "'kept' is not a field of this route, which has none: send no body, or an empty JSON object"
    )
    assert keyed.client.post("/models/mine/checkpoints", json={}).status_code == 201


async def undeclared(request: Any) -> Any:
    """Say nothing of who may use it."""


def test_a_route_that_does_not_say_who_may_use_it_cannot_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(UndeclaredRouteError, match="undeclared"):
        router.get("/")(undeclared)
    with pytest.raises(UndeclaredRouteError, match="undeclared"):
        PlainRoute("/", undeclared, ["GET"])


def test_an_application_with_an_unguarded_route_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    @needs("admin")
    async def declared(request: Any) -> Any:
        """Say who may use it, on a route that does not ask."""

    router = APIRouter()
    router.get("/plain")(declared)
    for route in (Route("/plain", declared), *router.routes):
        monkeypatch.setattr(health, "ROUTES", [route])
        with pytest.raises(UndeclaredRouteError, match="guard"):
            create_app(Settings())
