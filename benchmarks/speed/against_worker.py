"""Steps of one checkout, for `against`: answers each request in the input with the seconds of a sample.

A request has the sizes of a network, options of the estimator, the rows of a call, the duration of a turn,
and whether each row's prediction is returned. The program uses only what every version has; it runs as a
file, with the checkout in ``PYTHONPATH``.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnp_online import BNPClassifier

_ROWS = 200


def learner(sizes: list[int], options: dict[str, Any]) -> tuple[Any, NDArray[Any], NDArray[Any]]:
    """Return an engine with named inputs and all classes, and rows for it."""
    features, *hidden, classes = sizes
    rng = np.random.default_rng(0)
    x = rng.normal(size=(_ROWS, features))
    y = (x @ rng.normal(size=(features, classes))).argmax(axis=1)
    y[:classes] = np.arange(classes)
    model = BNPClassifier(hidden=tuple(hidden), **options)
    for row, label in zip(x[: 3 * classes].tolist(), y.tolist(), strict=False):
        model.learn_one({f"f{j:04}": value for j, value in enumerate(row)}, label)
    return model._engine, x, y.astype(np.float64)  # the step alone: earlier versions have no public door


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    made: dict[str, Any] = {}
    for request in sys.stdin:
        sizes, options, rows, seconds, predict = json.loads(request)
        key = json.dumps([sizes, options])
        if key not in made:
            made.clear()
            made[key] = learner(sizes, options)
        engine, x, y = made[key]
        weights, start, passed, done = np.ones(rows), time.thread_time(), 0.0, 0
        while passed < seconds or not done:
            at = done % (len(x) - rows)
            engine.learn(x[at : at + rows], y[at : at + rows], weights, predict=predict)
            done += rows
            passed = time.thread_time() - start
        print(json.dumps(passed / done), flush=True)


main()
