"""Throughput and latency of the server, against endpoints that do nothing.

Each figure is a ratio of medians: all servers run at the same time and get requests in turns, over loopback.
Needs wrk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ..common.program import Blocks, Content, arguments_of, run
from . import wrk
from .server import Served, serve
from .server import run as run_server
from .tables import ARROW, CSV, FLOOD, IDIOMATIC, IDLE, LINES, PREDICTED, SUSTAINED, durability_table, tables
from .wrk import Load, Result

FEATURES, CLASSES, SAMPLES = 64, 10, 4000
#: Samples in a request of lines.
LINES_A_REQUEST = 1000
#: Samples that a server keeps in its log while it is at its limit: it removes as many as it learns.
RETAINED = 20_000
#: Connections that send lines.
STREAMS = 4
#: File of the samples with labels.
LEARN = "learn.ndjson"
#: Media types of tables, by name.
TABLES = {CSV: "text/csv", ARROW: "application/vnd.apache.arrow.stream"}
RIVALS = {IDIOMATIC: "idiomatic", "bare Starlette": "bare"}
MODELS: dict[str, dict[str, Any]] = {"one member": {"lr": 0.1}, "replay=0": {"replay": 0}, "default": {}}
#: In place of a log that keeps events.
_NO_LOG = """
from service.storage.sqlite import SqliteLog
def _number(self, model, events):
    self._heads[model] = self._next(model) + sum(each.samples for each in events)
    return self._heads[model]
def append(self, groups):
    return [_number(self, group.model, group.events) for group in groups]
SqliteLog.append = append
"""

Results = dict[str, dict[str, list[Result]]]


@dataclass(frozen=True)
class Effort:
    """Amount of measurement.

    Attributes
    ----------
    models : sequence of str
        Models of our server.
    connections : sequence of int
        Numbers of connections that send single samples.
    repeats : int
        Repeats, of which the median is taken.
    seconds : int
        Duration of a repeat.
    """

    models: Sequence[str]
    connections: Sequence[int]
    repeats: int
    seconds: int


def write_bodies(folder: Path) -> tuple[Path, Path]:
    """Write learnable samples of about 900 bytes each, with and without labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, FEATURES))
    y = (x @ rng.normal(size=(FEATURES, CLASSES))).argmax(axis=1)
    learn, predict = folder / LEARN, folder / "predict.ndjson"
    with learn.open("w") as learned, predict.open("w") as predicted:
        for row, label in zip(x.round(4).tolist(), y.tolist(), strict=True):
            features = {f"f{i:02}": value for i, value in enumerate(row)}
            learned.write(json.dumps({"x": features, "y": label}, separators=(",", ":")) + "\n")
            predicted.write(json.dumps({"x": features}, separators=(",", ":")) + "\n")
    return learn, predict


def write_tables(folder: Path, lines: Path) -> dict[str, Load]:
    """Write the samples of a file as CSV and as streams of Arrow; return how they are sent, by name."""
    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
    from pyarrow import csv

    table = pa.Table.from_pylist([{**row["x"], "y": row["y"]} for row in map(json.loads, lines.open())])
    for name in TABLES:
        (folder / name).mkdir()
    for i in range(0, SAMPLES, LINES_A_REQUEST):
        part = table.slice(i, LINES_A_REQUEST)
        csv.write_csv(part, folder / CSV / f"{i}.csv", csv.WriteOptions(quoting_style="none"))
        with pa.ipc.new_stream(folder / ARROW / f"{i}.arrow", part.schema) as writer:
            writer.write_table(part)
    return {
        name: Load("/learn?target=y", folder / name, STREAMS, 1, LINES_A_REQUEST, media)
        for name, media in TABLES.items()
    }


@contextmanager
def ours(models: Sequence[str], durability: str, **settings: Any) -> Iterator[dict[str, Served]]:
    """Run a server of ours for each model."""
    logged: dict[str, Any] = {"prefix": _NO_LOG} if durability == "none" else {"BNP_DURABILITY": durability}
    with ExitStack() as stack:
        sides = {}
        for model in models:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            spec = json.dumps(MODELS[model])
            sides[model] = stack.enter_context(serve(data, BNP_DEFAULT_MODEL=spec, **settings, **logged))
        yield sides


