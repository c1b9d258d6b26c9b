"""Many models in one process: rate, memory, start and shutdown, here and in another checkout.

Four servers run side by side: one with many models and one with a single model, of this checkout and of the
other. Rounds of requests alternate between them. Each request learns one sample; on the server with many
models, successive requests, or lines of a stream, go to successive models.

For comparison, the library alone learns the same samples. A server cannot avoid this part of the difference
between many models and one: the state of the next model is not in the processor's caches, and one call cannot
learn samples of several models.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import Progress

from bnp_online import BNPClassifier
from service.cli.launch import ServerProcess
from service.models.scheduling import SLICE

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import ROOT, Cell, Table
from .client import Connection
from .server import processor_time

#: By name: specifications of the models.
SPECS: dict[str, dict[str, Any]] = {
    "small": {"hidden": [6], "replay": 1, "memory": 50},
    "default": {},
}
HERE, OTHER = "here", "other"
KINDS = {"single": "JSON request", "lines": "line"}
#: Connections that send JSON requests, and lines in a request of a stream.
_CONNECTIONS, _LINES = 8, 1000
#: Samples that the library learns in one call, alone: of one model, as the server does.
_CALLS = {"single": 1, "lines": SLICE}
_FIGURES = (
    ("memory of a used model beyond its parameters", "MB", "memory"),
    ("start, the imports alone", "s", "imports"),
    ("start, with checkpoints", "s", "start"),
    ("start, with a replay", "s", "replay"),
    ("shutdown on SIGTERM, all models changed", "s", "stop"),
)


@dataclass
class Side:
    """A server with some models.

    Attributes
    ----------
    checkout, folder : path
        Source and data folder.
    count : int
        Number of models.
    spec : dict
        Their specification.
    settings : dict
        Further settings of the server.
    sent : int
        Number of samples sent.
    server : ServerProcess or None
        The process while it runs.
    """

    checkout: Path
    folder: Path
    count: int
    spec: dict[str, Any]
    settings: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    port: int = 0
    server: ServerProcess | None = field(default=None, repr=False)

    def start(self) -> float:
        """Start the server, and return the seconds until it accepts requests."""
        environment = {
            "BNP_PORT": "0",
            "BNP_DATA_DIR": str(self.folder),
            "BNP_DEVICE": "cpu",
            "BNP_MAX_MODELS": str(self.count + 1),
            "BNP_DEFAULT_MODEL": json.dumps(self.spec),
            "PYTHONPATH": str(self.checkout),
            **self.settings,
        }
        begun = time.perf_counter()
        self.server = ServerProcess("-m", "service", cwd=self.checkout, environment=environment)
        self.port = urlsplit(self.server.ready(600.0)).port or 0
        return time.perf_counter() - begun

    def stop(self, *, kill: bool = False) -> float:
        """End the server, and return the seconds that this took."""
        begun = time.perf_counter()
        if self.server is not None:
            if kill:
                self.server.kill()
            else:
                self.server.stop(600.0)
            self.server = None
        return time.perf_counter() - begun

    def memory(self) -> int:
        """Return the resident bytes of the server."""
        return 0 if self.server is None else self.server.memory()

    def processor_time(self) -> float:
        """Return the seconds of processor time that the server has taken (Linux)."""
        return 0.0 if self.server is None else processor_time(self.server.process.pid)

    def imports(self) -> float:
        """Return the seconds that a process takes to import the server."""
        begun = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        subprocess.run(
            [sys.executable, "-c", "import service.app"], cwd=self.checkout, env=environment, check=True
        )
        return time.perf_counter() - begun

    def bodies(self, count: int) -> list[bytes]:
        """Return the next samples, each for the next model."""
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        return [body_of(number, number % self.count) for number in numbers]

    async def create(self, first: int = 0) -> None:
        """Create the models from a number on."""
        connection = Connection("127.0.0.1", self.port)
        for number in range(first, self.count):
            body = json.dumps({**self.spec, "name": f"m{number}"}).encode()
            status, answer = await connection.post("/models", body)
            if status != 201:
                raise RuntimeError(f"a model was not created: {answer!r}")
        await connection.close()

    async def single(self, count: int) -> float:
        """Send samples in requests of their own; return the samples per second."""
        waiting, begun = iter(self.bodies(count)), time.perf_counter()
        await asyncio.gather(*(self._send(waiting) for _ in range(_CONNECTIONS)))
        return count / (time.perf_counter() - begun)

    async def _send(self, bodies: Iterator[bytes]) -> None:
        connection = Connection("127.0.0.1", self.port)
        for body in bodies:
            status, answer = await connection.post("/learn", body)
            if status != 200:
                raise RuntimeError(f"a sample was not learned: {answer!r}")
        await connection.close()

    async def lines(self, count: int) -> float:
        """Send samples as lines of streams; return the samples per second."""
        bodies, begun = self.bodies(count), time.perf_counter()
        await self._stream(bodies)
        return count / (time.perf_counter() - begun)

    async def fill(self, count: int, first: int = 0) -> None:
        """Send `count` samples to each model from a number on."""
        for model in range(first, self.count):
            await self._stream([body_of(number, model) for number in range(count)])

    async def _stream(self, bodies: Sequence[bytes]) -> None:
        connection = Connection("127.0.0.1", self.port)
        for start in range(0, len(bodies), _LINES):
            body = b"\n".join(bodies[start : start + _LINES])
            _, answer = await connection.post("/learn", body, "application/x-ndjson")
            if b'"error"' in answer:
                raise RuntimeError(f"a line was not learned: {answer[:200]!r}")
        await connection.close()

    async def parameters(self) -> int:
        """Return the bytes of the weights and biases of a model, all members together."""
        found = await Connection("127.0.0.1", self.port).get("/models/m0")
        return 4 * int(found["parameters"])


def body_of(number: int, model: int) -> bytes:
    """Return a sample for a model, by the numbers of both."""
    rng = random.Random(number)  # noqa: S311
    a = rng.gauss(0.0, 1.0)
    x = {"a": a, "b": rng.gauss(0.0, 2.0), "c": rng.random()}
    return json.dumps({"x": x, "y": "cat" if a > 0 else "dog", "model": f"m{model}"}).encode()


@contextmanager
def _running(checkout: Path, folder: Path, count: int, spec: dict[str, Any]) -> Iterator[Side]:
    side = Side(checkout, folder, count, spec)
    try:
        side.start()
        yield side
    finally:
        side.stop(kill=True)


def _memory(side: Side, samples: int) -> float:
    """Create the models and use them; return the MB that each takes beyond its parameters."""
    before = side.memory()
    asyncio.run(side.create())
    asyncio.run(side.fill(samples))
    return ((side.memory() - before) / side.count - asyncio.run(side.parameters())) / 1e6


def _ends(side: Side) -> dict[str, float]:
    """Stop and start a server: after SIGTERM from checkpoints, after SIGKILL from the log."""
    stop = side.stop()
    start = side.start()
    asyncio.run(side.lines(20 * side.count))
    side.stop(kill=True)
    return {"stop": stop, "start": start, "imports": side.imports(), "replay": side.start()}


def _compare(
    checkouts: dict[str, Path], spec: dict[str, Any], effort: argparse.Namespace, progress: Progress
) -> dict[str, Any]:
    """Return rates and figures of each checkout for one specification."""
    task = progress.add_task("servers", total=len(checkouts) * (2 * effort.rounds + 2))
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        sides: dict[str, tuple[Side, Side]] = {}
        for name, checkout in checkouts.items():
            many, one = (
                stack.enter_context(
                    _running(checkout, Path(stack.enter_context(tempfile.TemporaryDirectory())), count, spec)
                )
                for count in (effort.models, 1)
            )
            found[name] = {"memory": _memory(many, effort.filled)}
            asyncio.run(one.create())
            asyncio.run(one.lines(_LINES))
            sides[name] = many, one
            progress.advance(task)
        for name, rates in _rates(sides, effort, lambda: progress.advance(task)).items():
            found[name]["rates"] = rates
        for name, (many, _) in sides.items():
            found[name] |= _ends(many)
            progress.advance(task)
    return found


def _rates(
    sides: dict[str, tuple[Side, Side]], effort: argparse.Namespace, tick: Any
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return for each checkout and kind of request the rates, and the processor times of a sample."""
    rounds: dict[tuple[str, str], list[list[tuple[float, float]]]] = {}
    for _ in range(effort.rounds):
        for kind in KINDS:
            for name, pair in sides.items():
                measured = [_rate(side, kind, effort.samples) for side in pair]
                rounds.setdefault((name, kind), []).append(measured)
        for _ in sides:
            tick()
            tick()
    return {
        name: {
            kind: {
                what: _medians([(many[i], one[i]) for many, one in rounds[name, kind]])
                for i, what in enumerate(("rate", "time"))
            }
            for kind in KINDS
        }
        for name in sides
    }


