"""Parser of the bytes of a connection: heads and bodies of requests, without input and output of its own."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Protocol

import httptools
from starlette.types import Scope

LONGEST_HEAD = 65_536
#: Bytes that are parsed at a time, beside a body of known length. A request that has to wait stops the parser
#: after them, so they limit the number of such requests.
_PIECE = 2_048
#: Headers that delimit a body.
_DELIMITERS = (b"content-length", b"transfer-encoding")


class InvalidRequestError(Exception):
    """The bytes are not a request of HTTP/1."""


class Request(Protocol):
    """Receiver of the body of a request."""

    def add_body(self, part: bytes, last: bool) -> None:
        """Take a part of the body."""


class RequestParser:
    """Parser of the requests of one connection.

    Parameters
    ----------
    begin : callable
        Called with each head: the ASGI scope, whether the connection stays open, and whether the client waits
        for ``100 Continue``. Returns the receiver of the body.

    Attributes
    ----------
    in_head : bool
        Whether the head of a request is incomplete.
    stopped : bool
        Whether the parser leaves further bytes; `begin` may set it.

    Notes
    -----
    A request that asks for another protocol is served as if it did not (RFC 9110, section 7.8). llhttp skips
    the body of such a request. Another llhttp parser goes on after its head, once it has received the headers
    that delimit the body.
    """

    def __init__(self, begin: Callable[[Scope, bool, bool], Request]) -> None:
        self.in_head = self.stopped = False
        self._begin = begin
        self._request: Request | None = None
        self._body: list[bytes] = []  # what a piece has of the body
        self._llhttp = self._new_llhttp()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._version = ""
        self._expects_continue = False
        self._left = 0  # bytes of the body that are still to come, if the head announced them
        self._upgrade = False  # whether the request asks for another protocol
        self._repeated = False  # whether another parser receives the headers of such a request
        self._progress = False  # whether a piece has more than a part of a head
        self._head = 0  # bytes of the pieces without progress

    def feed(self, data: bytes) -> bytes:
        """Parse bytes until the parser is stopped, and return the rest.

        Raises
        ------
        InvalidRequestError
            If the bytes are not HTTP, or if a head is too long.
        """
        start, view = 0, memoryview(data)
        while start < len(data) and not self.stopped:
            piece = view[start : start + max(_PIECE, self._left)]
            self._progress = False
            try:
                self._llhttp.feed_data(piece)
                start += len(piece)
            except httptools.HttpParserUpgrade as upgrade:
                start += upgrade.args[0]
                self._parse_body()
            except httptools.HttpParserError as error:
                raise _invalid(error) from None
            if self._body:
                self._pass_on(last=False)
            self._head = 0 if self._progress else self._head + len(piece)
            if self._head > LONGEST_HEAD:
                raise InvalidRequestError("The head of the request is too long.")
        return data[start:]

    def _new_llhttp(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # A client may send more after a request with "Connection: close"; it is not served.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _parse_body(self) -> None:
        headers = [b"%b: %b\r\n" % header for header in self._headers if header[0] in _DELIMITERS]
        head = [b"POST / HTTP/%b\r\n" % self._version.encode(), *headers, b"\r\n"]
        self._upgrade, self._repeated = False, True
        self._llhttp = self._new_llhttp()
        try:
            self._llhttp.feed_data(b"".join(head))
        except httptools.HttpParserError as error:
            raise _invalid(error) from None

    def on_message_begin(self) -> None:
        """Start a request; llhttp calls this method and the following ones."""
        if self._repeated:
            return
        self._url = b""
        self._headers = []
        self._expects_continue = False
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        """Add a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; a field after the body is discarded."""
        if not self.in_head:
            return
        name = name.lower()
        self._headers.append((name, value))
        if name == b"content-length":
            self._left = int(value)
        elif name == b"expect":
            self._expects_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """End the head."""
        self._progress = True
        if self._repeated:
            self._repeated = False
            return
        self.in_head = False
        method = self._llhttp.get_method()
        url = httptools.parse_url(self._url)
        if url.path is None or method == b"CONNECT":
            raise InvalidRequestError
        path = url.path.decode("ascii")
        self._version = self._llhttp.get_http_version()
        self._upgrade = self._llhttp.should_upgrade()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": self._version,
            "method": method.decode("ascii"),
            "scheme": "http",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "root_path": "",
            "headers": self._headers,
        }
        keep_alive = self._version == "1.1" and self._llhttp.should_keep_alive()
        self._request = self._begin(scope, keep_alive, self._expects_continue)

    def on_body(self, part: bytes) -> None:
        """Add a part of the body."""
        self._progress = True
        if self._left:
            self._left -= len(part)
        self._body.append(part)

    def on_message_complete(self) -> None:
        """End the request."""
        self._progress = True
        if self._upgrade:  # the body follows
            return
        if self._left:
            raise InvalidRequestError
        self._pass_on(last=True)

    def _pass_on(self, last: bool) -> None:
        body, self._body = self._body, []
        if self._request is not None:
            self._request.add_body(body[0] if len(body) == 1 else b"".join(body), last)
        if last:
            self._request = None


def _invalid(error: httptools.HttpParserError) -> InvalidRequestError:
    """Return the error for a client; raise an error of this server, which llhttp has caught."""
    cause = error.__context__
    expected = (InvalidRequestError, httptools.HttpParserError, UnicodeDecodeError)
    if isinstance(error, httptools.HttpParserCallbackError) and cause and not isinstance(cause, expected):
        raise cause
    return InvalidRequestError("Invalid HTTP request received.")
