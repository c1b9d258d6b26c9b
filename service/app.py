"""The application: `create_app` assembles routes, middleware and lifespan; `serve` runs it with uvicorn."""

from __future__ import annotations

import asyncio
import difflib
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from bnp_online import __version__
from bnp_online.blocks import compile_kernels as compile_parser
from bnp_online.engines import devices
from bnp_online.errors import ConfigurationError, DeviceLostError
from bnp_online.evaluation.kernels import compile_kernels as compile_scores
from bnp_online.jit import announced
from bnp_online.threads import set_threads

from .api import (
    cluster,
    dashboard,
    events,
    health,
    ingest,
    learn,
    models,
    open_inference,
    pages,
    predict,
    river,
    shadows,
    state,
)
from .api.fast_path import FastPath
from .api.freshness import STALENESS, STEP
from .api.lane import SampleLane
from .api.openapi import openapi
from .auth.guard import Guard, GuardedRoute, PlainRoute
from .auth.keyring import Keyring
from .auth.scopes import UndeclaredRouteError
from .blocks import LineReader
from .errors import OWNER, TABLE, InvalidSpecError
from .http.responses import error_response
from .http.uvicorn_protocol import uvicorn_config
from .ingest.ingest import Ingest
from .models.cluster import SingleNode
from .models.cluster_node import ClusterNode
from .models.ending import DEVICE_FAILED
from .models.metrics import StoreCollector
from .models.queue import Capacity
from .models.recovery import START_ERRORS, Opened, open_folder, start_failure
from .models.registry import Registry
from .models.spec_limits import complete
from .models.threads import Threads
from .settings import Settings
from .telemetry.logs import catch_thread_errors, catch_warnings, report_loop_error
from .telemetry.metrics import HttpMetrics, LogMetrics
from .telemetry.middleware import Requests, TelemetryMiddleware
from .telemetry.traces import TraceMiddleware, enable

#: Modules with routes, in the order in which the router tries them.
ROUTE_MODULES = (
    learn,
    predict,
    models,
    shadows,
    state,
    events,
    health,
    cluster,
    ingest,
    pages,
    dashboard,
    river,
    open_inference,
)

#: Characters of an unknown path that are compared with the paths of the routes.
_LONGEST_PATH = 80

_ABOUT = "Neural networks that learn from every example the moment it arrives."


