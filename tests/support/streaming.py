"""Client that sends and reads lines at the same time."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types

from tests.support.running import Json, Server

NDJSON = "application/x-ndjson"


class Stream:
    """Request with a chunked body over its own connection."""

    def __init__(self, server: Server, path: str, receive_buffer: int | None) -> None:
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        self._connection.sock = socket.socket()
        self._connection.sock.settimeout(60)
        if receive_buffer is not None:  # before it connects: the window follows from it
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._connection.sock.connect((server.host, server.port))
        self._connection.putrequest("POST", path)
        self._connection.putheader("Content-Type", NDJSON)
        self._connection.putheader("Transfer-Encoding", "chunked")
        self._connection.endheaders()
        self._response: http.client.HTTPResponse | None = None

    @property
    def socket(self) -> socket.socket:
        found: socket.socket = self._connection.sock
        return found

    @property
    def response(self) -> http.client.HTTPResponse:
        """Head of the response; it arrives with the first line."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def send(self, *lines: Json | bytes) -> None:
        """Send samples, or raw bytes, as one chunk."""
        raw = b"".join(written(line) for line in lines)
        self._connection.send(b"%x\r\n%b\r\n" % (len(raw), raw))

    def end(self) -> None:
        self._connection.send(b"0\r\n\r\n")

    def read(self) -> Json:
        answer: Json = json.loads(self.response.readline())
        return answer

    def rest(self) -> list[Json]:
        """Read the rest of the response."""
        return [json.loads(line) for line in self.response.read().splitlines()]

    def close(self) -> None:
        self._connection.close()


@contextmanager
def streaming(server: Server, path: str = "/learn", receive_buffer: int | None = None) -> Iterator[Stream]:
    stream = Stream(server, path, receive_buffer)
    try:
        yield stream
    finally:
        stream.close()


def written(line: Json | bytes) -> bytes:
    return line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"


def post_lines(server: Server, lines: Sequence[Json | bytes], path: str = "/learn") -> list[Json]:
    """Send a whole stream, and return its answers."""
    content = b"".join(written(line) for line in lines)
    answer = server.client.post(path, content=content, headers={"Content-Type": NDJSON})
    return answers(answer)


def answers(answer: httpx.Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == NDJSON
    return [json.loads(line) for line in answer.content.splitlines()]


def refusals(lines: list[Json]) -> dict[int, Any]:
    """Codes of the error lines by line number."""
    return {line["line"]: line["error"]["code"] for line in lines if "error" in line}


def arrow_stream(table: Any, rows: int | None = None, **options: Any) -> bytes:
    """Return a table as a stream of Arrow with a number of rows in each batch."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()
