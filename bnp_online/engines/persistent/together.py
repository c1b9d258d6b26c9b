"""Rows of several learners in one launch of the kernel: the learners are the leading axis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...values import Vector
from .. import devices
from ..torch_engine import columns
from .engine import PersistentEngine
from .runner import PersistentRunner


def shape_of(engine: PersistentEngine) -> tuple[Any, ...] | None:
    """Return what learners must have in common to share a launch; None if one must run alone.

    It is `PersistentRunner.shape`, and the numbers of inputs and outputs in use. Networks, rates and seeds
    may differ.
    """
    runner = engine._runner
    if not isinstance(runner, PersistentRunner):
        return None
    return *runner.shape, engine._channels, engine._outputs


def learn_each(
    engines: Sequence[PersistentEngine], x: Vector, targets: Vector, weights: Vector
) -> tuple[NDArray[np.bool_], Vector]:
    """Predict a row with each learner, then let it learn the row; as `numba_many.learn_each`.

    Raises
    ------
    DeviceMemoryError
        If the GPU has too little free memory. No learner has changed.
    """
    counts = [(e.spec.seed, e._step, e._remembered, e._inputs_weight, e._targets_weight) for e in engines]
    seeds, steps, remembered, inputs, outputs = zip(*counts, strict=True)
    rest = columns(
        engines[0].spec,
        seeds,
        np.array(steps, np.int64) + 1,
        np.array(remembered, np.int64) + 1,
        np.array(inputs) + 1.0,
        np.array(outputs) + 1.0,
        targets,
        weights,
    )
    learned, predictions = _run(engines, x, rest)
    for engine, done in zip(engines, learned.tolist(), strict=True):
        engine.learned(int(done))
    return learned, predictions


def _run(engines: Sequence[PersistentEngine], x: Vector, rest: Vector) -> tuple[NDArray[np.bool_], Vector]:
    """Copy the rows to the device, launch the kernel once, and return what it found."""
    runners = [engine._runner for engine in engines if isinstance(engine._runner, PersistentRunner)]
    first, device, count = runners[0], engines[0].device, len(engines)
    on_gpu = devices.is_gpu(device)
    with devices.on(device):
        place = devices.tensor_device(device)
        host = torch.zeros(count, 1, first.columns, dtype=torch.float64, pin_memory=on_gpu)
        rows = host.numpy()[:, 0]
        rows[:, : x.shape[1]], rows[:, first.step.width :] = x, rest
        addresses = torch.tensor([runner.address for runner in runners], pin_memory=on_gpu)
        results = torch.zeros(count, 1, 1 + first.size.outputs, dtype=torch.float64, device=place)
        learners, on_device = (each.to(place, non_blocking=True) for each in (addresses, host))
        start = time.perf_counter()
        first.kernel.run(learners, on_device, results, learns=True, late=False, shared=first.shared)
        found: Vector = results[:, 0].cpu().numpy()  # waits for the device
        seconds = time.perf_counter() - start
    if on_gpu:
        for engine in engines:
            engine.activity.rows += 1
            engine.activity.seconds += seconds / count
    return found[:, 0] > 0.0, found[:, 1 : 1 + engines[0]._outputs]
