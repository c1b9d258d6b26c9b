"""Samples as lines of JSON, which the log stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from bnp_online.blocks import joined
from bnp_online.learner import OnlineLearner
from bnp_online.lines import Lines
from bnp_online.values import SampleRows, Vector


def written(
    learner: OnlineLearner,
    names: Sequence[str],
    texts: Sequence[str],
    rows: SampleRows,
    ids: Mapping[int, str],
    *,
    weighted: bool,
    labelled: bool = True,
) -> Lines:
    """Return samples as lines of JSON that mean the same, bit by bit.

    All numbers are written in one call: a dict for each sample would take many times as long.

    Parameters
    ----------
    learner : OnlineLearner
        The learner, whose columns the rows have.
    names, texts : sequence of str
        Features that each sample has: those with a number or a missing value, and those with a string.
    rows : SampleRows
        The samples.
    ids : dict of int to str
        Ids by position.
    weighted : bool
        Whether to write the weights.
    labelled : bool
        Whether to write the targets.
    """
    layout = learner.layout()
    assert layout is not None  # noqa: S101 (the rows were read for it)
    count = len(rows.targets)
    behind: list[Sequence[bytes]] = []  # of each sample, what follows its last number
    heads = [b"," + orjson.dumps(name) + b":" for name in names]
    begin = b'{"x":{'
    for name in texts:
        before = b"," + orjson.dumps(name) + b":" if names or behind else begin + orjson.dumps(name) + b":"
        behind.append([before + each for each in _strings(rows.values, layout.values[name])])
    if heads:
        heads[0] = begin + heads[0][1:]
    if labelled:
        behind.append(_targets(rows, before=b'},"y":', regression=layout.regression))
    else:
        behind.append([b"}"] * count)
    if weighted:
        behind.append([b',"w":' + each for each in _numbers(rows.weights).split(b",")])
    if ids:
        behind.append([b',"id":' + orjson.dumps(ids[i]) if i in ids else b"" for i in range(count)])
    behind.append([b"}"] * count)
    tails = [*map(b"".join, zip(*behind, strict=True))]
    numbers = _numbers(rows.values[:, [layout.numbers[name] for name in names]])
    return Lines(*joined(heads, numbers, tails))


def _targets(rows: SampleRows, before: bytes, *, regression: bool) -> list[bytes]:
    """Return the targets as JSON, each with the text before it."""
    if regression:
        return [before + each for each in _numbers(rows.targets).split(b",")]
    labels = [before + orjson.dumps(label) for label in rows.labels]
    return [labels[code] for code in rows.targets.astype(np.int64).tolist()]


def _numbers(values: Vector) -> bytes:
    """Return numbers as JSON, with commas between them; a missing one is null."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _strings(values: Vector, columns: Mapping[str, int]) -> list[bytes]:
    """Return the strings of a feature as JSON, by the column of each that is 1."""
    written = [orjson.dumps(text) for text in columns]
    return [written[i] for i in values[:, [*columns.values()]].argmax(axis=1).tolist()]
