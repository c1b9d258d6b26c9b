"""Microseconds of a line of NDJSON: the parser of blocks, against decoding and checking one line at a time.

All sides read the same lines in turns, on one thread. *decode* is orjson alone. *decode and check* is what
the server does with a line before its sample is learned. A repeat takes about a millisecond, and the fastest
one counts: whatever else runs on the machine only adds time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.progress import track

from bnp_online.blocks import Templates, padded
from bnp_online.encoding import FeatureIndex, LabelIndex
from bnp_online.values import check_weight
from service.api.line_splitter import LineSplitter
from service.http.requests import Shape, read_fields
from service.schemas import LearnBody
from service.settings import Settings

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table

FEATURES = (9, 64)
#: Decimals of the numbers; None for all digits of float64, which Python sends.
DECIMALS: dict[str, int | None] = {"4 decimals": 4, "17 digits": None}
SIDES = ("blocks", "decode", "decode and check")
_CLASSES, _WARM_UP = 10, 200
#: Bytes that arrive at once.
_CHUNK = 65_536


def lines_of(features: int, decimals: int | None, count: int) -> bytes:
    """Return lines with random numbers and labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, features))
    rows = (x if decimals is None else x.round(decimals)).tolist()
    labels = rng.integers(0, _CLASSES, count).tolist()
    samples = (
        {"x": {f"f{i:02}": value for i, value in enumerate(row)}, "y": label}
        for row, label in zip(rows, labels, strict=True)
    )
    return b"".join(json.dumps(sample, separators=(",", ":")).encode() + b"\n" for sample in samples)


def _chunks(data: bytes) -> list[bytes]:
    """Return parts of some lines each."""
    parts, start = list[bytes](), 0
    while start < len(data):
        end = data.find(b"\n", start + _CHUNK) + 1 or len(data)
        parts.append(data[start:end])
        start = end
    return parts


def _parse(templates: Templates, data: bytes) -> int:
    """Parse all lines; return how many."""
    count = 0
    for chunk in _chunks(data):
        buffer, at = padded(chunk), 0
        while at < len(chunk):
            parsed = templates.parse(buffer, at)
            if not parsed.count:
                raise ValueError(f"the line at byte {at} has no template")
            count, at = count + parsed.count, parsed.end
    return count


def _decode(data: bytes) -> int:
    return sum(type(orjson.loads(line)) is dict for line in data.splitlines())


def _check(columns: FeatureIndex, labels: LabelIndex, data: bytes) -> int:
    settings, shape, count = Settings(), Shape.of(LearnBody), 0
    splitter = LineSplitter(settings.max_body_bytes)
    for chunk in _chunks(data):
        for line in splitter.feed(chunk):
            fields = read_fields(line.raw or b"", shape, settings, "line")
            if columns.row(fields["x"]) is None:
                raise ValueError(f"line {line.number} is not read by the fast encoder")
            labels.check(fields["y"])
            check_weight(fields.get("w", 1.0))
            count += 1
    return count


def sides(features: int, data: bytes) -> dict[str, Callable[[], int]]:
    """Return what reads all lines, by side."""
    index, labels = FeatureIndex(features, [f"f{i:02}" for i in range(features)]), LabelIndex(_CLASSES)
    templates = Templates({str(name): column for name, column in index.positions.items()})
    for line in data.splitlines()[:_WARM_UP]:
        fields = orjson.loads(line)
        labels.add(fields["y"])
        if not templates.parse(padded(line + b"\n")).count:
            templates.learn(line, fields)
    readers = partial(_parse, templates, data), partial(_decode, data), partial(_check, index, labels, data)
    return dict(zip(SIDES, readers, strict=True))


def compare(features: int, decimals: int | None, count: int, repeats: int) -> dict[str, float]:
    """Return the microseconds of processor time of a line in the fastest repeat, by side."""
    data = lines_of(features, decimals, count)
    readers = sides(features, data)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats):
        for name, read in readers.items():
            start = time.process_time()
            if read() != count:
                raise ValueError(f"{name} did not read all lines")
            times[name].append(1e6 * (time.process_time() - start) / count)
    return {name: min(of) for name, of in times.items()}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the times by number of features and kind of numbers."""
    cases = [(features, name) for features in FEATURES for name in DECIMALS]
    results: dict[str, Any] = {}
    for features, name in track(cases, "measuring", console=console):
        label = f"{features} numbers, {name}"
        results[label] = compare(features, DECIMALS[name], arguments.samples, arguments.repeats)
    return {"samples": arguments.samples, "repeats": arguments.repeats, "results": results}


def blocks(content: Content) -> Blocks:
    """Return a row for each kind of line."""
    rows = [
        [Cell(name), *(Cell(f"{of[side]:.2f}") for side in SIDES)]
        + [Cell(f"{of[side] / of['blocks']:.1f}×") for side in SIDES[1:]]
        for name, of in content["results"].items()
    ]
    header = ["line", *SIDES, *(f"{side} / blocks" for side in SIDES[1:])]
    return {"parsing": [Table("Microseconds of a line", header, rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("parsing", __doc__)
    parser.add_argument("--samples", type=int, default=400, help="lines of each repeat")
    parser.add_argument("--repeats", type=int, default=100, help="of which the fastest counts")
    run("parsing", parser.parse_args(argv), measure, blocks)
