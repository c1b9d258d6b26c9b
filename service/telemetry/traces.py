"""Spans for OpenTelemetry, if `BNP_TRACES` is set: one per request, and one per group of samples.

The spans of a process have one exporter, as its log has one stream. OpenTelemetry is an extra: it is imported
only if spans are wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bnp_online import __version__

from ..http.requests import headers_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext, Tracer

_tracer: Tracer | None = None
_NOTHING: AbstractContextManager[None] = nullcontext()
#: Headers by which a client names the span that its request belongs to (W3C Trace Context).
_PARENT = ("traceparent", "tracestate")


class Queued(Protocol):
    """A job of a group: when it was queued, the number of its samples, and the span of its request."""

    @property
    def start(self) -> float: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def span(self) -> SpanContext | None: ...  # noqa: D102


def enable(exporter: SpanExporter | None = None) -> Callable[[], None]:
    """Export spans from now on; return the function that exports the last ones and ends.

    Parameters
    ----------
    exporter : SpanExporter, optional
        By default OTLP over HTTP, as the variables `OTEL_…` say.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = Resource({"service.name": "bnp-online", "service.version": __version__})
    # It ends the provider itself: at the end of the process, its thread may not start others.
    provider = TracerProvider(resource=about.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    global _tracer
    _tracer = provider.get_tracer("bnp_online", __version__)

    def end() -> None:
        global _tracer
        _tracer = None
        provider.shutdown()

    return end


def current_span() -> SpanContext | None:
    """Return the span of the request that is served; None without one."""
    if _tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    return get_current_span().get_span_context()


def group_span(model: str, jobs: Iterable[Queued]) -> AbstractContextManager[None]:
    """Return a block whose end is the end of the span of a group.

    The span begins when the first job was queued. It links to the requests of the jobs.
    """
    return _NOTHING if _tracer is None else _group_span(_tracer, model, [*jobs])


@contextmanager
def _group_span(tracer: Tracer, model: str, jobs: list[Queued]) -> Iterator[None]:
    from opentelemetry.trace import Link

    waited = time.perf_counter() - min(job.start for job in jobs)
    spans = [job.span for job in jobs if job.span is not None and job.span.is_valid]
    links = [*{each.span_id: Link(each) for each in spans}.values()]  # a stream queues several jobs
    span = tracer.start_span(
        "learn group",
        attributes={"bnp.model": model, "bnp.samples": sum(job.size for job in jobs)},
        links=links,
        start_time=time.time_ns() - int(waited * 1e9),
    )
    try:
        yield
    finally:
        span.end()


class TraceMiddleware:
    """ASGI middleware with a span for each request.

    Parameters
    ----------
    app : ASGIApp
        The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request in a span, which belongs to the client's if the client names one."""
        if scope["type"] != "http" or _tracer is None:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, StatusCode, use_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers, status = headers_of(scope), 500
        given = {
            name: headers[name.encode()].decode("latin-1") for name in _PARENT if name.encode() in headers
        }
        parent = TraceContextTextMapPropagator().extract(given) if given else None
        span = _tracer.start_span(scope["method"], parent, SpanKind.SERVER)

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with use_span(span, record_exception=False):
                await self._app(scope, receive, watch)
        finally:
            found: dict[str, Any] = {"http.request.method": scope["method"]}
            found["http.response.status_code"] = status
            if "route" in scope:
                found["http.route"] = scope["route"].path
                span.update_name(f"{scope['method']} {scope['route'].path}")
            if (model := scope.get("path_params", {}).get("m")) is not None:
                found["bnp.model"] = model
            span.set_attributes(found)
            if status >= 500:
                span.set_status(StatusCode.ERROR)
            span.end()
