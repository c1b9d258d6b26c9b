"""The headers of a request, looked up in one way by all that look.

Where a header stands twice, the guard must not check the one while a route uses the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import cast

from starlette.types import Scope

_KEY = "bnp.headers"


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the headers by their names in lower case; of those that stand twice the first, as in Starlette.

    Examples
    --------
    >>> headers_of({"headers": [(b"host", b"a"), (b"host", b"b")]})[b"host"]
    b'a'
    """
    found = scope.get(_KEY)
    if found is None:
        found = scope[_KEY] = dict(reversed(scope["headers"]))
    return cast(Mapping[bytes, bytes], found)


def media_type(headers: Mapping[bytes, bytes]) -> str:
    """Return the type of a body, without its parameters.

    Examples
    --------
    >>> media_type({b"content-type": b"Application/JSON; charset=utf-8"})
    'application/json'
    """
    return _media_type(headers.get(b"content-type", b""))


@lru_cache(32)  # clients send the same ones again and again
def _media_type(header: bytes) -> str:
    return header.partition(b";")[0].strip().lower().decode("latin-1")
