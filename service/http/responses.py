"""How a request is refused: in the envelope of the native routes, or as clients of the River API Spec expect.

Whatever refuses a request comes through here, wherever it was raised: at a route, at its guard, by the
router, or because too many connections are open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.types import Scope

from ..errors import envelope
from .requests import headers_of

RIVER = "/api/"
"""What the paths of the River API Spec begin with."""

_HOST = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def refusal(scope: Scope, error: Exception) -> tuple[int, Mapping[str, object], dict[str, str]]:
    """Return the status, body and headers that answer an error to a request.

    Examples
    --------
    >>> from service.errors import UnknownIdError
    >>> refusal({"path": "/api/label/"}, UnknownIdError("no such id", "identifier"))
    (404, {'message': 'no such id'}, {})
    """
    status, body, headers = envelope(error)
    if not is_river(scope["path"]):
        return status, body, headers
    if status == 401:
        headers["www-authenticate"] = f'Bearer realm="{_origin(scope)}/api/auth/token/",service="bnp-online"'
    return status, {"message": body["error"]["message"]}, headers


def is_river(path: str) -> bool:
    """Return whether a path is one of the River API Spec's, there or not.

    Examples
    --------
    >>> is_river("/api"), is_river("/api/nowhere"), is_river("/apiary")
    (True, True, False)
    """
    return path.startswith(RIVER) or path == RIVER[:-1]


def _origin(scope: Scope) -> str:
    """Return the address that the client used, to which it will send its key; empty if it cannot be told.

    Behind a proxy that ends TLS the connection here has none. What the proxy says of that is believed: it can
    only keep a client from sending its key in the clear.
    """
    headers = headers_of(scope)
    host = headers.get(b"host", b"")
    if _HOST.fullmatch(host) is None:
        return ""
    secure = headers.get(b"x-forwarded-proto", b"").strip().lower() == b"https"
    return f"{'https' if secure else scope.get('scheme', 'http')}://{host.decode()}"
