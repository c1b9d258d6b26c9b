"""Clients that send requests without reading the answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from tests.support.running import Server
from tests.support.server_process import wait_until
from tests.support.wire import chunked, connected, everything, request, responses

BUNDLE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


def others(server: Server) -> int:
    """Number of connections beside that of the test's own client."""
    server.client.close()
    return len(server.connections)


def send_until_blocked(connection: socket.socket, block: bytes, most: int) -> int:
    """Send copies of a block until the server reads no more; return the number of bytes."""
    sent = 0
    connection.settimeout(1.0)
    try:
        while sent < most:
            sent += connection.send(block)
    except TimeoutError:
        pass
    connection.settimeout(60)
    return sent


@pytest.mark.parametrize(
    "block",
    [
        LIVE * 500,
        b"GET / HTTP/1.1\r\n\r\n" * 2000,
        request("/learn", b" " * 5000) * 20,
        chunked("/learn", *[b" " * 2000] * 20) * 5,
    ],
    ids=["get", "short", "body", "chunks"],
)
def test_requests_that_wait_for_an_answer_are_limited(serve: Callable[..., Server], block: bytes) -> None:
    server = serve()
    with server.held(), connected(server, receive_buffer=4096) as connection:
        connection.sendall(request("/learn", b'{"x": {"a": 1}, "y": 1}'))
        most = 30_000_000
        assert send_until_blocked(connection, block, most) < most
        (protocol,) = [each for each in server.connections if each._waiting]
        assert len(protocol._waiting) < 150
        assert len(protocol._unparsed) < 300_000
        assert protocol._transport.get_write_buffer_size() < 300_000
    wait_until(lambda: others(server) == 0)


def test_many_requests_at_once_are_answered_in_order(server: Server) -> None:
    step = server.fingerprint()["step"]
    with connected(server) as connection:
        connection.sendall(
            b"".join(
                request("/learn", b'{"x": {"a": %d}, "y": 1}' % i, **{"x-request-id": f"id-{i}"})
                for i in range(1000)
            )
            + b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        *learned, last = responses(everything(connection))
    assert [each.json["step"] for each in learned] == list(range(step + 1, step + 1001))
    assert [each.headers["x-request-id"] for each in learned] == [f"id-{i}" for i in range(1000)]
    assert last.headers["connection"] == "close"


UNREAD = {
    "files": 4 * BUNDLE,
    "document": b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 60,
    "errors": b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20_000,
    "export": b"GET /models/default/export HTTP/1.1\r\nhost: localhost\r\n\r\n" * 60,
    "lines": chunked("/learn", *[b'{"x": {}}\n' * 1000] * 60),
    "malformed": 4 * BUNDLE + b"no HTTP\r\n\r\n",
}


def send_unread(connection: socket.socket, sent: bytes) -> None:
    connection.settimeout(0.5)
    with suppress(TimeoutError):
        connection.sendall(sent)


@pytest.mark.parametrize("sent", UNREAD.values(), ids=UNREAD)
def test_a_client_that_does_not_read_is_disconnected(serve: Callable[..., Server], sent: bytes) -> None:
    server = serve(stream_timeout=0.5, receive_timeout=2)
    with connected(server, receive_buffer=2048) as connection:
        send_unread(connection, sent)
        wait_until(lambda: others(server) == 0)


def test_a_refused_client_that_does_not_read_is_disconnected(serve: Callable[..., Server]) -> None:
    """It may go on sending for a moment, so that it can read the refusal."""
    server = serve(max_connections=1, receive_timeout=30)
    server.client.close()
    with connected(server), connected(server, receive_buffer=2048) as refused:
        refused.sendall(request("/learn", b" " * 1000)[:-500])
        wait_until(lambda: len(server.connections) == 1)
        assert responses(everything(refused))[0].status == 503


def test_a_client_that_reads_slowly_is_served(serve: Callable[..., Server]) -> None:
    server = serve(stream_timeout=0.6)
    received = 0
    with connected(server, receive_buffer=2048) as connection:
        connection.sendall(4 * BUNDLE + BUNDLE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        start = time.monotonic()
        raw = bytearray()
        while time.monotonic() - start < 3:
            raw += connection.recv(4096)
            time.sleep(0.05)
        received = len(raw)
        raw += everything(connection)
    found = responses(bytes(raw))
    assert received < len(raw) // 2
    assert [(each.status, each.complete) for each in found] == [(200, True)] * 5


def test_a_shutdown_does_not_wait_for_clients_that_do_not_read(serve: Callable[..., Server]) -> None:
    server = serve(stream_timeout=0.5, shutdown_timeout=250)
    with ExitStack() as stack:
        for _ in range(10):
            send_unread(stack.enter_context(connected(server, receive_buffer=2048)), 4 * BUNDLE)
        server.client.close()
        server.ask_to_stop()
        start = time.monotonic()
        server.join()
        assert time.monotonic() - start < 60
