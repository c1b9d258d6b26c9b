"""``python -m service``: the server, from its settings."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from types import FrameType

import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.settings import Settings


def main() -> None:
    """Serve until SIGINT or SIGTERM, finish what runs, and end with exit code 0."""
    # uvicorn handles both signals while it serves, and raises them again once it has shut down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    settings = _settings()
    # Imported late, for torch takes seconds: wrong settings are refused before, and a signal ends the start.
    # What is imported stays: to search it for garbage, again and again, would take a tenth of the start.
    gc.disable()
    from service.app import create_app
    from service.protocol import Protocol
    from service.startup import START_ERRORS, open_folder

    gc.freeze()
    gc.enable()
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s: %(name)s: %(message)s")
    try:
        opened = open_folder(settings)
    except START_ERRORS as error:
        sys.exit(f"The server cannot start: {error}")
    uvicorn.run(
        create_app(settings, opened),
        host=settings.host,
        port=settings.port,
        http=Protocol,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = "_".join(["BNP", *(str(part).upper() for part in problem["loc"][:1])])
            print(f"{name}: {problem['msg']}", file=sys.stderr)
    except SettingsError as error:
        print(error, file=sys.stderr)
    sys.exit(2)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
