"""uvicorn, as the server uses it."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from service.app import create_app
from service.logs import catch_thread_errors, configuration
from service.protocol import limited_protocol
from service.security import Keyring
from service.settings import Settings


def serve(settings: Settings, keyring: Keyring) -> int:
    """Serve until a signal ends it, and return the exit code."""
    server = uvicorn.Server(config(create_app(settings, keyring), settings, configuration(settings)))
    catch_thread_errors()
    server.run()
    return 0 if server.started else STARTUP_FAILURE


def config(app: FastAPI, settings: Settings, log: dict[str, Any] | None = None) -> uvicorn.Config:
    """Return how uvicorn is to serve an application; `log` is what `logging` is to be told."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=limited_protocol(settings),
        ws="none",
        log_config=log,
        log_level=settings.log_level,
        access_log=False,  # the server writes its own, without paths and queries
        server_header=False,
        proxy_headers=False,  # nothing here depends on whom a proxy says it speaks for
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
