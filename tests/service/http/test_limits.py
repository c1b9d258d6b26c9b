"""How much of the server one client may take, and what the log says of it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.http.request_parser import LONGEST_HEAD
from service.telemetry.logs import JsonFormatter, TextFormatter
from tests.support.running import Server, error, head
from tests.support.server_process import end, process

SECRET = "a-key-that-nobody-may-ever-read-1234"  # noqa: S105 (of a server that this test starts)


def connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=60)


def everything(connection: socket.socket) -> bytes:
    """Return what comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("begun", [b"", b"POST /learn HT", b"POST /learn HTTP/1.1\r\nhost: localhost\r\n"])
def test_a_slow_head_is_cut_off(serve: Callable[..., Server], begun: bytes) -> None:
    server = serve(receive_timeout=0.2)
    with connect(server) as connection:
        connection.sendall(begun)
        assert everything(connection) == b""
    assert server.learn({"a": 1}, 1)["step"] == 1


def test_a_slow_body_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(receive_timeout=0.2)
    for path in ("/learn", "/predict", "/label", "/models", "/models/default/rollback"):
        with connect(server) as connection:
            connection.sendall(head(path, 500) + b'{"x": ')
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 408 "), path
        assert b"body_timeout" in answer
    assert server.fingerprint()["step"] == 0


def test_a_stream_may_be_slower_than_a_body(serve: Callable[..., Server]) -> None:
    server = serve(receive_timeout=0.2)
    lines = b'{"x": {"a": 1}, "y": 1}\n'
    kind = {"content-type": "application/x-ndjson"}
    with connect(server) as connection:
        connection.sendall(head("/learn", 2 * len(lines), **kind) + lines)
        while server.fingerprint()["step"] == 0:
            pass
        with connect(server) as idle:  # as long as it takes for a head to be late
            assert everything(idle) == b""
        connection.sendall(lines)
        while server.fingerprint()["step"] < 2:
            pass


def test_a_long_head_is_refused(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /models HTTP/1.1\r\nhost: localhost\r\nlong: " + b"x" * LONGEST_HEAD + b"x")
        assert everything(connection).startswith(b"HTTP/1.1 400 ")


def test_connections_are_limited(serve: Callable[..., Server]) -> None:
    server = serve(max_connections=3)
    server.client.close()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(server)).sendall(b"GET /")
        while len(server.connections) < 3:
            pass
        answer = httpx.get(f"{server.url}/models", timeout=60)
        assert error(answer)[:2] == (503, "too_many_connections")
        assert answer.headers["retry-after"]
    while server.connections:
        pass
    assert httpx.get(f"{server.url}/models", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "sample",
    [
        {"x": {"a": "v" * 11}, "y": 1},
        {"x": {"n" * 11: 1}, "y": 1},
        {"x": {"a": 1, "n" * 11: None}, "y": 1},
        {"x": {"a": 1}, "y": "l" * 11},
    ],
)
def test_strings_are_limited(serve: Callable[..., Server], sample: dict[str, object]) -> None:
    server = serve(max_string_length=10)
    assert error(server.client.post("/learn", json=sample))[:2] == (422, "string_too_long")
    assert server.fingerprint()["step"] == 0
    assert server.learn({"n" * 10: "v" * 10}, "l" * 10)["step"] == 1


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_what_an_exception_says_is_not_in_the_log(formatter: logging.Formatter) -> None:
    """It may quote the request that caused it."""
    try:
        try:
            int("payload")
        except ValueError as error:
            raise ExceptionGroup("payload", [KeyError("payload"), error]) from error
    except ExceptionGroup as group:
        raised = group
    record = logging.LogRecord(
        "service", logging.ERROR, "file", 1, "failed", (), (type(raised), raised, None)
    )
    line = formatter.format(record)
    assert "ValueError" in line
    assert "KeyError" in line
    assert "test_limits.py" in line
    assert ": payload" not in line
    assert "'payload'" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_in_the_log(tmp_path: Path, form: str) -> None:
    """At the level that says most of the requests; the payload is in bodies, ids, paths and queries."""
    settings = {"BNP_API_KEYS": f"me learn,read {SECRET}", "BNP_LOG_LEVEL": "debug", "BNP_LOG_FORMAT": form}
    with process(tmp_path, **settings) as running:
        url = running.ready()
        for key in (SECRET, f"{SECRET}-wrong"):
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
                client.post("/learn", json={"x": {"payload": "payload"}, "y": "payload", "id": "payload"})
                client.post("/learn", content=b'{"payload')
                client.get("/models/payload?payload=payload")
                client.get("/payload")
        out, err = end(running)
    assert out == ""
    assert "answered" in err
    assert "/learn" in err
    assert "payload" not in err
    assert SECRET not in err


@pytest.mark.parametrize(
    "body",
    [
        b"{%b}" % b",".join(b'"%d":1' % i for i in range(80_000)),
        b'{"hidden":[%b""]}' % (b'"",' * 300_000),
    ],
    ids=["unknown fields", "invalid values"],
)
def test_a_body_with_very_many_errors_is_refused_by_their_number(server: Server, body: bytes) -> None:
    """The description of each error would stop the event loop for seconds."""
    answer = server.client.post("/models", content=body, headers={"content-type": "application/json"})
    assert error(answer) == (422, "invalid_spec", None)
    assert "invalid or unknown values" in answer.json()["error"]["message"]
