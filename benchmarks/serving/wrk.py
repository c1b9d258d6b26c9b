"""wrk, the load generator: https://github.com/wg/wrk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from .server import Served, processor_time

_SCRIPT = Path(__file__).with_name("wrk.lua")
_ABSENT = """This program needs wrk, the load generator:
  Debian, Ubuntu: apt-get install wrk
  macOS:          brew install wrk"""


@dataclass(frozen=True)
class Load:
    """Requests to send.

    Attributes
    ----------
    path : str
        Path of the route, and the query.
    bodies : path
        File with one sample as JSON a line, or folder with one body a file.
    connections : int
        Number of connections; each waits for its response before the next request.
    seconds : float
        Duration.
    lines : int
        Samples in a request.
    media : str
        Media type of a folder's files.
    """

    path: str
    bodies: Path
    connections: int
    seconds: int
    lines: int = 1
    media: str = ""

    @property
    def arguments(self) -> list[str]:
        """Arguments of the script: the media type, lines of a body, and files."""
        if self.bodies.is_dir():
            return [self.media, "0", *(str(each) for each in sorted(self.bodies.iterdir()))]
        media = "application/json" if self.lines == 1 else "application/x-ndjson"
        return [media, str(self.lines), str(self.bodies)]


@dataclass(frozen=True)
class Result:
    """Rate and latencies of a run.

    Attributes
    ----------
    rate : float
        Samples a second, in requests that were answered whole.
    p50, p95, p99 : float
        Latency of a request in milliseconds.
    processor, loop : float
        Processor time of the server in microseconds a sample, and that of its event loop; 0 where `measure`
        did not take it.
    """

    rate: float
    p50: float
    p95: float
    p99: float
    processor: float = 0.0
    loop: float = 0.0


def require() -> None:
    """End the program with an explanation if wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit(_ABSENT)


def start(url: str, load: Load) -> subprocess.Popen[str]:
    """Start wrk."""
    options = ["--threads", "1", "--connections", str(load.connections)]
    options += ["--duration", f"{load.seconds}s", "--timeout", "60s"]
    script = ["--script", str(_SCRIPT), f"{url}{load.path}", "--", *load.arguments]
    return subprocess.Popen(["wrk", *options, *script], stdout=subprocess.PIPE, text=True)


def finish(sending: subprocess.Popen[str], load: Load) -> Result:
    """Wait for the end of wrk, and return its result.

    Raises
    ------
    RuntimeError
        If a request failed.
    """
    printed, _ = sending.communicate()
    _, _, result = printed.partition("RESULT ")
    found = json.loads(result)
    if found["errors"]:
        raise RuntimeError(f"some requests failed: {printed}")
    rate = found["requests"] * load.lines / found["seconds"]
    return Result(rate, *(found[name] / 1000 for name in ("p50", "p95", "p99")))


def run(url: str, load: Load) -> Result:
    """Run wrk, and return its result; raises as `finish`."""
    return finish(start(url, load), load)


def measure(served: Served, load: Load) -> Result:
    """Run wrk, and return its result with the processor time of the server; raises as `finish`."""
    process = served.server.process.pid
    before, begun = processor_time(process), processor_time(process, process)
    result = run(served.url, load)
    samples = max(result.rate * load.seconds, 1.0) / 1e6
    loop = (processor_time(process, process) - begun) / samples
    return replace(result, processor=(processor_time(process) - before) / samples, loop=loop)
