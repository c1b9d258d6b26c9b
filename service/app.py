"""The application: `create_app` puts the rooms together; importing this does no work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp

from bnp_online import __version__
from service.catalog import Catalog
from service.errors import TABLE, envelope
from service.hot import HotRoutes
from service.metrics import HttpMetrics, MetricsMiddleware, ModelCollector
from service.openapi import openapi
from service.routes import learn, models, ops, predict, state
from service.settings import Settings
from service.startup import Opened, open_folder
from service.wire import json_response

_ABOUT = "Neural networks that learn from every example the moment it arrives."


def create_app(settings: Settings | None = None, opened: Opened | None = None) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    settings : Settings, optional
        By default they are read from the environment.
    opened : Opened, optional
        The data folder; by default it is opened when the application starts.
    """
    settings = Settings() if settings is None else settings
    app = _App(
        title="bnp-online",
        version=__version__,
        description=_ABOUT,
        # The hot routes stand first: routes are tried in order.
        routes=[*learn.ROUTES, *predict.ROUTES, *models.ROUTES, *state.ROUTES, *ops.ROUTES],
        lifespan=_lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        # The metrics are Prometheus'; to look for providers of OpenTelemetry's takes time on each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]  # the way FastAPI documents
    app.state.settings = settings
    app.state.opened = opened
    app.state.registry = CollectorRegistry()
    app.state.http_metrics = HttpMetrics(app.state.registry)
    for error in (*TABLE, HTTPException):
        app.add_exception_handler(error, _refuse)
    return app


class _App(FastAPI):
    """FastAPI, with a short way to the hot routes."""

    def build_middleware_stack(self) -> ASGIApp:
        """Put the metrics and the hot routes before all that the hot routes do not need."""
        stack: ASGIApp = HotRoutes(super().build_middleware_stack(), self.routes)
        return ServerErrorMiddleware(MetricsMiddleware(stack, self.state.http_metrics), handler=_refuse)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    opened: Opened = app.state.opened or await asyncio.to_thread(open_folder, settings)
    app.state.catalog = catalog = Catalog(settings, opened.log, opened.checkpoints)
    collector = ModelCollector(catalog)
    app.state.registry.register(collector)
    try:
        for history, model in opened.models:
            catalog.serve(history, model)
        if opened.log.head == 0:  # a new folder; in any other the default model may have been deleted
            await catalog.create(settings.default_model)
        yield
    finally:
        app.state.registry.unregister(collector)
        await catalog.close()
        opened.close()


async def _refuse(request: Request, error: Exception) -> Response:
    status, body, headers = envelope(error)
    if status == 405:  # the router names the methods of one route, and a path may have several
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return json_response(body, status, headers)


def _methods(request: Request) -> set[str]:
    """Return the methods that the path of a request takes."""
    return {
        method
        for route in request.app.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods
    }
