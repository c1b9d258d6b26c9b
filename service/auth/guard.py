"""What stands before every route: who may come in, from where, and with what kind of body.

On a server with keys a request needs one. Without keys the server listens to this machine alone, where the
danger is a web page elsewhere that makes the browser here call it. Such a page can send what needs no leave
of the server (a form, a body without a JSON type), or point a host name of its own at this machine (DNS
rebinding). So the name under which the server was reached, the page's origin and the body's type are checked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import ForbiddenError, ForeignOriginError, UnauthorizedError, UnknownHostError
from ..http.requests import headers_of, media_type
from ..settings import Settings
from .keys import ANYBODY, Key, Keyring
from .scopes import Access, access_of

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Door:
    """Lets requests in to the routes of one server.

    Parameters
    ----------
    settings : Settings
        Further hosts and origins.
    keyring : Keyring
        The keys.
    """

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring = keyring
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._hosts = frozenset(name.lower() for name in (*_LOOPBACK, own, *settings.allowed_hosts))
        self._origins = frozenset(settings.cors_origins)

    def admit(self, headers: Mapping[bytes, bytes], access: Access) -> Key:
        """Return whose a request is, if it may pass.

        Parameters
        ----------
        headers : mapping
            By their names in lower case.
        access : Access
            What the route demands.

        Raises
        ------
        UnauthorizedError, ForbiddenError
            For want of a key, or of its scope.
        UnknownHostError, ForeignOriginError
            On a server without keys.
        UnsupportedMediaTypeError
            If there is a body of a type that the route does not take.
        """
        caller = ANYBODY
        if not self._keyring.needed:
            self._check_host(headers.get(b"host", b""))
            if (origin := headers.get(b"origin")) is not None:
                self._check_origin(origin.decode("latin-1").lower(), headers)
        elif access.scope is not None:
            caller = self._authenticate(headers.get(b"authorization", b""))
            _check_scope(caller, access)
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            _check_type(media_type(headers), access)
        return caller

    def _authenticate(self, header: bytes) -> Key:
        kind, _, secret = header.partition(b" ")
        if kind.lower() != b"bearer":
            raise UnauthorizedError("this server needs a key: send the header Authorization: Bearer KEY")
        return self.find(secret.strip())

    def find(self, secret: bytes) -> Key:
        """Return the key that this is.

        Raises
        ------
        UnauthorizedError
            If it is unknown, or has expired.
        """
        key = self._keyring.find(secret)
        if key is None:
            raise UnauthorizedError("this key is not known here")
        if key.expired:
            raise UnauthorizedError(f"this key expired on {key.expires}")
        return key

    def _check_host(self, host: bytes) -> None:
        if _name(host) not in self._hosts:
            raise UnknownHostError(
                f"a server without API keys answers to {', '.join(_LOOPBACK)}, not to "
                f"{host.decode('latin-1')!r:.80}: set a key, or name the host in BNP_ALLOWED_HOSTS"
            )

    def _check_origin(self, origin: str, headers: Mapping[bytes, bytes]) -> None:
        own = headers.get(b"host", b"").decode("latin-1").lower()
        if origin.partition("://")[2] != own and origin not in self._origins:
            raise ForeignOriginError(
                f"a page of {origin!r:.80} may not call this server: name its origin in BNP_CORS_ORIGINS"
            )


def _check_scope(caller: Key, access: Access) -> None:
    if access.scope not in caller.scopes:
        raise ForbiddenError(f"this needs a key with the scope {access.scope}; yours does not have it")
    if access.whole_server and caller.models is not None:
        raise ForbiddenError("this tells of all models, and your key is for some of them")


def _check_type(found: str, access: Access) -> None:
    if found not in access.takes:
        takes = access.takes
        wanted = f"send it with Content-Type: {' or '.join(takes)}" if takes else "this route takes none"
        raise access.otherwise(f"the request has a body of type {found!r:.80}: {wanted}")


@lru_cache(32)  # clients send the same ones again and again
def _name(host: bytes) -> str:
    """Return the name in a Host header; what has no port that could be one is no name of ours."""
    written = host.decode("latin-1").lower()
    name, colon, port = written.rpartition(":")
    return name if colon and port.isdecimal() else written


def require_model(caller: Key, name: str) -> None:
    """Raise `ForbiddenError` if a key is not for a model, whether it is there or not."""
    if not caller.covers(name):
        raise ForbiddenError(f"this key is not for the model {name!r:.80}", "model")


class Guard:
    """The way into one route.

    Parameters
    ----------
    app : ASGIApp
        The route's own.
    access : Access
        What it demands.

    Notes
    -----
    It leaves the key in ``scope["caller"]``, where `service.models.registry.catalog_of` looks for it.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or raise what refuses it."""
        door: Door = scope["app"].state.door
        scope["caller"] = caller = door.admit(headers_of(scope), self._access)
        if (model := scope.get("path_params", {}).get("m")) is not None:
            require_model(caller, model)  # before the body is read
        await self._app(scope, receive, send)


class GuardedRoute(APIRoute):
    """A FastAPI route behind its guard: the ``route_class`` of every router here."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.access = access_of(endpoint)
        self.app = Guard(self.app, self.access)


class PlainRoute(Route):
    """A plain Starlette route behind its guard."""

    def __init__(
        self, path: str, endpoint: Callable[[Request], Awaitable[Response]], methods: list[str]
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.access = access_of(endpoint)
        self.app = Guard(self.app, self.access)
