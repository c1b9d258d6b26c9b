"""``python -m service``: runs the server."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType

from .auth.keys import Keyring, KeysError, make_first_key
from .settings import Settings, read_settings

#: Interval of thread switches in seconds. The event loop shares the interpreter with threads that write the
#: log and checkpoints; Python's default, 5 ms, is as long as 20 calls of an estimator.
_SWITCH_SECONDS = 0.0001


def main() -> None:
    """Serve until SIGINT or SIGTERM, finish running requests, and exit with code 0."""
    # uvicorn handles both signals while it serves, and raises them again once it has shut down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    sys.setswitchinterval(_SWITCH_SECONDS)
    settings = read_settings()
    keyring = _keyring(settings)
    # Late import: torch takes seconds. Invalid settings are reported before, and a signal can end the start.
    # Garbage collection of the imported modules would take a tenth of the start.
    gc.disable()
    from .app import serve

    gc.freeze()
    gc.enable()
    sys.exit(serve(settings, keyring))


def _keyring(settings: Settings) -> Keyring:
    try:
        if settings.make_key and (secret := make_first_key(settings)) is not None:
            print(f"The first API key, with all scopes; it is not shown again: {secret}", flush=True)
        keyring = Keyring(settings)
    except KeysError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if keyring.file is not None:  # without a file, SIGHUP ends the server, as by default
        signal.signal(signal.SIGHUP, lambda number, frame: keyring.reload())
    return keyring


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(f"python -m {__package__} takes no arguments: see `bnp-online serve --help`", file=sys.stderr)
        sys.exit(2)
    main()
