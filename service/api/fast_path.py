"""The short way to the routes that are called for each sample.

A request passes seven layers of FastAPI and Starlette before its endpoint sees it; these routes need none.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from ..auth.guard import Guard
from ..errors import TABLE
from ..http.requests import respond
from ..http.responses import refusal
from .openapi import DocumentedRoute, Operation

#: What is answered here; whatever else is raised, nobody foresaw.
_FORESEEN = tuple(error for error in TABLE if error is not Exception)


class HotRoute(DocumentedRoute):
    """A route, POST only and without parameters, whose endpoint is an ASGI application."""

    def __init__(self, path: str, endpoint: ASGIApp, operation: Operation) -> None:
        super().__init__(path, endpoint, operation)
        self.app = Guard(endpoint, self.access)  # what Starlette makes of a function awaits a request


class HotRoutes:
    """ASGI middleware that takes the requests of hot routes, and passes on all others.

    Parameters
    ----------
    app : ASGI application
        Gets the others; it has the hot routes too, for all but POST.
    routes : iterable of BaseRoute
        Those that are a `HotRoute` are served here.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if isinstance(route, HotRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or pass it on."""
        route = self._routes.get(scope["path"]) if scope.get("method") == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            await route.app(scope, receive, send)
        except _FORESEEN as error:
            status, body, headers = refusal(scope, error)
            await respond(send, body, status, headers)
