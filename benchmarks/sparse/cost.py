"""Processor time of a sample: the learner on strings, dense learners with as many columns, and rivals.

All models take turns in one process. The dense learners get arrays, or dicts, of numbers with as many columns
as the learner on strings has at the end.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.words import words

from ..common.streams import Stream
from ..quality.contestant import Setting
from .passes import Model, steps
from .rivals import MODELS
from .river_models import River

#: Learners on strings: name of the contestant, and the parameters of the dense learner.
PAIRED: Mapping[str, Mapping[str, Any]] = {"BNP": {}, "BNP, replay=0": {"replay": 0}}
#: Name of the dense learner on arrays, and of the one on dicts, for each learner on strings.
DENSE = {name: (name.replace("BNP", "arrays"), name.replace("BNP", "dicts")) for name in PAIRED}
#: Setting of each rival; the time hardly depends on it.
RIVALS: Mapping[str, Setting] = {
    "VW*": {"rate": 0.3},
    "VW -q*": {"rate": 0.3},
    "VW --nn*": {"rate": 0.3},
    "Linear*": {"rate": 0.03},
    "FTRL*": {"rate": 0.1},
    "Bayes*": {"alpha": 1.0},
    "FM*": {"rate": 0.01},
}
#: Samples of a stream for the comparison, and in a turn.
SAMPLES, TURN = 10_000, 250
#: Turns of the measurement of growth, and the least number of samples in one.
GROWTH_TURNS, LEAST_TURN = 40, 25
#: Samples of a turn that a dense learner learns once its replay buffer is full.
_FEW = 500
_ROWS = 2000

Tick = Callable[[str], None]


@dataclass
class Side:
    """Model that takes turns with others.

    Attributes
    ----------
    model : Model
        The model.
    samples : iterator of (x, y)
        Its samples.
    """

    model: Model
    samples: Iterator[tuple[Any, Any]]

    def turn(self, count: int) -> float:
        """Return the microseconds of each of the next samples."""
        block = list(itertools.islice(self.samples, count))
        _, seconds = steps(self.model, block)
        return 1e6 * seconds / len(block)


def _of_stream(name: str, stream: Stream, setting: Setting) -> Side:
    make, form = MODELS[name]
    return Side(make(stream, 0, setting), iter(form(stream)))


def columns_of(stream: Stream, limit: int, parameters: Mapping[str, Any]) -> int:
    """Return the number of dense columns of the learner after some samples of a stream."""
    make = BNPClassifier if stream.task == "classification" else BNPRegressor
    model = make(seed=0, text=stream.texts, **parameters)
    for x, y in itertools.islice(stream.samples, limit):
        model.learn_one(x, y)
    return len(model.feature_names)


def dense(stream: Stream, columns: int, parameters: Mapping[str, Any], *, dicts: bool = False) -> Side:
    """Return a learner on arrays, or dicts, of normal numbers, with targets that depend on them."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(_ROWS, columns))
    model: BNPClassifier | BNPRegressor
    targets: Sequence[Any]
    shape = None if dicts else (columns,)
    if stream.task == "classification":
        labels = len(stream.labels)
        targets = (rows @ rng.normal(size=(columns, labels))).argmax(axis=1).tolist()
        model = BNPClassifier(input_shape=shape, seed=0, **parameters)
    else:
        targets = (rows @ rng.normal(size=columns)).tolist()
        model = BNPRegressor(input_shape=shape, seed=0, **parameters)
    names = [f"f{i}" for i in range(columns)]
    given = [dict(zip(names, row, strict=True)) for row in rows.tolist()] if dicts else rows
    return Side(River(model), itertools.cycle(zip(given, targets, strict=True)))


def compare(stream: Stream, tick: Tick) -> dict[str, Any]:
    """Return the columns, and by model the median microseconds of a sample in the second half.

    Parameters
    ----------
    stream : Stream
        The stream, of which the first `SAMPLES` count.
    tick : callable
        Progress callback; takes a description.
    """
    count = min(SAMPLES, len(stream.samples))
    tick(f"{stream.name}: columns")
    columns = columns_of(stream, count, {"replay": 0, "hidden": ()})
    sides: dict[str, Side] = {}
    for name, parameters in PAIRED.items():
        sides[name] = _of_stream(name, stream, {})
        for name_of_dense, dicts in zip(DENSE[name], (False, True), strict=True):
            sides[name_of_dense] = dense(stream, columns, parameters, dicts=dicts)
    for name, setting in RIVALS.items():
        if name != "Bayes*" or stream.task == "classification":
            sides[name] = _of_stream(name, stream, setting)
    turn = min(TURN, max(count // 4, 1))
    times: dict[str, list[float]] = {name: [] for name in sides}
    with np.errstate(over="ignore", invalid="ignore"):
        for done in range(0, count, turn):
            tick(f"{stream.name}: {done:,} samples")
            for name, side in sides.items():
                times[name].append(side.turn(min(turn, count - done)))
    return {
        "samples": count,
        "columns": columns,
        "microseconds": {name: statistics.median(of[len(of) // 2 :]) for name, of in times.items()},
    }


def _values(stream: Stream) -> Iterator[int]:
    """Yield the number of different values seen with each sample."""
    seen: set[int] = set()
    for x, _ in stream.samples:
        for name, value in x.items():
            if name in stream.texts:
                seen.update(hash((name, word)) for word in words(value))
            elif isinstance(value, str):
                seen.add(hash((name, value)))
        yield len(seen)


def growth(stream: Stream, tick: Tick) -> dict[str, Any]:
    """Return the microseconds of a sample by the number of values seen before, in turns with dense learners.

    Parameters
    ----------
    stream : Stream
        The stream, all of which is learned.
    tick : callable
        Progress callback; takes a description.
    """
    count = len(stream.samples)
    columns = columns_of(stream, min(SAMPLES, count), {"replay": 0, "hidden": ()})
    strings = {name: _of_stream(name, stream, {}) for name in PAIRED}
    strings["VW*"] = _of_stream("VW*", stream, RIVALS["VW*"])
    rows = {DENSE[name][0]: dense(stream, columns, parameters) for name, parameters in PAIRED.items()}
    turn, values = max(count // GROWTH_TURNS, LEAST_TURN), _values(stream)
    points = []
    for done in range(0, count, turn):
        tick(f"{stream.name}: {done:,} samples")
        size = min(turn, count - done)
        of_dense = size if done < SAMPLES else min(size, _FEW)
        spent = {name: side.turn(size) for name, side in strings.items()}
        spent |= {name: side.turn(of_dense) for name, side in rows.items()}
        *_, seen = itertools.islice(values, size)
        points.append({"samples": done + size, "values": seen, "microseconds": spent})
    return {"stream": stream.name, "columns": columns, "points": points}


def thinned(points: Sequence[Mapping[str, Any]], most: int = 8) -> Iterable[Mapping[str, Any]]:
    """Return some of the points, at about equal distances, with the last one."""
    step = -(-len(points) // most)
    return list(points)[::-1][::step][::-1]
