"""Small HTTP client on asyncio streams, for load generation."""

from __future__ import annotations

import asyncio
import json
from typing import Any


class Connection:
    """Persistent connection.

    Parameters
    ----------
    host, port : str, int
        Address of the server.

    Attributes
    ----------
    fields : dict of bytes to bytes
        Headers of the last answer to `post`, in lower case.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.fields: dict[bytes, bytes] = {}

    async def post(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """Send a request; return the status and the body of the answer."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None  # noqa: S101 (opened together)
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, fields = _parse(head)
        self.fields = fields
        if fields.get(b"transfer-encoding") == b"chunked":
            content = await self._read_chunks()
        else:
            content = await self._reader.readexactly(int(fields.get(b"content-length", b"0")))
        if fields.get(b"connection") == b"close":
            await self.close()
        return status, content

    async def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        head = f"GET {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    async def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()
        self._reader = self._writer = None

    async def _read_chunks(self) -> bytes:
        assert self._reader is not None  # noqa: S101 (the head was read)
        chunks: list[bytes] = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            chunks.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return b"".join(chunks)


def _parse(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head[:-4].split(b"\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines)
    return int(first.split(b" ", 2)[1]), fields
