"""uvicorn, as the server uses it."""

from __future__ import annotations

import logging.config
import sys

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from service.app import create_app
from service.logs import catch_thread_errors, configuration
from service.protocol import protocol
from service.security import Keyring
from service.settings import Settings
from service.startup import START_ERRORS, open_folder


def serve(settings: Settings, keyring: Keyring) -> int:
    """Open the data folder, serve until a signal ends it, and return the exit code."""
    logging.config.dictConfig(configuration(settings))
    catch_thread_errors()
    try:
        opened = open_folder(settings)
    except START_ERRORS as error:
        print(f"The server cannot start: {error}", file=sys.stderr)
        return 1
    server = uvicorn.Server(config(create_app(settings, opened, keyring), settings))
    server.run()
    return 0 if server.started else STARTUP_FAILURE


def config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn is to serve an application; `logging` is set up already."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings),
        ws="none",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,  # the server writes its own, without paths and queries
        server_header=False,
        proxy_headers=False,  # nothing here depends on whom a proxy says it speaks for
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
