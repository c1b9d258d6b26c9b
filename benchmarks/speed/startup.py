"""Time until the server is ready, against the import of torch and numba."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import httpx

from service.cli.launch import ServerProcess

from ..common.report import ROOT, Cell, Table
from .timing import Effort, Tick

_PROGRAM = "import torch, numba, time\nprint(time.time())"
_WHOLE, _IMPORTED, _READY = "python -c 'import torch, numba'", "its imports alone", "python -m service, ready"
#: Lets Python write bytecode, as the installation of a package does. The first start is a warm-up.
_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}


def _imports() -> dict[str, float]:
    """Return the seconds until torch and numba are imported, and until that process has ended."""
    command = [sys.executable, "-c", _PROGRAM]
    start = time.time()
    environment = {**os.environ, **_BYTECODE}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return {_WHOLE: time.time() - start, _IMPORTED: float(done.stdout) - start}


def _ready() -> float:
    """Return the seconds until ``/health/ready`` answers 200."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"BNP_PORT": "0", "BNP_DATA_DIR": folder, **_BYTECODE}
        start = time.perf_counter()
        with ServerProcess("-m", "service", cwd=ROOT, environment=environment) as server:
            httpx.get(f"{server.ready()}/health/ready", timeout=10.0).raise_for_status()
            return time.perf_counter() - start


def measure(effort: Effort, tick: Tick) -> dict[str, Any]:
    """Return the median seconds of each process; they start in turns, after a warm-up."""
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
