"""One minute of mixed requests, then a crash and a recovery.

Sixty-four connections learn, predict, label, stream lines and send malformed requests to a server on
loopback. The program records memory and latencies. Then it kills the server, starts it again and checks that
the log has each acknowledged sample.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from .client import Connection
from .server import Served, serve

#: Frequencies of the kinds of request.
MIX = {"learn": 40, "predict": 25, "predict, kept": 10, "label": 10, "lines": 10, "bad": 5}
FEATURES, LINES = 64, 100
#: Documented statuses.
ANNOUNCED = {200, 400, 404, 409, 413, 422, 429, 503}


@dataclass
class Tally:
    """Results of the load.

    Attributes
    ----------
    seconds : dict of str to list
        Latency of each request, by kind.
    statuses : Counter
        By kind and status.
    learned : dict of str to int
        The step that was answered, by id.
    memory : list of (float, int)
        Seconds since the start, and the server's resident bytes.
    """

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    learned: dict[str, int] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)


def _x(rng: random.Random) -> dict[str, float]:
    return {f"feature{i}": round(rng.gauss(0.0, 1.0), 6) for i in range(FEATURES)}


def _y(x: dict[str, float]) -> int:
    return int(x["feature0"] > 0) + int(x["feature1"] > 0)


async def _client(number: int, port: int, until: float, tally: Tally) -> None:
    """Send requests until the time is over."""
    rng, connection, waiting = random.Random(number), Connection("127.0.0.1", port), list[str]()  # noqa: S311
    for n in range(10**9):
        if time.perf_counter() >= until:
            break
        (kind,) = rng.choices([*MIX], [*MIX.values()])
        name = f"c{number}-{n}"
        path, body, media = _request(kind, name, rng, waiting)
        start = time.perf_counter()
        status, answer = await connection.post(path, body, media)
        tally.seconds[kind].append(time.perf_counter() - start)
        tally.statuses[kind, status] += 1
        _note(kind, name, status, answer, tally, waiting)
    await connection.close()


def _request(kind: str, name: str, rng: random.Random, waiting: list[str]) -> tuple[str, bytes, str]:
    """Return path, body and media type of a request."""
    media = "application/json"
    x = _x(rng)
    body: Any
    if kind == "learn":
        path, body = "/learn", {"x": x, "y": _y(x), "id": name}
    elif kind.startswith("predict"):
        path, body = "/predict", {"x": x, **({"id": name} if "kept" in kind else {})}
    elif kind == "label":
        path, body = "/label", {"id": waiting.pop() if waiting else "nobody", "y": 1}
    elif kind == "lines":
        lines = [{"x": (x := _x(rng)), "y": _y(x), "id": f"{name}-{i}"} for i in range(LINES)]
        return "/learn", "\n".join(map(json.dumps, lines)).encode(), "application/x-ndjson"
    else:
        path = rng.choice(("/learn", "/predict", "/label"))
        body = rng.choice(({"x": {"a": []}}, {"x": x, "y": 0.5}, {"x": x, "y": 1, "z": 1}, [1], {"id": ""}))
        if rng.random() < 0.3:
            return path, rng.randbytes(40), media
    return path, json.dumps(body).encode(), media


def _note(kind: str, name: str, status: int, answer: bytes, tally: Tally, waiting: list[str]) -> None:
    if status != 200:
        return
    if kind == "learn":
        tally.learned[name] = json.loads(answer)["step"]
    elif kind == "predict, kept":
        waiting.append(name)
    elif kind == "lines":
        for i, line in enumerate(answer.splitlines()):
            if (step := json.loads(line).get("step")) is not None:
                tally.learned[f"{name}-{i}"] = step


async def _watch(server: Served, begun: float, until: float, tally: Tally, progress: Progress) -> None:
    task = progress.add_task("loading", total=until - begun)
    while (now := time.perf_counter()) < until:
        tally.memory.append((now - begun, server.server.memory()))
        progress.update(task, completed=now - begun)
        await asyncio.sleep(0.5)
    progress.update(task, completed=until - begun)


async def _load(server: Served, connections: int, seconds: float, progress: Progress) -> Tally:
    tally, begun = Tally(), time.perf_counter()
    until = begun + seconds
    clients = [_client(i, server.port, until, tally) for i in range(connections)]
    await asyncio.gather(_watch(server, begun, until, tally, progress), *clients)
    return tally


async def _missing(port: int, learned: dict[str, int], progress: Progress) -> list[str]:
    """Return the ids of acknowledged samples that the log of a server lacks."""
    connection, there, after = Connection("127.0.0.1", port), dict[str, int | None](), 0
    task = progress.add_task("checking", total=len(learned))
    while events := (await connection.get(f"/models/default/events?limit=1000&after={after}"))["events"]:
        there |= {event["id"]: event["step"] for event in events if event["kind"] == "learn"}
        after = events[-1]["sequence"]
        progress.update(task, completed=min(len(there), len(learned)))
    return [name for name, step in learned.items() if there.get(name) != step]


def latencies(tally: Tally) -> list[list[str]]:
    """Return count, percentiles and answers of each kind of request."""
    rows = []
    for kind in MIX:
        times = sorted(tally.seconds[kind])
        marks = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
        shown = [f"{1000 * marks[q - 1]:.1f}" for q in (50, 95, 99)]
        codes = sorted((status, n) for (k, status), n in tally.statuses.items() if k == kind)
        answers = ", ".join(f"{n:,}× {status}" for status, n in codes)
        rows.append([kind, f"{len(times):,}", *shown, answers])
    return rows


def latency_table(content: Content) -> Table:
    """Return percentiles by kind of request."""
    rows = [[Cell(text) for text in row] for row in content["latency"]]
    header = ["request", "count", "p50", "p95", "p99", "answers"]
    return Table("Latency in ms, and answers by status", header, rows)


def verdict(tally: Tally, missing: Sequence[str], warm: float) -> dict[str, Any]:
    """Return the verdict as JSON."""
    after = [size for at, size in tally.memory if at >= warm]
    early, late = after[: len(after) // 2], after[len(after) // 2 :]
    unannounced = {f"{kind} {s}": n for (kind, s), n in tally.statuses.items() if s not in ANNOUNCED}
    return {
        "requests": sum(tally.statuses.values()),
        "samples_acknowledged": len(tally.learned),
        "acknowledged_and_missing": len(missing),
        "unannounced_answers": unannounced,
        "memory_mib_after_warm_up": [round(min(after) / 2**20, 1), round(max(after) / 2**20, 1)],
        "memory_growth_mib": round((statistics.median(late) - statistics.median(early)) / 2**20, 1),
    }


def sentence(found: dict[str, Any]) -> str:
    """Return the verdict in words."""
    low, high = found["memory_mib_after_warm_up"]
    others = found["unannounced_answers"] or "none"
    return (
        f"{found['requests']:,} requests; of {found['samples_acknowledged']:,} acknowledged samples "
        f"{found['acknowledged_and_missing']:,} were missing after the crash; undocumented responses: "
        f"{others}; resident memory after the warm-up {low:.0f} to {high:.0f} MiB, its median "
        f"{found['memory_growth_mib']:+.1f} MiB from the first half of that time to the second."
    )


def draw(content: Content, path: Path) -> None:
    """Draw the server's resident memory over time."""
    warm, (seconds, sizes) = content["seconds"] / 3, zip(*content["memory_mib"], strict=True)
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("Agg")
    figure, ax = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
    ax.axvspan(0, warm, color="#f1f5f9")
    ax.plot(seconds, sizes, color="#c2410c")
    ax.annotate("warm-up", (warm / 2, 0.06), xycoords=("data", "axes fraction"), ha="center", color="#64748b")
    ax.set_ylim(bottom=0)
    ax.set_xlim(0, seconds[-1])
    ax.set_xlabel("seconds")
    ax.set_title("Resident memory of the server under load, MiB", loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Load a server, kill it and start it again; return what came of it."""
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        with serve(Path(folder)) as server:
            tally = asyncio.run(_load(server, arguments.connections, arguments.seconds, progress))
            server.server.kill()
        with serve(Path(folder)) as server:
            missing = asyncio.run(_missing(server.port, tally.learned, progress))
    return {
        "seconds": arguments.seconds,
        "connections": arguments.connections,
        "mix": MIX,
        "verdict": verdict(tally, missing, arguments.seconds / 3),
        "latency": latencies(tally),
        "memory_mib": [[round(at, 2), round(size / 2**20, 2)] for at, size in tally.memory],
    }


def blocks(content: Content) -> Blocks:
    """Return the verdict and the latencies."""
    return {"load": [sentence(content["verdict"]), latency_table(content)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program; exit code 1 if an acknowledged sample is missing or an answer is undocumented."""
    parser = arguments_of("load", __doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    content = run("load", parser.parse_args(argv), measure, blocks, draw)
    found = content["verdict"]
    sys.exit(bool(found["acknowledged_and_missing"] or found["unannounced_answers"]))
