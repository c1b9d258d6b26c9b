"""Requests and responses as bytes on a socket."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from tests.support.running import Json, Server, head
from tests.support.streaming import NDJSON


@dataclass(frozen=True)
class Response:
    """A response; `complete` is whether all that its head announces follows."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Json]:
        return [json.loads(line) for line in self.body.splitlines()]


class _Received(io.BytesIO):
    """Received bytes, as `http.client` reads them from a socket."""

    def makefile(self, mode: str) -> _Received:
        return self

    def close(self) -> None:
        """A response ends; the next one follows."""


def responses(raw: bytes) -> list[Response]:
    """Return the responses in bytes."""
    received, found = _Received(raw), []
    while received.tell() < len(raw):
        response = http.client.HTTPResponse(cast(socket.socket, received))
        response.begin()
        try:
            body, complete = response.read(), True
        except http.client.IncompleteRead as incomplete:
            body, complete = incomplete.partial, False
        headers = {name.lower(): value for name, value in response.getheaders()}
        found.append(Response(response.status, headers, body, complete))
    return found


def request(path: str, body: bytes, **headers: str) -> bytes:
    return head(path, len(body), **headers) + body


def chunked(path: str, *parts: bytes, **headers: str) -> bytes:
    """Return a request with a stream of lines."""
    lines = {"host": "localhost", "content-type": NDJSON, "transfer-encoding": "chunked", **headers}
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n".encode() + chunks + b"0\r\n\r\n"


@contextmanager
def connected(server: Server, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        connection.settimeout(60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:  # before it connects: the window follows from it
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect((server.host, server.port))
        yield connection


def everything(connection: socket.socket) -> bytes:
    """Return what arrives until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def answers(server: Server, pieces: Sequence[bytes]) -> list[Response]:
    """Send pieces, end the sending side of the connection, and return all responses."""
    with connected(server) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return responses(everything(connection))
