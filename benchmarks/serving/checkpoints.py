"""Checkpoints of a model with a million values of strings: size, time, and what they cost other requests.

A server has a model with many values, and a small one. Three clients send samples of a few known values to
the large model, and one sends samples to the small one; each waits for its answer. The server first takes no
checkpoint meanwhile, then one after every few samples, as fast as it can write them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bnp_online import checkpoint
from service.models import snapshot
from service.settings import Settings

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from .client import Connection
from .server import Served, serve

#: Connections to the model with many values.
_CLIENTS = 3
#: Values in a sample that fills the model; the limit of strings in lists of a request.
_AT_ONCE = 4000
#: Samples from one checkpoint to the next.
_EVERY = 50
#: Seconds of requests before those that are measured.
_WARM_UP = 2.0
_WITHOUT, _WITH = "no checkpoints", f"one after every {_EVERY} samples"
_SIDES = {"large": "the model with many values", "small": "another model"}


def _body(model: str, words: list[str], number: int) -> bytes:
    x = {"words": words, "a": number % 7}
    return json.dumps({"x": x, "y": ("cat", "dog")[number % 2], "model": model}).encode()


def _samples(model: str, values: int, seed: int) -> Iterator[bytes]:
    """Yield samples with ten of the values each."""
    rng = random.Random(seed)  # noqa: S311 (reproducible samples, no secrets)
    for number in itertools.count():
        yield _body(model, [_value(rng.randrange(values)) for _ in range(10)], number)


def _value(number: int) -> str:
    return f"value-{number}"


async def _fill(served: Served, values: int) -> None:
    """Create both models, and give the large one its values."""
    connection = Connection("127.0.0.1", served.port)
    for name in _SIDES:
        spec = {"name": name, "max_values": max(values, 32)}
        await _post(connection, "/models", json.dumps(spec).encode(), 201)
    for number, start in enumerate(range(0, values, _AT_ONCE)):
        words = [_value(i) for i in range(start, min(start + _AT_ONCE, values))]
        await _post(connection, "/learn", _body("large", words, number))
    await connection.close()


async def _post(connection: Connection, path: str, body: bytes, expected: int = 200) -> Any:
    status, answer = await connection.post(path, body)
    if status != expected:
        raise RuntimeError(f"{path} was answered by {status}: {answer[:300]!r}")
    return json.loads(answer)


async def _load(served: Served, values: int, seconds: float) -> dict[str, dict[str, float]]:
    """Send samples for some seconds; return the times of their answers, in milliseconds, by model."""
    until, times = time.perf_counter() + seconds, dict[str, list[float]]()
    clients = [_client(served, "small", 10, 0, until, times)]
    clients += [_client(served, "large", values, 1 + i, until, times) for i in range(_CLIENTS)]
    await asyncio.gather(*clients)
    return {name: _summary(found) for name, found in times.items()}


async def _client(
    served: Served, model: str, values: int, seed: int, until: float, times: dict[str, list[float]]
) -> None:
    connection, found = Connection("127.0.0.1", served.port), times.setdefault(model, [])
    for body in _samples(model, values, seed):
        begun = time.perf_counter()
        if begun > until:
            break
        await _post(connection, "/learn", body)
        found.append(1000.0 * (time.perf_counter() - begun))
        await asyncio.sleep(0.001)
    await connection.close()


def _summary(times: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    return {"samples": len(times), "p50": p50, "p99": p99, "longest": max(times)}


async def _checkpoint(served: Served) -> dict[str, float]:
    """Take a checkpoint without other requests; return its size and the time of the answer."""
    connection, begun = Connection("127.0.0.1", served.port), time.perf_counter()
    answer = await _post(connection, "/models/large/checkpoints", b"", 201)
    return {"bytes": answer["bytes"], "write": time.perf_counter() - begun}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Fill a model, and return the figures."""
    values, found = arguments.values, dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder, console.status("measuring"):
        never = str(10**9)
        with serve(Path(folder), BNP_CHECKPOINT_EVERY=never, BNP_CHECKPOINT_BYTES=never) as served:
            asyncio.run(_fill(served, values))
            asyncio.run(_load(served, values, _WARM_UP))
            found[_WITHOUT] = asyncio.run(_load(served, values, arguments.seconds))
            found["checkpoint"] = asyncio.run(_checkpoint(served))
        found["checkpoint"] |= _in_process(Path(folder))
        with serve(Path(folder), BNP_CHECKPOINT_EVERY=str(_EVERY)) as served:
            asyncio.run(_load(served, values, _WARM_UP))
            found[_WITH] = asyncio.run(_load(served, values, arguments.seconds))
    return {"values": values, "seconds": arguments.seconds, **found}


def _in_process(folder: Path) -> dict[str, float]:
    """Return the seconds to load the checkpoint of the large model, and to copy the model for another."""
    newest = max(folder.glob("checkpoints/*/step*.safetensors"), key=lambda path: path.stat().st_size)
    begun = time.perf_counter()
    model = snapshot.restore(checkpoint.load(newest), Settings(device="cpu"), time.time)
    load, copies = time.perf_counter() - begun, []
    for _ in range(9):
        begun = time.perf_counter()
        snapshot.taking(model)
        copies.append(time.perf_counter() - begun)
    return {"load": load, "copy": float(np.median(copies))}


def blocks(content: Content) -> Blocks:
    """Return the table and the sentence of the results."""
    rows = [
        [
            Cell(f"{what}, {when}"),
            *(Cell(f"{content[when][side][key]:.1f}") for key in ("p50", "p99", "longest")),
        ]
        for side, what in _SIDES.items()
        for when in (_WITHOUT, _WITH)
    ]
    table = Table(
        f"Milliseconds of `POST /learn` with {content['values']:,} values",
        ["request to", "p50", "p99", "longest"],
        rows,
    )
    one = content["checkpoint"]
    text = (
        f"The model is copied in {1000 * one['copy']:.0f} ms. Its checkpoint has "
        f"{one['bytes'] / 1e6:.0f} MB, is written in {one['write']:.2f} s and loaded in {one['load']:.2f} s."
    )
    return {"checkpoints": [table, text]}


def main(argv: list[str]) -> None:
    """Run the program."""
    parser = arguments_of("checkpoints", __doc__, pages=("docs/how-to/strings.md",))
    parser.add_argument("--values", type=int, default=2**20, help="number of values of the model")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each load")
    run("checkpoints", parser.parse_args(argv), measure, blocks)
