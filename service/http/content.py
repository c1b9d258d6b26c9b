"""Content-Type and Content-Encoding of a request's body.

JSON is in UTF-8; a byte order mark before it is ignored. A body may be compressed with gzip.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping
from functools import lru_cache

from starlette.types import Message, Receive

from ..errors import InvalidEncodingError, UnsupportedEncodingError, UnsupportedMediaTypeError

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"

#: Media types in use for NDJSON.
_NDJSON = re.compile(r"(application|text)/(x-)?(nd-?json|ldjson|jsonl|json-?lines)")
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
BOM = b"\xef\xbb\xbf"
#: Bytes that are decompressed at once.
_PART = 65_536
#: ``wbits`` of `zlib` for the header and the checksum of gzip.
_GZIP = 31


@lru_cache(32)  # clients repeat few different values
def media_type(content_type: bytes) -> str:
    """Return the media type in a Content-Type header, without its parameters; one name for all of NDJSON.

    Raises
    ------
    UnsupportedMediaTypeError
        For JSON, NDJSON and CSV in another encoding than UTF-8.

    Examples
    --------
    >>> media_type(b"Application/JSON; charset=utf-8"), media_type(b"application/jsonl")
    ('application/json', 'application/x-ndjson')
    """
    kind, *parameters = (part.strip() for part in content_type.decode("latin-1").lower().split(";"))
    found = NDJSON if _NDJSON.fullmatch(kind) else kind
    for parameter in parameters if found in (JSON, NDJSON, CSV) else ():
        name, _, value = parameter.partition("=")
        charset = value.strip(' "')
        if name.strip() == "charset" and charset not in _CHARSETS:
            raise UnsupportedMediaTypeError(f"the body is in {charset!r:.40}: send it in UTF-8")
    return found


@lru_cache(32)
def is_gzip(content_encoding: bytes) -> bool:
    """Return whether a Content-Encoding header announces gzip, and not a plain body.

    Raises
    ------
    UnsupportedEncodingError
        For any other encoding, and for several.

    Examples
    --------
    >>> is_gzip(b"gzip"), is_gzip(b"identity")
    (True, False)
    """
    names = [name.strip() for name in content_encoding.decode("latin-1").lower().split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if names and names not in (["gzip"], ["x-gzip"]):
        raise UnsupportedEncodingError(
            f"the Content-Encoding {', '.join(names)!r:.80} is not supported: compress the body with gzip, "
            "or send it as it is"
        )
    return bool(names)


def decompressed(headers: Mapping[bytes, bytes], receive: Receive) -> Receive:
    """Return the function that receives the body of a request as it was before its compression."""
    return Gunzip(receive) if is_gzip(headers.get(b"content-encoding", b"")) else receive


def without_mark(raw: bytes) -> bytes:
    r"""Return JSON without the byte order mark before it.

    Examples
    --------
    >>> without_mark(b"\xef\xbb\xbf{}")
    b'{}'
    """
    return raw[3:] if raw[:3] == BOM else raw


def is_blank(line: bytes) -> bool:
    """Return whether a line has nothing but white space and a byte order mark."""
    return not without_mark(line).strip()


class Gunzip:
    """Function `receive` of ASGI that decompresses a body with one or more gzip members.

    Its messages have a limited size, whatever the size of the decompressed body.

    Parameters
    ----------
    receive : callable
        Receives the compressed body.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._compressed = b""
        self._more = True  # whether more compressed bytes follow
        self._new_member()

    def _new_member(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._begun = self._full = False

    async def __call__(self) -> Message:
        """Return the next part of the body, or the notice that the client sends nothing more.

        Raises
        ------
        InvalidEncodingError
            If the body is not gzip, or ends before its last member does.
        """
        if self._compressed or self._full:
            await asyncio.sleep(0)  # between two parts of one message, so that other requests may run
        while True:
            if self._compressed or self._full:
                if part := self._decompress():
                    return {"type": "http.request", "body": part, "more_body": True}
                continue
            if not self._more:
                if self._begun:
                    raise InvalidEncodingError("the gzip body is incomplete: compress it and send it again")
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return message
            self._compressed = message.get("body", b"")
            self._more = message.get("more_body", False)

    def _decompress(self) -> bytes:
        """Return the next bytes of the current member."""
        try:
            part = self._member.decompress(self._compressed, _PART)
        except zlib.error as error:
            raise InvalidEncodingError(
                f"the body is not valid gzip ({error}): compress it again, or send it without the header "
                "Content-Encoding"
            ) from None
        self._begun, self._full = True, len(part) == _PART
        if self._member.eof:
            self._compressed = self._member.unused_data
            self._new_member()
        else:
            self._compressed = self._member.unconsumed_tail
        return part
