"""A server without keys serves its own machine, and no page elsewhere can drive it; what its own may do."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from tests.support.running import Server, error

X = b'{"x": {"a": 1}, "y": 1}'
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.2", "a b"]
)
def test_a_server_without_keys_refuses_other_hosts(server: Server, host: str) -> None:
    before = server.fingerprint()
    for method, path in (("POST", "/learn"), ("GET", "/models"), ("GET", "/docs"), ("GET", "/health/live")):
        body = X if method == "POST" else None
        answer = server.client.request(method, path, content=body, headers={**JSON, "host": host})
        assert error(answer)[:2] == (403, "unknown_host")
    assert server.fingerprint() == before


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8000", "[::1]"])
def test_it_answers_to_the_names_of_its_machine(server: Server, host: str) -> None:
    assert server.client.get("/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://"]
)
def test_a_server_without_keys_refuses_pages_of_other_origins(server: Server, origin: str) -> None:
    before = server.fingerprint()
    answer = server.client.post("/learn", content=X, headers={**JSON, "origin": origin})
    assert error(answer)[:2] == (403, "foreign_origin")
    assert "access-control-allow-origin" not in answer.headers
    assert server.fingerprint() == before


def test_of_two_headers_the_first_counts_for_all(server: Server) -> None:
    """What is checked is what is used."""
    lines = b'{"x": {"a": 1}}\n{"x": {"a": 2}}\n'
    kinds = [("content-type", "application/x-ndjson"), ("content-type", "text/plain")]
    answer = server.client.post("/predict", content=lines, headers=kinds)
    assert answer.status_code == 200
    assert len(answer.text.splitlines()) == 2
    refused = server.client.post("/predict", content=lines, headers=kinds[::-1])
    assert error(refused)[:2] == (415, "unsupported_media_type")


def test_its_own_pages_may_call_it(server: Server) -> None:
    answer = server.client.post("/predict", content=b'{"x": {}}', headers={**JSON, "origin": server.url})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a",
     "text/plain; application/json", "application/jsonp"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/learn", "/predict", "/label", "/models", "/models/default/forget"])
def test_a_body_needs_the_type_that_its_route_takes(server: Server, path: str, kind: str | None) -> None:
    before = server.fingerprint()
    headers = {} if kind is None else {"content-type": kind}
    assert error(server.client.post(path, content=X, headers=headers))[:2] == (415, "unsupported_media_type")
    assert server.fingerprint() == before


def test_other_origins_and_hosts_may_be_named(serve: Callable[..., Server]) -> None:
    server = serve(cors_origins=("https://a.example",), allowed_hosts=("proxy.example",))
    headers = {**JSON, "origin": "https://a.example", "host": "proxy.example"}
    answer = server.client.post("/learn", content=X, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    refused = server.client.post("/learn", content=X, headers={**headers, "origin": "https://b.example"})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def test_every_answer_has_an_id_and_is_never_taken_for_another_type(server: Server) -> None:
    for path in ("/models", "/nowhere", "/docs", "/metrics"):
        headers = server.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"]
    assert (
        server.client.get("/models", headers={"x-request-id": "mine-7"}).headers["x-request-id"] == "mine-7"
    )
    assert server.client.get("/models", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


@pytest.mark.parametrize(("path", "files"), [("/", 4), ("/docs", 3)])
def test_the_pages_need_no_network(server: Server, path: str, files: int) -> None:
    page = server.client.get(path)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert page.headers["x-frame-options"] == "DENY"
    loaded = re.findall(r'<(?:link|script)[^>]* (?:src|href)="([^"]+)"', page.text)  # a link is not loaded
    loaded = [address for address in loaded if not address.startswith("data:")]
    assert len(loaded) == files
    for address in loaded:
        found = httpx.get(f"{server.url}/{address}", timeout=60)
        assert found.status_code == 200
        assert found.headers["content-type"].startswith(
            ("text/css", "text/javascript", "application/javascript")
        )
