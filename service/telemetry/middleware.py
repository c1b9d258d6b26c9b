"""Middleware around every request: request id, common headers, metrics, access log."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..http.requests import headers_of
from .logs import REQUEST_ID
from .metrics import HttpMetrics

STREAM = "bnp.stream"
"""Key that the ASGI scope of a stream has: of samples or of events."""

_IDENTIFIER = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

# Browsers must not guess another media type, nor load a response into a page of another origin.
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin")]

_logger = logging.getLogger("service.requests")


class Requests:
    """Ids, metrics and access log of all requests of a server.

    Parameters
    ----------
    metrics : HttpMetrics
        Counters and histograms of requests.

    Notes
    -----
    The access log has errors of the server at the level WARNING, refused keys at INFO, and all other requests
    at DEBUG, also health checks that fail. `service.telemetry.logs.RateLimit` limits the lines above DEBUG. A
    line has the template of the route, never the path or the query, and the name of the key.
    """

    def __init__(self, metrics: HttpMetrics) -> None:
        self._metrics = metrics
        self._prefix = secrets.token_hex(4).encode()
        self._count = itertools.count(1)

    def identify(self) -> bytes:
        """Return the id of a new request."""
        return b"%s-%x" % (self._prefix, next(self._count))

    def report(
        self, route: str, method: str, status: int, seconds: float, key: str, *, stream: bool = False
    ) -> None:
        """Count an answered request, and log it; `key` is the name of its key, if any."""
        series = self._metrics.series.get((route, method, status, stream))
        requests, latency = series or self._metrics.add(route, method, status, stream=stream)
        requests.inc()
        latency.observe(seconds)
        level = logging.DEBUG
        if route.startswith("/health/"):
            pass  # a proxy sends many, and a refusal is an answer that it expects
        elif status >= 500:
            level = logging.WARNING
        elif status in (401, 403):
            level = logging.INFO
        if _logger.isEnabledFor(level):
            fields = {"route": route, "method": method, "status": status, "ms": round(seconds * 1000, 3)}
            if key:
                fields["key"] = key
            _logger.log(level, "answered", extra={"fields": fields})


class TelemetryMiddleware:
    """ASGI middleware that identifies, times, counts and logs each request.

    Parameters
    ----------
    app : ASGIApp
        The application.
    requests : Requests
        The server's.
    """

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and observe its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = headers_of(scope).get(b"x-request-id")
        if identifier is None or not _IDENTIFIER.fullmatch(identifier):
            identifier = self._requests.identify()
        REQUEST_ID.set(identifier.decode())
        status, reported = 500, False
        start = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status, reported
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", identifier), *HEADERS]
            await send(message)
            # Before the application returns, so that the metrics include what the client has received.
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                reported = True
                self._report(scope, status, time.perf_counter() - start)

        try:
            await self._app(scope, receive, watch)
        finally:
            if not reported:  # the response is incomplete
                self._report(scope, status, time.perf_counter() - start)

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"]
        if "route" in scope:
            route = scope["route"].path
        else:  # a Starlette route leaves its endpoint only; ours have no parameters: the path is the template
            route = scope["path"] if "endpoint" in scope else "unmatched"
        key = scope["caller"].name if "caller" in scope else ""
        self._requests.report(route, method, status, seconds, key, stream=STREAM in scope)
