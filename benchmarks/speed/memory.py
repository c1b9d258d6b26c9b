"""Memory of a model, against its parameters, moments and replay buffer."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from bnp_online import BNPClassifier
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.engines.numba_kernels import BLOCK

from ..common.report import Cell, Table
from .timing import NETWORKS, Effort, Tick, engine, samples

_KINDS: dict[str, tuple[float | str, int]] = {
    "one member": (0.1, 0),
    "auto, replay=0": ("auto", 0),
    "auto (the default)": ("auto", 3),
}


#: Arrays of parameters and moments.
_STATE = ("params", "average", "linear", "bins", "hidden", "entry", "inputs", "target")


def measure(effort: Effort, tick: Tick) -> dict[str, Any]:
    """Return bytes by network and kind of learner."""
    results: dict[str, Any] = {}
    for name in effort.networks:
        results[name] = {}
        for kind, (lr, replay) in _KINDS.items():
            tick(f"{name}, {kind}")
            arrays = _arrays(NETWORKS[name], lr, replay, 50 if effort.quick else 1000)
            results[name][kind] = arrays | _traced(NETWORKS[name], lr, replay)
    return results


def _needed(learner: NumbaEngine, remembered: int) -> int:
    """Return the bytes of parameters, moments and samples in the replay buffer."""
    arrays = learner._buffers
    row = arrays.memory_x[:1].nbytes // BLOCK + arrays.memory_y[:1].nbytes
    return sum(int(getattr(arrays, name).nbytes) for name in _STATE) + remembered * row


def _arrays(sizes: Sequence[int], lr: float | str, replay: int, rows: int) -> dict[str, float]:
    """Learn row by row; return the bytes of the arrays at their largest multiple of the bytes needed."""
    learner = engine(sizes, lr, replay)
    x, y = samples(sizes)
    worst: dict[str, float] = {"times": 0.0}
    before = 0
    for i in range(rows):
        k = i % len(y)
        learner.learn(x[k : k + 1], y[k : k + 1], np.ones(1))
        held = sum(array.nbytes for array in learner._buffers)
        times = held / _needed(learner, i + 1)
        if held > before and times > worst["times"]:  # the arrays grew: now they have most room to spare
            worst = {"times": times, "held": held, "needed": _needed(learner, i + 1)}
        before = held
    return worst


def _traced(sizes: Sequence[int], lr: float | str, replay: int) -> dict[str, float]:
    """Return the bytes that Python and NumPy hold for an estimator after learning dicts, the mean of four."""
    x, y = samples(sizes)
    rows = [{f"f{i}": value for i, value in enumerate(row)} for row in x[:100].tolist()]
    labels = y[:100].astype(np.int64).tolist()
    models = [BNPClassifier(tuple(sizes[1:-1]), lr=lr, replay=replay)]  # what only the first allocates
    models[0].learn_many(rows, labels)
    models.clear()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(4):
        models.append(BNPClassifier(tuple(sizes[1:-1]), lr=lr, replay=replay))
        models[-1].learn_many(rows, labels)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    needed = _needed(cast(NumbaEngine, models[0]._engine), len(rows) if replay else 0)
    held = (after - before) / len(models)
    return {"estimator_held": held, "estimator_needed": needed, "estimator_times": held / needed}


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the memory as a multiple of the bytes needed."""
    rows = []
    for name, kinds in results.items():
        for kind, of in kinds.items():
            rows.append(
                [
                    Cell(f"{name} {'-'.join(map(str, NETWORKS[name]))}, {kind}"),
                    Cell(f"{of['needed'] / 1e3:,.0f} kB"),
                    Cell(f"{of['times']:.2f}×"),
                    Cell(f"{(of['estimator_held'] - of['estimator_needed']) / 1e3:,.0f} kB"),
                    Cell(f"{of['estimator_times']:.2f}×"),
                ]
            )
    header = [
        "network, learner",
        "parameters, moments, samples",
        "its arrays, at most",
        "beyond that, a whole estimator",
        "a whole estimator",
    ]
    return [
        Table(
            "Memory of a model, as a multiple of its parameters, moments and remembered samples", header, rows
        )
    ]
