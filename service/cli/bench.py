"""``bench``: a first estimate of the learning speed of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..telemetry.progress import progress
from .options import AsJson
from .output import show_rows

if TYPE_CHECKING:
    import bnp_online as bnp

_FEATURES = 20
_NETWORKS: dict[str, dict[str, Any]] = {
    "linear, one member": {"hidden": (), "lr": 0.3},
    "100, one member": {"hidden": (100,), "lr": 0.3},
    "100-100, one member": {"hidden": (100, 100), "lr": 0.3},
    "100-100, no replay": {"replay": 0},
    "100-100, default": {},
}


def bench(
    seconds: Annotated[float, typer.Option(min=0.01, help="For each network.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Measure the samples per second that this machine predicts and learns, for a few networks.

    A row has the `network`, `samples_per_second`, and the `engine` and the `device` that it runs on.
    """
    import bnp_online as bnp  # late: torch

    rows = []
    with progress("measuring", len(_NETWORKS)) as done:
        for n, (name, options) in enumerate(_NETWORKS.items(), 1):
            estimator = bnp.BNPClassifier(**options)
            rate = _rate(estimator, seconds)
            place = {"engine": estimator.engine_name, "device": estimator.device_name}
            rows.append({"network": name, "samples_per_second": round(rate, 1), **place})
            done(n)
    show_rows(rows, list(rows[0]), as_json=as_json)


def _rate(estimator: bnp.BNPClassifier, seconds: float) -> float:
    stream = _stream()
    for _ in range(20):  # compilation, and growth of columns and classes
        estimator.learn_one(*next(stream))
    n, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        x, y = next(stream)
        estimator.predict_one(x)
        estimator.learn_one(x, y)
        n += 1
    return n / spent


def _stream() -> Iterator[tuple[dict[str, float], int]]:
    import numpy as np

    names = [f"x{i}" for i in range(_FEATURES)]
    rows = np.random.default_rng(0).normal(size=(1000, _FEATURES))
    samples = [(dict(zip(names, row.tolist(), strict=True)), int(row[:5].sum() > 0)) for row in rows]
    while True:
        yield from samples
