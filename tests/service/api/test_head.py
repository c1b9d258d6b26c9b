"""HEAD: every route that answers GET answers HEAD, with the same headers and without a body."""

from __future__ import annotations

import http.client
from contextlib import closing

import pytest
from starlette.routing import Route

from service.app import create_app
from tests.support.running import Server

STREAMS = ("/events", "/api/stream/events/", "/api/stream/metrics/")
#: Headers that differ between two responses, and those of the content of a stream or of a varying body.
VARYING = {"date", "x-request-id", "content-length"}


def routes_that_answer_get() -> list[str]:
    routes = [route for route in create_app().routes if isinstance(route, Route)]
    return [route.path for route in routes if "GET" in (route.methods or ())]


def headers_of(server: Server, method: str, path: str) -> tuple[int, dict[str, str]]:
    query = "?model=default" if path.startswith(("/api/metrics", "/api/stats")) else ""
    with server.client.stream(method, path.replace("{m}", "default") + query) as answer:
        return answer.status_code, dict(answer.headers)


@pytest.mark.parametrize("path", routes_that_answer_get())
def test_head_is_answered_with_the_headers_of_get(server: Server, path: str) -> None:
    status, headers = headers_of(server, "HEAD", path)
    expected_status, expected = headers_of(server, "GET", path)
    expected.pop("transfer-encoding", None)  # of the body
    assert status == expected_status
    assert headers.keys() == expected.keys()
    assert {name: headers[name] for name in headers.keys() - VARYING} == {
        name: expected[name] for name in expected.keys() - VARYING
    }


@pytest.mark.parametrize("path", ["/", "/metrics", "/openapi.json", "/models/default", "/nowhere", *STREAMS])
def test_head_has_no_body_and_the_connection_stays_open(server: Server, path: str) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=60)) as connection:
        connection.request("HEAD", path)
        assert connection.getresponse().read() == b""
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b'{"status":"alive"}'


def test_head_of_a_route_without_get_is_refused(server: Server) -> None:
    answer = server.client.head("/learn")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
