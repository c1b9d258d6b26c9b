"""Checks before every route: host, origin, API key, media type of the body, and parameters of the query.

A server with keys requires one on each request. A server without keys listens on loopback only. A malicious
web page can still attack it through a browser on this machine. Such a page can send requests that need no
preflight (a form, a body without a JSON type). Its own host name can also resolve to this machine (DNS
rebinding). The guard therefore checks the Host header, the origin and the media type.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import (
    ForbiddenError,
    ForeignOriginError,
    InvalidTypeError,
    UnauthorizedError,
    UnknownFieldError,
    UnknownHostError,
)
from ..http.content import JSON, decompressed, is_gzip, media_type, without_mark
from ..http.query import read_query
from ..http.requests import decode, headers_of, read_body
from ..settings import Settings
from .keyring import Keyring
from .keys import ANYBODY, Key
from .scopes import Access, access_of

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_NO_BODY = "send no body, or an empty JSON object"


class Guard:
    """Guard of all routes of a server.

    Parameters
    ----------
    settings : Settings
        Further hosts and origins.
    keyring : Keyring
        The API keys.
    """

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring = keyring
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._hosts = frozenset(name.lower() for name in (*_LOOPBACK, own, *settings.allowed_hosts))
        self._origins = frozenset(settings.cors_origins)

    def admit(self, headers: Mapping[bytes, bytes], access: Access) -> Key:
        """Check a request, and return its key.

        Parameters
        ----------
        headers : mapping
            Headers of the request, see `service.http.requests.headers_of`.
        access : Access
            Access declaration of the route.

        Raises
        ------
        UnauthorizedError, ForbiddenError
            If the key is missing or unknown, or lacks the scope.
        UnknownHostError, ForeignOriginError
            On a server without keys.
        UnsupportedMediaTypeError, UnsupportedEncodingError
            If the body has a media type that the route does not take, or is compressed by another method
            than gzip.
        """
        caller = ANYBODY
        if not self._keyring.keys:
            # Browsers always send the header; health checks of proxies do not.
            host = headers.get(b"host", b"localhost" if access.scope is None else b"")
            if _name(host) not in self._hosts:
                raise UnknownHostError(
                    f"a server without API keys accepts the hosts {', '.join(_LOOPBACK)}, not "
                    f"{host.decode('latin-1')!r:.80}: create a key, or add the host to BNP_ALLOWED_HOSTS"
                )
            if (origin := headers.get(b"origin")) is not None:
                self._check_origin(origin.decode("latin-1").lower(), host.decode("latin-1").lower())
        elif access.scope is not None:
            caller = self._authenticate(headers.get(b"authorization", b""))
            _check_scope(caller, access)
        if _has_body(headers):
            found = media_type(headers.get(b"content-type", b""))
            if found not in (access.takes or (JSON,)):
                takes = " or ".join(filter(None, access.takes))
                wanted = (
                    f"send it with Content-Type: {takes}"
                    if takes
                    else f"{_NO_BODY} with Content-Type: {JSON}"
                )
                raise access.otherwise(f"the media type of the body is {found!r:.80}: {wanted}")
            if b"content-encoding" in headers:
                is_gzip(headers[b"content-encoding"])
        return caller

    def _authenticate(self, header: bytes) -> Key:
        kind, _, secret = header.partition(b" ")
        if kind.lower() != b"bearer":
            raise UnauthorizedError("this server requires a key: send the header Authorization: Bearer KEY")
        return self.find(secret.strip())

    def find(self, secret: bytes) -> Key:
        """Return the key with this secret.

        Raises
        ------
        UnauthorizedError
            If it is unknown or expired.
        """
        key = self._keyring.find(secret)
        if key is None:
            raise UnauthorizedError("the API key is unknown")
        if key.expired:
            raise UnauthorizedError(f"the API key expired on {key.expires}")
        return key

    def _check_origin(self, origin: str, host: str) -> None:
        if origin.partition("://")[2] != host and origin not in self._origins:
            raise ForeignOriginError(
                f"pages of the origin {origin!r:.80} may not call this server: add it to BNP_CORS_ORIGINS"
            )


def _check_scope(caller: Key, access: Access) -> None:
    if access.scope not in caller.scopes:
        raise ForbiddenError(f"this request needs the scope {access.scope}, which your key does not have")
    if access.whole_server and caller.models is not None:
        raise ForbiddenError("this endpoint covers all models; your key is restricted to some")


@lru_cache(32)  # clients repeat few different values
def _name(host: bytes) -> str:
    """Return the host name in a Host header; the whole header if no port follows the colon."""
    written = host.decode("latin-1").lower()
    name, colon, port = written.rpartition(":")
    return name if colon and port.isdecimal() else written


def require_model(caller: Key, name: str) -> None:
    """Raise `ForbiddenError` if a key does not cover a model, whether or not the model exists."""
    if not caller.covers(name):
        raise ForbiddenError(f"your key is not for the model {name!r:.80}", "model")


def _guarded(app: ASGIApp, access: Access, parameters: Iterable[str] = ()) -> ASGIApp:
    """Return an ASGI application that checks each request before `app` gets it.

    `parameters` are the names of the parameters in the query.
    """
    known, fields = tuple(parameters), () if access.body is None else tuple(access.body.model_fields)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        caller = scope["caller"] = scope["app"].state.guard.admit(headers, access)
        if (model := scope.get("path_params", {}).get("m")) is not None:
            require_model(caller, model)  # before the body is read
        if scope["query_string"] and not access.any_query:
            read_query(scope["query_string"], known, fields)
        receive = decompressed(headers, receive)
        if not access.takes and _has_body(headers):
            await _read_empty(scope, receive)
        await app(scope, receive, send)

    return guarded


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


async def _read_empty(scope: Scope, receive: Receive) -> None:
    """Read the body of a route without one. Many clients of JSON send an empty object with each POST.

    Raises
    ------
    UnknownFieldError, InvalidTypeError
        If the body has a field, or is no object.
    InvalidJsonError, BodyTooLargeError, BodyTimeoutError
        If it cannot be read or decoded.
    """
    raw = without_mark(await read_body(scope, receive, scope["app"].state.settings.max_body_bytes))
    body = decode(raw) if raw.strip() else {}
    if not isinstance(body, dict):
        raise InvalidTypeError(f"this route takes no values: {_NO_BODY}")
    for name in body:
        raise UnknownFieldError(
            f"{name[:80]!r} is not a field of this route, which has none: {_NO_BODY}", name
        )


class GuardedRoute(APIRoute):
    """A FastAPI route behind the guard: a ``route_class`` for routers. It answers HEAD as GET.

    Attributes
    ----------
    access : Access
        Its access declaration.
    parameters : tuple of str
        Names of its parameters in the query: of the signature, and of the documentation that was given.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.access = access_of(endpoint)
        documented = (self.openapi_extra or {}).get("parameters", ())
        self.parameters = (
            *(field.alias for field in self.dependant.query_params),
            *(each["name"] for each in documented if each["in"] == "query"),
        )
        self.app = _guarded(self.app, self.access, self.parameters)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a request; HEAD where GET matches."""
        return super().matches({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; HEAD as GET, whose body the protocol leaves out."""
        if scope["method"] == "HEAD" and "GET" in (self.methods or ()):
            await self.app(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


class PlainRoute(Route):
    """A Starlette route behind the guard, for pages that the OpenAPI document leaves out."""

    def __init__(
        self, path: str, endpoint: Callable[[Request], Awaitable[Response]], methods: list[str]
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.access = access_of(endpoint)
        self.app = _guarded(self.app, self.access)