def create_app(
    settings: Settings | None = None, opened: Opened | None = None, keyring: Keyring | None = None
) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    settings : Settings, optional
        By default read from the environment.
    opened : Opened, optional
        The data folder; by default opened when the application starts.
    keyring : Keyring, optional
        By default the keys of the settings.

    Raises
    ------
    KeysError
        If the keys cannot be read, or if there are none and the server would listen beyond loopback.
    UndeclaredRouteError
        If a route has no declared scope.
    """
    settings = Settings() if settings is None else settings
    app = _App(
        title="bnp-online",
        version=__version__,
        description=_ABOUT,
        routes=[route for module in ROUTE_MODULES for route in module.ROUTES],
        lifespan=_lifespan,
        openapi_url=None,
        redirect_slashes=False,
        # The server has its own metrics; FastAPI's search for OpenTelemetry would cost time on each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    require_guards(app.routes)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]  # the way FastAPI documents
    app.state.settings = settings
    app.state.keyring = Keyring(settings) if keyring is None else keyring
    app.state.cluster = SingleNode(settings)
    app.state.guard = Guard(settings, app.state.keyring)
    app.state.bodies = Capacity(settings.queue_bytes)
    app.state.line_reader = LineReader(settings.max_body_bytes)
    app.state.prediction_reader = LineReader(settings.max_body_bytes, labelled=False)
    app.state.lane = SampleLane(app.state)
    app.state.opened = opened
    app.state.registry = CollectorRegistry()
    ProcessCollector(registry=app.state.registry)
    app.state.http_metrics = HttpMetrics(app.state.registry)
    app.state.requests = Requests(app.state.http_metrics)
    app.state.log_metrics = LogMetrics(app.state.registry)
    for error in (*TABLE, HTTPException):
        app.add_exception_handler(error, _refuse)
    return app


def require_guards(routes: list[BaseRoute]) -> None:
    """Raise `UndeclaredRouteError` if a route is not behind the guard."""
    for route in routes:
        if not isinstance(route, GuardedRoute | PlainRoute):
            raise UndeclaredRouteError(f"{route} is not behind the guard: use a class of service.auth.guard")


class _App(FastAPI):
    """FastAPI with a fast path for hot routes."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the middleware: telemetry, unexpected errors, CORS, the fast path, then FastAPI's own.

        Telemetry is the outermost, so that it includes the responses to unexpected errors.
        """
        settings: Settings = self.state.settings
        stack: ASGIApp = FastPath(super().build_middleware_stack(), self.routes)
        if settings.cors_origins:
            stack = CORSMiddleware(
                stack,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
                allow_headers=("Authorization", "X-Request-ID", "BNP-Model", "BNP-Min-Step"),
                expose_headers=("X-Request-ID", "Retry-After", STEP, STALENESS, OWNER),
            )
        stack = ServerErrorMiddleware(stack, handler=_refuse)
        if settings.traces:
            stack = TraceMiddleware(stack)
        return TelemetryMiddleware(stack, self.state.requests)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    asyncio.get_running_loop().set_exception_handler(report_loop_error)
    set_threads(settings.threads)
    threads = Threads()
    asyncio.get_running_loop().set_default_executor(threads.storage)
    compiled = [each() for each in (compile_parser, compile_scores)]  # models compile their own
    opened: Opened = app.state.opened or await asyncio.to_thread(open_folder, settings)
    with announced():
        for wait in compiled:
            await asyncio.to_thread(wait)
    log = opened.store.log
    app.state.models = registry = Registry(
        settings, log, opened.store.checkpoints, app.state.log_metrics, threads
    )
    loop = asyncio.get_running_loop()
    unwatch = devices.watch(lambda error: _tell(loop, registry, error))
    if isinstance(app.state.cluster, SingleNode):
        app.state.cluster.failures = registry.failed
    app.state.ingest = ingesting = Ingest(settings, registry, app.state.bodies)
    app.state.store_metrics = StoreCollector(log, settings)
    collectors: list[Collector] = [app.state.store_metrics, ingesting]
    ending = AsyncExitStack()
    end_traces = enable() if settings.traces else None
    try:
        for made in opened.made:
            registry.add(made, failure=opened.failures.get(made.model))
        for recovered in opened.models:
            registry.serve(recovered)
        if opened.store.cluster is not None:
            node = app.state.cluster = ClusterNode(settings, opened.store.cluster, registry, threads)
            collectors.append(node)
            ending.push_async_callback(node.close)
            await node.start()
        elif log.latest_model == 0:  # a new folder; in any other the default model may have been deleted
            await registry.create(settings.default_model)
        for model in ingesting.models:
            ingesting.start(model)
        for collector in collectors:
            app.state.registry.register(collector)
        gc.freeze()  # a garbage collection that includes these objects would stop the server for 20 ms
        yield
    finally:
        unwatch()
        for collector in collectors:
            with suppress(KeyError):  # the start failed before
                app.state.registry.unregister(collector)
        await ingesting.close()
        await ending.aclose()
        await registry.close()
        if end_traces is not None:
            await asyncio.to_thread(end_traces)
        threads.close()
        opened.store.close()


def _tell(loop: asyncio.AbstractEventLoop, registry: Registry, error: DeviceLostError) -> None:
    """Tell the registry, in any thread, that a GPU failed."""
    loop.call_soon_threadsafe(registry.lose, error)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):  # of the router
        error = _explained(request, error)
    return error_response(request.scope, error)


def _explained(request: Request, error: HTTPException) -> HTTPException:
    """Return the router's error for an unknown path or method with a remedy."""
    routes, path = request.app.routes, request.url.path[:_LONGEST_PATH]
    if error.status_code == 404:
        near = difflib.get_close_matches(path, {route.path: None for route in routes}, 2)
        remedy = f"did you mean {' or '.join(near)}?" if near else "GET /docs lists the routes"
        return HTTPException(404, f"there is no route {path!r}: {remedy}", error.headers)
    if error.status_code == 405:  # the router names the methods of one route; a path may have several
        matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
        allowed = {method for route in matching for method in route.methods}
        methods = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
        return HTTPException(405, f"{path} does not take {request.method}: use {methods}", {"Allow": methods})
    return error


def _default_model_problem(settings: Settings, opened: Opened) -> str | None:
    """Return why the default model cannot be created, in a new folder; else None."""
    if opened.store.cluster is not None or opened.store.log.latest_model > 0:
        return None
    try:
        complete(settings.default_model, settings)
    except (InvalidSpecError, ConfigurationError) as error:
        return str(error)
    return None


def serve(settings: Settings, keyring: Keyring) -> int:
    """Open the data folder, serve until a signal, and return the exit code."""
    catch_thread_errors()
    catch_warnings()
    try:
        devices.resolved(settings.device)
        opened = open_folder(settings)
    except START_ERRORS as error:
        print(f"The server cannot start: {start_failure(error, settings)}", file=sys.stderr)
        return DEVICE_FAILED if isinstance(error, DeviceLostError) else 1
    if (wrong := _default_model_problem(settings, opened)) is not None:
        opened.store.close()
        print(f"The server cannot start: BNP_DEFAULT_MODEL: {wrong}", file=sys.stderr)
        return 2
    app = create_app(settings, opened, keyring)
    lane = None if settings.traces else app.state.lane  # which passes the middleware by
    server = uvicorn.Server(uvicorn_config(app, settings, lane))
    server.run()
    return 0 if server.started else STARTUP_FAILURE
