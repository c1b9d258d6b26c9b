"""Lag of a replica behind an owner that learns 1,000 samples a second.

Each prediction of the replica states its step and its staleness (``BNP-Staleness-Ms``). The program also
measures the delay of each step: from the answer of the owner to the sample, until the first answer of the
replica with this step or a later one. The time between two predictions is part of it. Needs a database of
PostgreSQL without tables of bnp-online.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from .client import Connection
from .server import Served, processor_time, serve
from .throughput import write_bodies

#: Connections that send samples, and seconds between two predictions.
_CONNECTIONS, _PERIOD = 16, 0.005
#: Most seconds until the replica has all samples.
_END = 30.0


@dataclass
class Tally:
    """Times of `time.perf_counter` in seconds.

    Attributes
    ----------
    learned : dict of int to float
        Time of the answer to each sample, by its step.
    predictions : list of (float, float, int, float)
        Of each prediction: times of the request and of its answer, step, and stated staleness in ms.
    """

    learned: dict[int, float] = field(default_factory=dict)
    predictions: list[tuple[float, float, int, float]] = field(default_factory=list)


async def _learn(port: int, bodies: Sequence[bytes], rate: float, until: float, tally: Tally) -> None:
    """Send samples at a rate, and note when each was learned."""
    start, numbers = time.perf_counter(), itertools.count()

    async def send() -> None:
        connection = Connection("127.0.0.1", port)
        while (due := start + (number := next(numbers)) / rate) < until:
            await asyncio.sleep(max(due - time.perf_counter(), 0.0))
            status, answer = await connection.post("/learn", bodies[number % len(bodies)])
            if status != 200:
                raise RuntimeError(f"a sample was not learned: {answer!r}")
            tally.learned[json.loads(answer)["step"]] = time.perf_counter()
        await connection.close()

    await asyncio.gather(*(send() for _ in range(_CONNECTIONS)))


async def _predict(port: int, bodies: Sequence[bytes], until: float, tally: Tally) -> None:
    """Ask the replica for predictions until it has all samples."""
    connection = Connection("127.0.0.1", port)
    for body in itertools.cycle(bodies):
        asked = time.perf_counter()
        status, answer = await connection.post("/predict", body)
        if status != 200:
            raise RuntimeError(f"the replica does not predict: {answer!r}")
        step, stated = int(connection.fields[b"bnp-step"]), float(connection.fields[b"bnp-staleness-ms"])
        tally.predictions.append((asked, time.perf_counter(), step, stated))
        if asked > until and step >= max(tally.learned, default=0):
            break
        if asked > until + _END:
            raise RuntimeError(f"the replica is at step {step}, and the owner at {max(tally.learned)}")
        await asyncio.sleep(_PERIOD)
    await connection.close()


async def _load(owner: Served, replica: Served, rate: float, seconds: float) -> Tally:
    """Learn and predict at the same time."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        learn, predict = (path.read_bytes().splitlines() for path in write_bodies(Path(folder)))
    until = time.perf_counter() + seconds
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_learn(owner.port, learn, rate, until, tally))
        tasks.create_task(_predict(replica.port, predict, until, tally))
    return tally


async def _wait(replica: Served) -> None:
    """Wait until a replica predicts."""
    connection, deadline = Connection("127.0.0.1", replica.port), time.perf_counter() + _END
    while (await connection.post("/predict", b'{"x": {"f00": 1}}'))[0] != 200:
        if time.perf_counter() > deadline:
            raise RuntimeError("the replica does not predict")
        await asyncio.sleep(0.1)
    await connection.close()


def delays(tally: Tally) -> list[float]:
    """Return for each step the milliseconds until the replica had it."""
    found, steps = [], iter(sorted(tally.learned.items()))
    step, learned = next(steps, (0, 0.0))
    for _, answered, reached, _ in tally.predictions:
        while step and step <= reached:
            found.append(1000 * max(answered - learned, 0.0))
            step, learned = next(steps, (0, 0.0))
    return found


def understated(tally: Tally) -> list[float]:
    """Return by how many milliseconds predictions were staler than stated, if they were.

    A state is stale from the answer to the next sample on, at the latest.
    """
    excess = []
    for asked, _, step, stated in tally.predictions:
        following = tally.learned.get(step + 1)
        if following is not None and (less := 1000 * (asked - following) - stated) > 0:
            excess.append(less)
    return excess


def marks(values: Sequence[float]) -> dict[str, float]:
    """Return percentiles and maximum."""
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [*values] * 99
    found = {f"p{at}": cuts[at - 1] for at in (50, 99)} | {"max": max(values)}
    return {name: round(value, 1) for name, value in found.items()}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Run an owner and a replica under load, and return what the replica stated and what was measured."""
    with ExitStack() as stack:
        nodes = []
        for role in ("owner", "replica"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            settings = {"BNP_STORE": arguments.url, "BNP_ROLE": role, "BNP_NODE": role}
            nodes.append(stack.enter_context(serve(folder, **settings)))
        owner, replica = nodes
        asyncio.run(_wait(replica))
        console.print(f"loading for {arguments.warm_up + arguments.seconds:g} s")
        asyncio.run(_load(owner, replica, arguments.rate, arguments.warm_up))
        before, begun = [processor_time(node.server.process.pid) for node in nodes], time.perf_counter()
        tally = asyncio.run(_load(owner, replica, arguments.rate, arguments.seconds))
        lasted = time.perf_counter() - begun
        spent = [processor_time(node.server.process.pid) - at for node, at in zip(nodes, before, strict=True)]
    late = understated(tally)
    return {
        "rate": arguments.rate,
        "seconds": arguments.seconds,
        "learned": round(len(tally.learned) / lasted, 1),
        "predictions": len(tally.predictions),
        "stated": marks([stated for *_, stated in tally.predictions]),
        "delay": marks(delays(tally)),
        "understated": {"count": len(late), "max": round(max(late, default=0.0), 1)},
        "cores": {
            role: round(time_ / lasted, 3) for role, time_ in zip(("owner", "replica"), spent, strict=True)
        },
    }


def blocks(content: Content) -> Blocks:
    """Return the percentiles, and a paragraph."""
    kinds = {"stated": "stated by a prediction", "delay": "from the owner's answer to the replica's"}
    rows = [
        [Cell(text), *(Cell(f"{content[kind][mark]:,.0f}") for mark in ("p50", "p99", "max"))]
        for kind, text in kinds.items()
    ]
    late, cores = content["understated"], content["cores"]
    text = (
        f"The owner learned {content['learned']:,.0f} samples a second for {content['seconds']:g} s and took "
        f"{cores['owner']:.2f} cores, the replica {cores['replica']:.2f}. Of {content['predictions']:,} "
        f"predictions {late['count']:,} were staler than stated"
        + (f", by at most {late['max']:.1f} ms." if late["count"] else ".")
    )
    title = "Staleness of a replica, ms"
    return {"staleness": [Table(title, ["", "p50", "p99", "max"], rows), text]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("staleness", __doc__, pages=["docs/cluster.md"])
    parser.add_argument(
        "--url", default=os.environ.get("BNP_STORE"), help="database (postgresql://…; default: BNP_STORE)"
    )
    parser.add_argument("--rate", type=float, default=1000.0, help="samples a second (default: 1,000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration (default: 60)")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds of the same load before")
    arguments = parser.parse_args(argv)
    if arguments.url is None and arguments.read is None:
        parser.error("give the URL of a database: --url postgresql://…")
    run("staleness", arguments, measure, blocks)
