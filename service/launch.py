"""A server of one's own, as a child process: for the demo."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from service.settings import Settings


class StartError(Exception):
    """The server did not become ready; what it printed says why."""


@contextmanager
def running_server(settings: Settings, timeout: float = 120.0) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``python -m service``, wait until it is ready, and end it when the block ends.

    Parameters
    ----------
    settings : Settings
        Where it will listen; the child reads the same environment.
    timeout : float
        Seconds for it to become ready.

    Raises
    ------
    StartError
        If its port is taken, it ended, or was not ready in time.
    """
    _require_free(settings)
    # A session of its own: Ctrl-C reaches whoever started this, who then ends the server in order.
    child = subprocess.Popen([sys.executable, "-m", "service"], start_new_session=True)
    try:
        _wait(child, url_of(settings), timeout)
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def _require_free(settings: Settings) -> None:
    """Refuse a port that is taken: its owner's answers must not pass for the child's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; set BNP_PORT to another"
            ) from None


def url_of(settings: Settings) -> str:
    """Return the address at which a server with these settings answers on this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 (not a bind)
    return f"http://{host}:{settings.port}"


def _wait(child: subprocess.Popen[bytes], url: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise StartError(f"the server ended with exit code {child.returncode}")
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise StartError(f"no server was ready at {url} within {timeout:g} s")
