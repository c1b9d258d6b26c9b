"""A real server process that can be killed, and what there is to find in its data folder afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jiter

from bnp_online import BNPClassifier, BNPRegressor

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]

#: Small networks: what is tested is not their speed.
DEFAULT_MODEL = '{"hidden": [6], "replay": 1, "memory": 50}'


class ServerProcess:
    """``python -m service`` on a data folder; every start takes a port of its own.

    Parameters
    ----------
    folder : path
        The data folder.
    prefix : str
        Python to run in the process before the server.
    **environment
        Settings.
    """

    def __init__(self, folder: Path, prefix: str = "", **environment: str) -> None:
        self.folder = folder
        self._command = [
            sys.executable,
            "-c",
            f"{prefix}\nimport runpy; runpy.run_module('service', run_name='__main__')",
        ]
        self._environment = {
            **os.environ,
            "BNP_PORT": "0",
            "BNP_DATA_DIR": str(folder),
            "BNP_DEFAULT_MODEL": DEFAULT_MODEL,
            "BNP_DEVICE": "cpu",
            **environment,
        }
        self.lines: list[str] = []
        self._reader: threading.Thread | None = None

    def begin(self) -> None:
        """Start the process."""
        self.lines = []
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stderr=subprocess.PIPE, text=True
        )

    def start(self) -> httpx.Client:
        """Start the process, wait until it serves, and return a client of it."""
        self.begin()
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(self.lines))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.client = httpx.Client(base_url=found[1], timeout=30.0)
        return self.client

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += self.process.stderr

    def kill(self) -> None:
        """Kill it, without a word."""
        self.process.kill()
        self._end()

    def terminate(self, timeout: float = 60.0) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._end(timeout)

    def _end(self, timeout: float = 60.0) -> int:
        code = self.process.wait(timeout)
        if self._reader is not None:
            self._reader.join()
            self._reader = None
            self.client.close()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def refusal(self) -> str:
        """Start it, and return what it says when it ends with exit code 1 instead of serving."""
        self.begin()
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        assert self._end() == 1, said
        assert "Traceback" not in said
        return said

    def limit_files(self, size: int | None) -> None:
        """Let no file of the process grow beyond a size; None: let them grow again."""
        limit = resource.RLIM_INFINITY if size is None else size
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        found = re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024


@contextlib.contextmanager
def running(folder: Path, prefix: str = "", **environment: str) -> Iterator[ServerProcess]:
    """Yield a server that is killed in the end, unless it has ended."""
    server = ServerProcess(folder, prefix, **environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


def logged(folder: Path, model: str = "default") -> list[tuple[str, str | None, Any, str | None]]:
    """Read the log as a stranger would: kind, id, body and refusal of each event of a model, in order."""
    with contextlib.closing(sqlite3.connect(folder / "events.sqlite3")) as database:
        rows = database.execute(
            "SELECT seq, model, kind, id, body, refused FROM event ORDER BY seq"
        ).fetchall()
    made = {jiter.from_json(body)["name"]: seq for seq, _, kind, _, body, _ in rows if kind == "create"}
    return [
        (kind, identifier, jiter.from_json(body), refused)
        for _, owner, kind, identifier, body, refused in rows
        if owner == made[model]
    ]


def replayed(folder: Path, model: str = "default") -> str:
    """Return the fingerprint of an estimator in this process that learns the log, one sample at a time."""
    events = logged(folder, model)
    spec: Json = {k: v for k, v in events[0][2].items() if v is not None}
    make: Any = BNPClassifier if spec.pop("task") == "classification" else BNPRegressor
    del spec["name"], spec["drift"]
    estimator = make(**{k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}, device="cpu")
    for kind, _, body, refused in events:
        if kind in ("learn", "label") and refused is None:
            x, y = (body["x"], body["y"]) if kind == "learn" else body[:2]
            weight = body.get("w") if kind == "learn" else None
            estimator.learn_one(x, y, w=1.0 if weight is None else weight)
    return str(estimator.fingerprint())


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)