def _rate(side: Side, kind: str, samples: int) -> tuple[float, float]:
    """Return the samples per second, and the processor time of a sample in microseconds."""
    before = side.processor_time()
    rate = asyncio.run(getattr(side, kind)(samples))
    return rate, (side.processor_time() - before) * 1e6 / samples


def _medians(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the medians of many models, of one, and of their ratios."""
    return {
        "many": statistics.median(many for many, _ in pairs),
        "one": statistics.median(one for _, one in pairs),
        "ratio": statistics.median(many / one for many, one in pairs),
    }


def _alone(spec: dict[str, Any], effort: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the processor time of a sample in the library alone, in microseconds, by kind of request."""
    samples = [json.loads(body_of(number, 0)) for number in range(effort.samples)]
    models = [BNPClassifier(**spec) for _ in range(effort.models)]
    one = BNPClassifier(**spec)
    for model in (*models, one):
        _learn([model], samples[:50], 1)
    rounds = [
        {kind: (_learn(models, samples, 1), _learn([one], samples, size)) for kind, size in _CALLS.items()}
        for _ in range(effort.rounds)
    ]
    return {kind: _medians([measured[kind] for measured in rounds]) for kind in KINDS}


def _learn(models: Sequence[BNPClassifier], samples: Sequence[dict[str, Any]], size: int) -> float:
    """Learn samples, `size` in a call, each call of the next model; return the microseconds of a sample."""
    begun = time.process_time()
    for call, start in enumerate(range(0, len(samples), size)):
        model = models[call % len(models)]
        check = model.preview().check
        model.learn_samples([check(each["x"], each["y"]) for each in samples[start : start + size]])
    return (time.process_time() - begun) * 1e6 / len(samples)


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the figures of both checkouts, by specification."""
    checkouts = {HERE: ROOT}
    if arguments.against is not None:
        checkouts[OTHER] = arguments.against.resolve()
    with Progress(console=console) as progress:
        found = {name: _compare(checkouts, SPECS[name], arguments, progress) for name in arguments.specs}
    alone = {name: _alone(SPECS[name], arguments) for name in arguments.specs}
    return {"models": arguments.models, "results": found, "alone": alone}


def tables(content: Content) -> list[Table]:
    """Return one table for each specification."""
    shown = []
    for spec, sides in content["results"].items():
        rows = []
        for kind, what in KINDS.items():
            rates = [_text(side["rates"][kind]["rate"]) for side in sides.values()]
            times = [_text(side["rates"][kind]["time"]) for side in sides.values()]
            alone = _text(content["alone"][spec][kind])
            rows.append([Cell(f"{what}s a second, many models and one (ratio)"), *map(Cell, rates)])
            rows.append([Cell(f"processor time of a {what}, µs (ratio)"), *map(Cell, times)])
            rows.append([Cell("the same in the library alone"), Cell(alone), *[Cell("")] * (len(sides) - 1)])
        for what, unit, name in _FIGURES:
            rows.append([Cell(what), *(Cell(f"{side[name]:.2f} {unit}") for side in sides.values())])
        title = f"{content['models']} models, {spec}: {json.dumps(SPECS[spec])}"
        shown.append(Table(title, ["figure", *sides], rows))
    return shown


def _text(figures: dict[str, float]) -> str:
    return f"{figures['many']:,.0f} and {figures['one']:,.0f} ({figures['ratio']:.2f})"


def blocks(content: Content) -> Blocks:
    """Return the tables."""
    return {"models": tables(content)}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("models", __doc__)
    parser.add_argument("--models", type=int, default=500, help="number of models (default: 500)")
    parser.add_argument("--specs", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of requests (default: 5)")
    parser.add_argument("--samples", type=int, default=4000, help="samples of a round (default: 4,000)")
    parser.add_argument(
        "--filled",
        type=int,
        default=1000,
        help="samples of each model before its memory is measured (default: 1,000, as the metrics' windows)",
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a checkout to compare with")
    run("models", parser.parse_args(argv), measure, blocks)
