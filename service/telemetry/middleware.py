"""What surrounds the answering of every request: its id, headers of every answer, metrics, a line of log."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..http.requests import headers_of
from .logs import REQUEST_ID
from .metrics import HttpMetrics, route_of

_SANE = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

# An answer is never taken for another type than it says, nor loaded into a page of another origin.
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin")]

_logger = logging.getLogger("service.requests")


class Observer:
    """ASGI middleware that gives each request an id, times it, counts it, and writes a line about it.

    Parameters
    ----------
    app : ASGIApp
        The application.
    metrics : HttpMetrics
        Where it is counted.

    Notes
    -----
    Errors of the server are warnings, refused keys are information, and everything else is for debugging: a
    line for each sample of a stream would cost more than it tells, and the metrics count them all. A line has
    the route's template, never the path or the query, and the name of the key.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics
        self._prefix = secrets.token_hex(4)
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and watch its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = self._identifier(scope)
        REQUEST_ID.set(identifier.decode())
        status, reported = 500, False
        start = time.perf_counter()

        def report() -> None:
            nonlocal reported
            if not reported:
                reported = True
                self._report(scope, status, time.perf_counter() - start)

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", identifier), *_HEADERS]
            await send(message)
            # At once, so that a client which has its answer finds it in the metrics.
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                report()

        try:
            await self._app(scope, receive, watch)
        finally:
            report()  # of what was never answered to its end

    def _identifier(self, scope: Scope) -> bytes:
        """Return the client's id for the request if it has a sane one, else one of the server's."""
        given = headers_of(scope).get(b"x-request-id")
        if given is not None and _SANE.fullmatch(given):
            return given
        return b"%s-%x" % (self._prefix.encode(), next(self._count))

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        route, method = route_of(scope), scope["method"]
        self._metrics.observe(route, method, status, seconds)
        level = _level(status)
        if _logger.isEnabledFor(level):
            fields = {"route": route, "method": method, "status": status, "ms": round(seconds * 1000, 3)}
            if "caller" in scope and scope["caller"].name:
                fields["key"] = scope["caller"].name
            _logger.log(level, "answered", extra={"fields": fields})


def _level(status: int) -> int:
    if status >= 500:
        return logging.WARNING
    return logging.INFO if status in (401, 403) else logging.DEBUG
