"""Recovery of a long log: time until a server that was killed is ready again, and memory, against a checkout.

Each server learns the same lines without a checkpoint, and is killed. Then it is started again, so that it
replays all of them. A start on an empty folder is given for comparison.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import ROOT, Cell, Table
from .server import serve
from .throughput import LINES_A_REQUEST, MODELS, STREAMS, write_bodies

HERE, OTHER = "this version", "other checkout"
#: Interval of checkpoints, in events and in bytes: none is written.
_NEVER = str(10**15)
_MIB = 2**20


def _peak(process: int) -> int:
    """Return the greatest resident memory of a process in bytes (Linux)."""
    [line] = [each for each in Path(f"/proc/{process}/status").read_text().splitlines() if "VmHWM" in each]
    return 1024 * int(line.split()[1])


def _learn(url: str, lines: Sequence[bytes], count: int, progress: Progress, what: str) -> None:
    """Send lines in several streams at once."""
    task = progress.add_task(what, total=count)
    requests = [b"".join(lines[i : i + LINES_A_REQUEST]) for i in range(0, len(lines), LINES_A_REQUEST)]
    with httpx.Client(base_url=url, timeout=600.0) as client, ThreadPoolExecutor(STREAMS) as pool:

        def send(body: bytes) -> None:
            answer = client.post("/learn", content=body, headers={"content-type": "application/x-ndjson"})
            answer.raise_for_status()
            progress.update(task, advance=answer.content.count(b'"duplicate":false'))

        bodies = itertools.islice(itertools.cycle(requests), count // LINES_A_REQUEST)
        for _ in pool.map(send, bodies):
            pass


def one(
    checkout: Path, model: str, lines: Sequence[bytes], count: int, progress: Progress
) -> dict[str, float]:
    """Return seconds and memory of the starts of one version."""
    settings: dict[str, Any] = {
        "checkout": checkout,
        "BNP_DEFAULT_MODEL": json.dumps(MODELS[model]),
        "BNP_CHECKPOINT_EVERY": _NEVER,
        "BNP_CHECKPOINT_BYTES": _NEVER,
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        with serve(data, **settings):  # compiles, if it must
            pass
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        begun = time.perf_counter()
        with serve(data, **settings) as served:
            found["empty"] = time.perf_counter() - begun
            _learn(served.url, lines, count, progress, f"{model}, {checkout.name}")
            before = httpx.get(f"{served.url}/models/default/fingerprint").json()
            served.server.kill()
        begun = time.perf_counter()
        with serve(data, **settings) as served:
            found["seconds"] = time.perf_counter() - begun
            found["memory"] = _peak(served.server.process.pid)
            after = httpx.get(f"{served.url}/models/default/fingerprint").json()
        if after != before:
            raise RuntimeError(f"the state is another one: {before} before, {after} after")
    return found


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return seconds and bytes by model and version."""
    sides = {HERE: ROOT}
    if arguments.against is not None:
        sides[OTHER] = arguments.against.resolve()
    results = {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        learn, _ = write_bodies(Path(folder))
        lines = learn.read_bytes().splitlines(keepends=True)
        for model in arguments.models:
            results[model] = {
                name: one(checkout, model, lines, arguments.lines, progress)
                for name, checkout in sides.items()
            }
    return {"lines": arguments.lines, "results": results}


def blocks(content: Content) -> Blocks:
    """Return a table of seconds, samples a second, and memory."""
    rows = []
    for model, by_side in content["results"].items():
        for name, of in by_side.items():
            spent = of["seconds"] - of["empty"]
            ratio = (by_side[OTHER]["seconds"] - by_side[OTHER]["empty"]) / spent if OTHER in by_side else 0.0
            figures = [
                f"{of['empty']:.1f}",
                f"{of['seconds']:.1f}",
                f"{content['lines'] / spent:,.0f}",
                f"{of['memory'] / _MIB:,.0f}",
                f"{ratio:.1f} ×" if ratio and name == HERE else "",
            ]
            rows.append([Cell(f"{model}, {name}"), *map(Cell, figures)])
    columns = ["", "empty start, s", "start, s", "samples a second", "peak memory, MiB", "faster"]
    return {"recovery": [Table(f"Recovery of {content['lines']:,} lines", columns, rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("recovery", __doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["one member", "default"])
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines in the log")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a checkout to compare with")
    run("recovery", parser.parse_args(argv), measure, blocks)
