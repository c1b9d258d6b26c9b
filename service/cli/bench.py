"""``bench``: how fast this machine learns, as a first idea; `benchmarks` measures against rivals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AsJson
from .output import Bar, show_rows

if TYPE_CHECKING:
    import bnp_online as bnp

_FEATURES = 20
_NETWORKS: dict[str, dict[str, Any]] = {
    "linear, one copy": {"hidden": (), "lr": 0.3},
    "100, one copy": {"hidden": (100,), "lr": 0.3},
    "100-100, one copy": {"hidden": (100, 100), "lr": 0.3},
    "100-100, no replay": {"replay": 0},
    "100-100, as it comes": {},
}


def bench(
    seconds: Annotated[float, typer.Option(min=0.01, help="For each network.")] = 2.0, as_json: AsJson = False
) -> None:
    """Measure how many samples a second this machine predicts and learns, for a few networks."""
    import bnp_online as bnp  # late: torch takes seconds

    rows = []
    with Bar("measuring", len(_NETWORKS)) as bar:
        for name, options in _NETWORKS.items():
            estimator = bnp.BNPClassifier(**options)
            rate = _rate(estimator, seconds)
            place = {"engine": estimator.engine_name, "device": estimator.device_name}
            rows.append({"network": name, "samples_per_second": round(rate, 1), **place})
            bar.advance()
    show_rows(rows, list(rows[0]), as_json=as_json)


def _rate(estimator: bnp.BNPClassifier, seconds: float) -> float:
    stream = _stream()
    for _ in range(20):  # it compiles, and grows its columns and classes
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
