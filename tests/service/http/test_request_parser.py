"""Requests that the parser finds in bytes, whatever the pieces in which they arrive."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from service.http.request_parser import InvalidRequestError, RequestParser


@dataclass
class Found:
    """A request."""

    target: str
    method: str
    keep_alive: bool
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = False

    def add_body(self, part: bytes, last: bool) -> None:
        assert not self.complete
        self.body += part
        self.complete = last


@dataclass
class Requests:
    """Record of the requests."""

    found: list[Found] = field(default_factory=list)
    error: str | None = None

    def begin(self, scope: Scope, keep_alive: bool, expects_continue: bool) -> Found:
        self.found.append(Found(scope["path"], scope["method"], keep_alive, scope["headers"]))
        return self.found[-1]


def parse(*parts: bytes) -> Requests:
    """Return the requests in bytes that arrive in these parts."""
    requests = Requests()
    parser = RequestParser(requests.begin)
    try:
        for part in parts:
            assert parser.feed(part) == b""
    except InvalidRequestError as error:
        requests.error = str(error)
    return requests


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


UPGRADES = [
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Version: 13\r\n",
    "Connection: close, Upgrade\r\nUpgrade: foo\r\n",
    "connection: upgrade\r\nupgrade: TLS/1.0, HTTP/2\r\n",
    "Upgrade: h2c\r\n",
    "Connection: Upgrade\r\n",
    "",
]

bodies = st.binary(max_size=6) | st.just(b"GET /smuggled HTTP/1.1\r\n\r\n") | st.just(b"x" * 5000)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a request and its body."""
    upgrade = draw(st.sampled_from(UPGRADES)).encode()
    body = draw(bodies)
    form = draw(st.sampled_from(["none", "length", "chunks"]))
    if form == "none":
        return b"GET /a HTTP/1.1\r\nHost: h\r\n" + upgrade + b"\r\n", b""
    if form == "length":
        head = b"POST /a HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (upgrade, len(body))
        return head + body, body
    cut = draw(st.integers(0, len(body)))
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
    head = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + upgrade + b"\r\n"
    return head + chunks + b"0\r\nTrailer: x\r\n\r\n", body


@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0), max_size=8))
def test_the_pieces_do_not_matter(sent: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join(raw for raw, _ in sent)
    found = parse(*split(data, cuts))
    assert found == parse(data)
    assert found.error is None
    assert [each.body for each in found.found] == [body for _, body in sent]
    assert all(each.complete for each in found.found)
    heads = [raw.partition(b"\r\n\r\n")[0] for raw, _ in sent]
    assert [each.keep_alive for each in found.found] == [b"close" not in head for head in heads]


@given(requests())
def test_every_byte_may_arrive_alone(sent: tuple[bytes, bytes]) -> None:
    raw, body = sent
    (found,) = parse(*(raw[i : i + 1] for i in range(len(raw)))).found
    assert found.complete
    assert found.body == body


lines = st.sampled_from(
    [
        b"Content-Length: 3\r\n",
        b"Content-Length: 4\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length : 3\r\n",
        b"Content-Length:\r\n 3\r\n",
        b"Content-Length: 3\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\n\t, identity\r\n",
        b"Transfer-Encoding: Chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"A: b\r\n",
        b"A: b\rc\r\n",
        b"A\0: b\r\n",
    ]
)
rests = st.sampled_from(
    [b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"3\r\nabcd\r\n0\r\n\r\n", b"0\r\n\r\n"]
)


class Plain:
    """The requests that llhttp finds, without anything around it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.complete = 0

    def on_headers_complete(self) -> None:
        self.bodies.append(b"")

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body

    def on_message_complete(self) -> None:
        self.complete += 1


@given(
    st.lists(lines, max_size=3),
    rests,
    st.sampled_from(UPGRADES),
    st.sampled_from(["1.0", "1.1"]),
    st.lists(st.integers(0), max_size=4),
)
def test_an_upgrade_changes_no_boundary(
    headers: list[bytes], rest: bytes, upgrade: str, version: str, cuts: list[int]
) -> None:
    """Or a proxy before the server could see another sequence of requests (request smuggling)."""
    start = b"POST / HTTP/%b\r\n" % version.encode()
    tail = b"\r\n" + rest + b"GET /next HTTP/1.1\r\n\r\n"
    plain = Plain()
    parser = httptools.HttpRequestParser(plain)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    try:
        parser.feed_data(start + b"".join(headers) + tail)
        valid = True
    except httptools.HttpParserError:
        valid = False
    found = parse(*split(start + upgrade.encode() + b"".join(headers) + tail, cuts))
    assert (found.error is None) == valid
    assert [each.body for each in found.found if each.complete] == plain.bodies[: plain.complete]


@pytest.mark.parametrize(
    "raw",
    [
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT /learn HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://host HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        b"GET / HTTP/3\r\n\r\n",
    ],
)
def test_other_requests_are_refused(raw: bytes) -> None:
    assert parse(raw).error == "Invalid HTTP request received."
    assert parse(*(raw[i : i + 1] for i in range(len(raw)))).error == "Invalid HTTP request received."


def test_a_body_of_another_length_than_announced_is_refused() -> None:
    requests = Requests()
    parser = RequestParser(requests.begin)
    parser.feed(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab")
    with pytest.raises(InvalidRequestError):
        parser.on_message_complete()


@pytest.mark.parametrize("before", [b"", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"])
def test_fields_are_limited_also_after_the_body(before: bytes) -> None:
    raw = before or b"GET / HTTP/1.1\r\n"
    fields = b"a: b\r\n" * 11_000
    assert parse(raw, fields).error == "The head of the request is too long."
    assert parse(raw, *re.findall(b".{1,100}", fields, re.DOTALL)).error is not None


def test_a_stopped_parser_leaves_the_rest() -> None:
    class Stopping(Requests):
        def begin(self, *arguments: Any) -> Found:
            parser.stopped = True
            return super().begin(*arguments)

    requests = Stopping()
    parser = RequestParser(requests.begin)
    data = b"GET / HTTP/1.1\r\n\r\n" * 5000
    rest = parser.feed(data)
    assert len(rest) > 80_000
    assert len(requests.found) < 200
    while rest:
        parser.stopped = False
        rest = parser.feed(rest)
    assert len(requests.found) == 5000
