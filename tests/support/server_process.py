"""Servers in processes of their own, and the contents of their data folders."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jiter
import pytest

from service.cli.launch import ServerProcess, StartError
from tests.support.preloaded import PreloadedServer
from tests.support.programs import ROOT
from tests.support.replay import Replica, read_log

Json = dict[str, Any]

#: Small networks: what is tested is not their speed.
DEFAULT_MODEL = '{"hidden": [6], "replay": 1, "memory": 50}'
_RUN = "import runpy; runpy.run_module('service', run_name='__main__')"


def process(
    tmp_path: Path, kind: type[ServerProcess] = PreloadedServer, /, **environment: str
) -> ServerProcess:
    """Start ``python -m service`` with a data folder that it has to make."""
    own = {"BNP_PORT": "0", "BNP_DATA_DIR": str(tmp_path / "made" / "by the server"), **environment}
    return kind(cwd=ROOT, stdout=subprocess.PIPE, environment=own)


def end(server: ServerProcess) -> tuple[str, str]:
    """Stop a server, and return its standard output and its log."""
    assert server.stop() == 0
    assert server.process.stdout is not None
    return server.process.stdout.read(), "".join(server.lines)


class RestartableServer:
    """Server on a data folder that can be killed and started again.

    Parameters
    ----------
    folder : path
        The data folder.
    prefix : str
        Python code that the process runs first.
    **environment
        Settings. Every start takes a free port unless ``BNP_PORT`` is set.
    """

    def __init__(self, folder: Path, prefix: str = "", **environment: str) -> None:
        self.folder = folder
        self._prefix = prefix
        self._environment = {
            "BNP_PORT": "0",
            "BNP_DATA_DIR": str(folder),
            "BNP_DEFAULT_MODEL": DEFAULT_MODEL,
            "BNP_DEVICE": "cpu",
            **environment,
        }
        self.client = httpx.Client()

    def start(self) -> httpx.Client:
        """Start the process, wait until it serves, and return a client of it."""
        self.launch()
        return self.ready()

    def launch(self, prefix: str | None = None, **environment: str) -> None:
        """Start the process, if needed with another prefix and further settings, and do not wait."""
        first = self._prefix if prefix is None else prefix
        settings = {**self._environment, **environment}
        if first or any(not name.startswith("BNP_") for name in settings):
            self.running = ServerProcess("-c", f"{first}\n{_RUN}", cwd=ROOT, environment=settings)
        else:
            self.running = PreloadedServer(cwd=ROOT, environment=settings)

    def ready(self) -> httpx.Client:
        """Wait until the process serves, and return a client of it."""
        self.client = httpx.Client(base_url=self.running.ready(), timeout=30.0)
        return self.client

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        self.running.kill()
        self.client.close()

    def terminate(self) -> int:
        """Stop the process (SIGTERM), and return its exit code."""
        code = self.running.stop()
        self.client.close()
        return code

    def refusal(self) -> str:
        """Start the process, which must end with exit code 1 instead of serving; return its log."""
        with pytest.raises(StartError) as refused:
            self.start()
        said = str(refused.value)
        assert self.running.wait() == 1, said
        assert "Traceback" not in said
        return said

    def limit_files(self, size: int | None) -> None:
        """Limit the size of the files that the process writes; None removes the limit."""
        limit = resource.RLIM_INFINITY if size is None else size
        resource.prlimit(self.running.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@contextlib.contextmanager
def restartable(folder: Path, prefix: str = "", **environment: str) -> Iterator[RestartableServer]:
    """Yield a server that is killed in the end, unless it has ended."""
    server = RestartableServer(folder, prefix, **environment)
    try:
        yield server
    finally:
        server.kill()


def logged(folder: Path, model: str = "default") -> list[tuple[str, str | None, Any, str | None]]:
    """Return kind, id, body and refusal of each event of a model, read from SQLite directly."""
    rows = read_log(folder).rows[model]
    return [(row.kind, row.id, jiter.from_json(row.body), row.refused) for row in rows]


def replayed(folder: Path, model: str = "default") -> str:
    """Return the fingerprint of an estimator in this process that learns the log sample by sample."""
    events = read_log(folder).rows[model]
    replica = Replica(jiter.from_json(events[0].body))
    for row in events[1:]:
        replica.apply(row)
    return str(replica.estimator.fingerprint())


def wait_until(condition: Any, seconds: float = 120.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition does not hold in time"
        time.sleep(0.02)
