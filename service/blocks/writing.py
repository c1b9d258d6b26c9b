"""Samples as lines of JSON, which the log stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import orjson

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
) -> Lines:
    """Return samples as lines of JSON that mean the same, bit by bit.

    All numbers are written in one call; a dict for each sample would take three times as long.

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
    """
    layout = learner.layout()
    assert layout is not None  # noqa: S101 (the rows were read for it)
    numbers = _numbers(rows.values[:, [layout.numbers[name] for name in names]])
    width, count = len(names), len(rows.targets)
    others: list[Iterable[bytes]] = [_strings(rows.values, layout.values[name]) for name in texts]
    if layout.regression:
        others.append(_numbers(rows.targets))
    else:
        labels = [orjson.dumps(label) for label in layout.labels]
        others.append([labels[code] for code in rows.targets.astype(np.int64).tolist()])
    others.append([b',"w":' + each for each in _numbers(rows.weights)] if weighted else [b""] * count)
    others.append([b',"id":' + orjson.dumps(ids[i]) if i in ids else b"" for i in range(count)])
    members = b",".join(orjson.dumps(name).replace(b"%", b"%%") + b":%b" for name in (*names, *texts))
    form = b'{"x":{' + members + b'},"y":%b%b%b}'
    return Lines.of(
        form % (*numbers[i * width : (i + 1) * width], *rest)
        for i, rest in enumerate(zip(*others, strict=True))
    )


def _numbers(values: Vector) -> list[bytes]:
    """Return numbers as JSON; a missing one is null."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _strings(values: Vector, columns: Mapping[str, int]) -> list[bytes]:
    """Return the strings of a feature as JSON, by the column of each that is 1."""
    written = [orjson.dumps(text) for text in columns]
    return [written[i] for i in values[:, [*columns.values()]].argmax(axis=1).tolist()]
