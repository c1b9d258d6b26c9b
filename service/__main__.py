"""``python -m service``: runs the server."""

from __future__ import annotations

import gc
import logging.config
import os
import signal
import sys
from types import FrameType

from .auth.key_file import make_first_key, show_key
from .auth.keyring import Keyring
from .auth.keys import KeysError
from .settings import Settings, misspelt_settings, read_settings
from .telemetry.logs import configuration

#: Interval of thread switches in seconds. The event loop shares the interpreter with threads that write the
#: log and checkpoints; Python's default, 5 ms, is as long as 20 calls of an estimator.
_SWITCH_SECONDS = 0.0001
#: Further objects after which a garbage collection visits the young ones, and numbers of such collections
#: after which another one visits older ones, and all. Streams hold thousands of objects for a moment. With
#: Python's default, (700, 10, 10), collections take a fifth of the time of a server with 1,000 models.
_GARBAGE = (20_000, 2, 2)

_logger = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGINT or SIGTERM, finish running requests, and exit with code 0."""
    # uvicorn handles both signals while it serves, and raises them again once it has shut down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until the keys have been read
    sys.setswitchinterval(_SWITCH_SECONDS)
    settings = read_settings()
    logging.config.dictConfig(configuration(settings))
    for problem in misspelt_settings(os.environ):
        _logger.warning(problem)
    keyring = _keyring(settings)
    # Late import: torch takes seconds. Invalid settings are reported before, and a signal can end the start.
    # Garbage collection of the imported modules would take a tenth of the start.
    gc.disable()
    from .app import serve

    gc.freeze()
    gc.set_threshold(*_GARBAGE)
    gc.enable()
    sys.exit(serve(settings, keyring))


def _keyring(settings: Settings) -> Keyring:
    try:
        if settings.make_key:
            make_first_key(settings, _show_first_key)
        keyring = Keyring(settings)
    except KeysError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGHUP, lambda number, frame: keyring.reload())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    return keyring


def _show_first_key(secret: str) -> None:
    show_key(f"The first API key, with all scopes; it is not shown again: {secret}")


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(f"python -m {__package__} takes no arguments: see `bnp-online serve --help`", file=sys.stderr)
        sys.exit(2)
    main()
