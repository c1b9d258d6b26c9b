"""What ends a connection: half-closed clients, unexpected errors, and a server without file descriptors."""

from __future__ import annotations

import errno
import gzip
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.auth.guard import PlainRoute
from service.auth.scopes import needs
from tests.support.running import Server, error
from tests.support.server_process import restartable, wait_until
from tests.support.wire import answers, chunked, connected, everything, request, responses

SAMPLE = b'{"x": {"a": 1}, "y": 1}'


def get(path: str, **headers: str) -> bytes:
    lines = {"host": "localhost", **headers}
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode()


def test_a_half_closed_client_gets_its_answers(serve: Callable[..., Server]) -> None:
    """Also where they take longer than the rest of the request."""
    server = serve()
    server.client.close()
    with connected(server) as connection:
        with server.held():
            connection.sendall(2 * request("/learn", SAMPLE) + chunked("/learn", 2 * (SAMPLE + b"\n")))
            connection.shutdown(socket.SHUT_WR)
            server.wait_for_queue(2)
        found = responses(everything(connection))
    assert [each.status for each in found] == [200] * 3
    assert found[1].json["step"] == 2
    assert [line["step"] for line in found[2].lines] == [3, 4]
    wait_until(lambda: not server.connections)


@pytest.mark.parametrize(
    "path", ["/models/default/export", "/docs/swagger-ui-bundle.js", "/openapi.json", "/metrics", "/nowhere"]
)
def test_a_half_closed_client_gets_a_whole_file(server: Server, path: str) -> None:
    whole = server.client.get(path)
    (found,) = answers(server, [get(path)])
    assert found.status == whole.status_code
    assert found.complete
    assert path == "/metrics" or len(found.body) == len(whole.content)


def test_a_half_closed_client_holds_no_connection(serve: Callable[..., Server]) -> None:
    server = serve()
    server.client.close()
    for sent in (
        b"",
        b"GET /mod",
        get("/events"),
        get("/models") + b"POST /lea",
        request("/learn", SAMPLE)[:-3],
    ):
        with connected(server) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            everything(connection)
            wait_until(lambda: not server.connections)


@needs(None)
async def fail(request: Request) -> Response:
    raise ValueError("this route fails")


@needs(None)
async def fail_half_way(request: Request) -> Response:
    async def parts() -> object:
        yield b"begun"
        raise ValueError("this route fails")

    return StreamingResponse(parts())  # type: ignore[arg-type]  # an asynchronous generator


@pytest.fixture
def failing(serve: Callable[..., Server]) -> Server:
    """A server with a route that fails, and one that fails while it responds."""
    server = serve()
    server.app.router.routes.insert(0, PlainRoute("/fail", fail, ["GET"]))
    server.app.router.routes.insert(0, PlainRoute("/half", fail_half_way, ["GET"]))
    return server


def test_an_unexpected_error_does_not_reset_the_next_request(failing: Server) -> None:
    with connected(failing) as connection:
        for _ in range(2):
            connection.sendall(get("/fail"))
            assert connection.recv(65536).startswith(b"HTTP/1.1 500 ")
        connection.sendall(get("/fail") + request("/learn", SAMPLE) + get("/fail", connection="close"))
        first, learned, last = responses(everything(connection))
    assert (first.status, learned.status, last.status) == (500, 200, 500)
    assert first.json["error"]["code"] == "internal_error"


def test_an_error_half_way_ends_the_response_visibly(failing: Server) -> None:
    with connected(failing) as connection:
        connection.sendall(get("/half") + get("/models"))
        (found,) = responses(everything(connection))
    assert found.body == b"begun"
    assert not found.complete


