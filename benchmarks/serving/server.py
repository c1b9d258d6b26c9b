"""A server in a process of its own, for the benchmarks that send it requests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ..common.report import ROOT


class Served:
    """A running server.

    Attributes
    ----------
    port : int
        Where it listens, on this machine.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url
        self.port = urlsplit(url).port or 0

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s*(\d+)", status)
        return int(found[1]) * 1024 if found else 0

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def serve(folder: Path, prefix: str = "", **settings: str) -> Iterator[Served]:
    """Start ``python -m service`` on a data folder; it is ended with the block.

    Parameters
    ----------
    folder : path
        The data folder.
    prefix : str
        Python to run in the process before the server.
    **settings
        Environment variables.
    """
    code = f"{prefix}\nimport runpy; runpy.run_module('service', run_name='__main__')"
    own = {"BNP_PORT": "0", "BNP_DATA_DIR": str(folder), "BNP_DEVICE": "cpu", **settings}
    with _running([sys.executable, "-c", code], {**os.environ, **own}, folder / "server.log") as served:
        yield served


@contextmanager
def serve_module(module: str, *arguments: str, log: Path) -> Iterator[Served]:
    """Start another server, ``python -m module``; `log` takes what it prints."""
    with _running([sys.executable, "-m", module, *arguments], dict(os.environ), log) as served:
        yield served


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[Served]:
    with (
        log.open("w+") as output,
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=output, text=True) as process,
    ):
        try:
            yield Served(process, _address(process, log))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Wait until the server says where it listens."""
    while process.poll() is None:
        if found := re.search(r"running on (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"the server ended: {log.read_text()}")
