"""The application: `create_app` puts the rooms together; importing this does no work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from bnp_online import __version__
from service.access import UndeclaredRouteError
from service.catalog import Catalog
from service.errors import TABLE, envelope
from service.guard import Door, GuardedRoute, PlainRoute
from service.logs import report_loop_error
from service.metrics import HttpMetrics, ModelCollector
from service.observer import Observer
from service.openapi import openapi
from service.routes import learn, models, ops, pages, predict
from service.security import Keyring
from service.settings import Settings
from service.store.volatile import VolatileLog
from service.wire import json_response

_ABOUT = "Neural networks that learn from every example the moment it arrives."


class _Application(FastAPI):
    """FastAPI, with the observer around everything, so that it sees what an unforeseen error answers too."""

    def build_middleware_stack(self) -> ASGIApp:
        return Observer(super().build_middleware_stack(), HttpMetrics(self.state.registry))


def create_app(settings: Settings | None = None, keyring: Keyring | None = None) -> FastAPI:
    """Return the application; models are made when it starts.

    Parameters
    ----------
    settings : Settings, optional
        By default they are read from the environment.
    keyring : Keyring, optional
        By default the keys that the settings name.

    Raises
    ------
    KeysError
        If the keys cannot be read, or if there is none and the server is to listen beyond loopback.
    UndeclaredRouteError
        If a route does not say who may use it.
    """
    settings = Settings() if settings is None else settings
    app = _Application(
        title="bnp-online",
        version=__version__,
        description=_ABOUT,
        # The hot routes stand first: routes are tried in order.
        routes=[*learn.ROUTES, *predict.ROUTES, *models.ROUTES, *ops.ROUTES, *pages.ROUTES],
        lifespan=_lifespan,
        openapi_url=None,
        redirect_slashes=False,
    )
    require_guards(app.routes)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]  # the way FastAPI documents
    app.state.settings = settings
    app.state.keyring = Keyring(settings) if keyring is None else keyring
    app.state.door = Door(settings, app.state.keyring)
    app.state.registry = CollectorRegistry()
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("Authorization", "X-Request-ID"),
            expose_headers=("X-Request-ID", "Retry-After"),
        )
    for error in (*TABLE, HTTPException):
        app.add_exception_handler(error, _refuse)
    return app


def require_guards(routes: list[BaseRoute]) -> None:
    """Raise `UndeclaredRouteError` if a route is not behind a guard."""
    for route in routes:
        if not isinstance(route, GuardedRoute | PlainRoute):
            raise UndeclaredRouteError(f"{route} is not behind a guard: make it a kind of service.guard")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    asyncio.get_running_loop().set_exception_handler(report_loop_error)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(settings, VolatileLog())
    await catalog.create(settings.default_model)
    collector = ModelCollector(catalog)
    app.state.catalog = catalog
    app.state.registry.register(collector)
    try:
        yield
    finally:
        app.state.registry.unregister(collector)
        await catalog.close()


async def _refuse(request: Request, error: Exception) -> Response:
    status, body, headers = envelope(error)
    return json_response(body, status, headers)