def test_a_head_request_has_no_body(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(get("/docs").replace(b"GET", b"HEAD", 1))
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"content-length:" in answer
        assert answer.endswith(b"\r\n\r\n")
        connection.sendall(get("/docs", connection="close"))
        assert responses(everything(connection))[0].complete


def test_a_client_of_http_1_0_gets_no_chunks(serve: Callable[..., Server]) -> None:
    server = serve()
    stream = request("/learn", 3 * (SAMPLE + b"\n"), **{"content-type": "application/x-ndjson"})
    with connected(server) as connection:
        connection.sendall(stream.replace(b"HTTP/1.1", b"HTTP/1.0"))
        (found,) = responses(everything(connection))
    assert "transfer-encoding" not in found.headers
    assert found.headers["connection"] == "close"
    assert [line["step"] for line in found.lines] == [1, 2, 3]


def test_a_client_may_wait_for_100_continue(server: Server) -> None:
    step = server.fingerprint()["step"]
    head, _, body = request("/learn", SAMPLE, expect="100-continue").partition(b"\r\n\r\n")
    with connected(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body + head + b"\r\n\r\n" + body + get("/models", connection="close"))
        first, second, _ = responses(everything(connection))
    assert [each.json["step"] for each in (first, second)] == [step + 1, step + 2]


def test_a_refusal_before_100_continue_ends_the_connection(server: Server) -> None:
    """The client may leave the body out, so the next bytes would be ambiguous."""
    head = request("/nowhere", SAMPLE, expect="100-continue").partition(SAMPLE)[0]
    with connected(server) as connection:
        connection.sendall(head)
        (refused,) = responses(everything(connection))
    assert refused.status == 404
    assert refused.headers["connection"] == "close"


def test_a_server_without_descriptors_answers_503(tmp_path: Path) -> None:
    with restartable(tmp_path / "data", BNP_CHECKPOINT_EVERY="20") as server:
        client = server.start()
        server.running.process.poll()
        pid = server.running.process.pid
        for i in range(50):
            client.post("/learn", json={"x": {"a": i}, "y": i % 2, "id": f"{i}"}).raise_for_status()

        def limit(most: int) -> None:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, 4096))

        limit(3)
        for method, path, body in (
            ("GET", "/docs", None),
            ("GET", "/models/default/checkpoints", None),
            ("POST", "/models/default/checkpoints", None),
            ("POST", "/models/default/rollback", {"step": 5}),
            ("POST", "/models/default/forget", {"ids": ["3"]}),
        ):
            answer = client.request(method, path, json=body)
            assert error(answer)[:2] in ((503, "out_of_descriptors"), (503, "storage_failed")), path
        with pytest.raises(httpx.TransportError):  # it cannot be accepted
            httpx.get(f"{client.base_url}/health/live", timeout=2)
        for i in range(50):
            answer = client.post("/learn", json={"x": {"a": i}, "y": i % 2})
            assert answer.status_code == 200, answer.text
        limit(4096)
        assert client.get("/docs").status_code == 200
        assert client.post("/models/default/checkpoints").status_code == 201
        assert client.post("/models/default/forget", json={"ids": ["3"]}).status_code < 300
        assert httpx.get(f"{client.base_url}/health/ready", timeout=30).status_code == 200
        server.terminate()
        log = "".join(server.running.lines)
    assert os.strerror(errno.EMFILE).lower() in log.lower()
    assert "Traceback" not in log
    assert len(log.splitlines()) < 60


LINE = SAMPLE + b"\n"


def begun(path: str, first: bytes, **headers: str) -> bytes:
    """Return a head, and the first part of a body of unknown length."""
    whole = chunked(path, first, **headers)
    assert whole.endswith(b"0\r\n\r\n")
    return whole[: -len(b"0\r\n\r\n")]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (begun("/learn", LINE, **{"content-type": "text/html"}), 415),
        (begun("/learn", LINE, **{"content-encoding": "gzip"}), 400),
        (begun("/nowhere", LINE), 404),
        (request("/nowhere", b"x" * 100_000)[:500], 404),
        (request("/learn", b"x" * 50_000_000)[:500], 413),
    ],
)
def test_an_answer_amid_a_long_body_announces_that_the_connection_ends(
    server: Server, sent: bytes, status: int
) -> None:
    """A client would else use it for its next request, which the close would reset."""
    with connected(server) as connection:
        connection.sendall(sent)
        (refused,) = responses(everything(connection))  # the server ends its half
        assert (refused.status, refused.headers["connection"]) == (status, "close")
        for _ in range(50):  # the rest of the body, without a reset
            connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert connection.recv(1) == b""


def test_an_answer_amid_a_short_body_keeps_the_connection(server: Server) -> None:
    body = b"x" * 5000
    sent = request("/nowhere", body)
    with connected(server) as connection:
        connection.sendall(sent[:-4000])
        first = connection.recv(65_536)
        while b"}}" not in first:
            first += connection.recv(65_536)
        connection.sendall(body[-4000:] + get("/models", connection="close"))
        (refused,), (listed,) = responses(first), responses(everything(connection))
    assert (refused.status, refused.headers.get("connection")) == (404, None)
    assert listed.status == 200


def test_a_stream_that_ends_before_its_body_announces_that_the_connection_ends(
    serve: Callable[..., Server],
) -> None:
    server = serve(stream_timeout=0.2)
    with connected(server) as connection:
        connection.sendall(begun("/learn", LINE[:5]))
        (found,) = responses(everything(connection))
    assert found.headers["connection"] == "close"
    assert found.lines[0]["error"]["code"] == "stream_timeout"


def test_a_stream_that_fails_at_its_end_keeps_the_connection(server: Server) -> None:
    """Its whole body has arrived, so the next request is clear."""
    step = server.fingerprint()["step"]
    sent = begun("/learn", gzip.compress(LINE), **{"content-encoding": "gzip"})
    with connected(server) as connection:
        connection.sendall(sent)
        first = connection.recv(65_536)
        while b'"step"' not in first:
            first += connection.recv(65_536)
        damaged = b"9\r\nnot gzip!\r\n0\r\n\r\n"
        connection.sendall(damaged + request("/learn", SAMPLE) + get("/models", connection="close"))
        stream, learned, listed = responses(first + everything(connection))
    assert stream.complete
    assert [each.get("step") for each in stream.lines] == [step + 1, None]
    assert stream.lines[1]["error"]["code"] == "invalid_encoding"
    assert learned.json["step"] == step + 2
    assert listed.status == 200
