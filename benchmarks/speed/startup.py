"""How long the server takes to be ready, against importing torch and numba alone."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from ..common.report import ROOT, Cell, Table
from .timing import Effort, Tick

_PROGRAM = "import torch, numba, time\nprint(time.time())"
_WHOLE, _IMPORTED, _READY = "python -c 'import torch, numba'", "its imports alone", "python -m service, ready"
#: Bytecode is written, as installing a package does; the first start is not counted, and warms all caches.
_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _imports() -> dict[str, float]:
    """Return the seconds until torch and numba are imported, and until that process has ended."""
    command = [sys.executable, "-c", _PROGRAM]
    start = time.time()
    done = subprocess.run(command, cwd=ROOT, env=_ENVIRONMENT, check=True, capture_output=True, text=True)
    return {_WHOLE: time.time() - start, _IMPORTED: float(done.stdout) - start}


def _ready() -> float:
    """Return the seconds until ``/health/ready`` answers 200."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"BNP_PORT": str(port), "BNP_DATA_DIR": folder, "BNP_LOG_LEVEL": "error"}
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env={**_ENVIRONMENT, **settings}
        )
        try:
            while not _answers(port):
                if child.poll() is not None or time.perf_counter() - start > 300.0:
                    raise RuntimeError("the server did not become ready")
                time.sleep(0.002)
            return time.perf_counter() - start
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def measure(effort: Effort, tick: Tick) -> dict[str, Any]:
    """Return the median seconds of each, started in turns after one start of each as a warm-up."""
    times: dict[str, list[float]] = {_WHOLE: [], _IMPORTED: [], _READY: []}
    for repeat in range(effort.repeats + 1):
        tick(f"start {repeat} of {effort.repeats}")
        for name, seconds in {**_imports(), _READY: _ready()}.items():
            if repeat > 0:
                times[name].append(seconds)
    return {name: statistics.median(of) for name, of in times.items()}


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the seconds, and the server's as a multiple of the others."""
    rows = []
    for name, seconds in results.items():
        times = "" if name == _READY else f"{results[_READY] / seconds:.2f}×"
        rows.append([Cell(name), Cell(f"{seconds:.2f} s"), Cell(times)])
    return [Table("Start, with warm caches", ["process", "until then", "the server takes"], rows)]