@contextmanager
def all_sides(models: Sequence[str], durability: str) -> Iterator[dict[str, Served]]:
    """Run the endpoints, and one server of ours for each model."""
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(run_server("-m", "benchmarks.serving.endpoints", rival))
            for side, rival in RIVALS.items()
        }
        yield sides | stack.enter_context(ours(models, durability))


def kinds(folder: Path, effort: Effort) -> Mapping[str, Callable[[Served], Result]]:
    """Return the measurements by name; write what they send."""
    learn, predict = write_bodies(folder)

    def load(path: str, connections: int, seconds: int = effort.seconds, lines: int = 1) -> Load:
        return Load(path, predict if path == "/predict" else learn, connections, seconds, lines)

    streams = {
        LINES: load("/learn", STREAMS, lines=LINES_A_REQUEST),
        SUSTAINED: load("/learn", STREAMS, lines=LINES_A_REQUEST),
        PREDICTED: load("/predict", STREAMS, lines=LINES_A_REQUEST),
        **write_tables(folder, learn),
    }
    streams = {name: replace(each, seconds=effort.seconds + 2) for name, each in streams.items()}
    floods = {
        FLOOD["lines"]: load("/learn", 2, effort.seconds + 1, LINES_A_REQUEST),
        FLOOD["json"]: load("/learn", 16, effort.seconds + 1),
    }
    sent = {f"{path} {n}": load(path, n) for path in ("/learn", "/predict") for n in effort.connections}
    sent |= {**streams, IDLE: load("/predict", 1)}
    return {what: partial(wrk.measure, load=of) for what, of in sent.items()} | {
        what: partial(_ask_during, ask=load("/predict", 1), flood=flood) for what, flood in floods.items()
    }


def _ask_during(served: Served, ask: Load, flood: Load) -> Result:
    """Return the latency of predictions while the server learns at full load."""
    flooding = wrk.start(served.url, flood)
    time.sleep(0.5)
    asked = wrk.run(served.url, ask)
    wrk.finish(flooding, flood)
    return asked


def send(effort: Effort, durability: str, console: Console) -> Results:
    """Return every run by request and side."""
    found: defaultdict[str, defaultdict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    with (
        tempfile.TemporaryDirectory() as name,
        all_sides(effort.models, durability) as sides,
        ours(effort.models, durability, BNP_RETAIN_EVENTS=str(RETAINED)) as limited,
        Progress(console=console) as bar,
    ):
        folder = Path(name)
        sent = kinds(folder, effort)
        for served in sides.values():  # a warm-up, and something to know
            wrk.run(served.url, Load("/learn", folder / LEARN, 16, 2))
        for served in limited.values():
            wrk.run(served.url, Load("/learn", folder / LEARN, STREAMS, 3, LINES_A_REQUEST))
        task = bar.add_task(f"log: {durability}", total=effort.repeats * len(sent))
        for _ in range(effort.repeats):
            for what, measured in sent.items():
                for side, served in (limited if what == SUSTAINED else sides).items():
                    if side in MODELS or what.startswith(("/learn ", "/predict ")):
                        found[what][side].append(measured(served))
                bar.advance(task)
    return {what: dict(by_side) for what, by_side in found.items()}


def medians(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Return the median of each figure over the repeats."""
    return {
        what: {
            side: {
                name: round(statistics.median(asdict(run)[name] for run in runs), 3)
                for name in asdict(runs[0])
            }
            for side, runs in by_side.items()
        }
        for what, by_side in results.items()
    }


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the medians by durability of the log, request and side."""
    wrk.require()
    effort = Effort(arguments.models, arguments.connections, arguments.repeats, arguments.seconds)
    results = {durability: medians(send(effort, durability, console)) for durability in arguments.log}
    about = {"client": "wrk", "repeats": effort.repeats, "seconds": effort.seconds, "models": MODELS}
    return {**about, "results": results}


def blocks(content: Content) -> Blocks:
    """Return rates and latencies by durability, and the cost of durability."""
    results = content["results"]
    shown = [table for durability, of in results.items() for table in tables(durability, of)]
    if "none" in results and len(results) > 1:
        shown.append(durability_table(results))
    return {"http": shown}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("http", __doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--log", nargs="+", choices=["full", "relaxed", "none"], default=["full", "none"])
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--seconds", type=int, default=1, help="duration of each")
    run("http", parser.parse_args(argv), measure, blocks)
