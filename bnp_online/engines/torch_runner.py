"""Runs the steps of a torch learner on blocks of rows; on a GPU, captured in CUDA graphs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..mixture import METRIC_EVERY, draw
from ..values import Flag, Vector
from . import devices
from .base import LearnerSpec
from .cuda_graph import WARM_UPS, GraphPool, reproducible
from .torch_sample import DRAWS, NEW_WEIGHTS, STEP
from .torch_step import RowStep

#: Greatest number of rows in one transfer to the device, and of their bytes.
MOST_ROWS, MOST_BYTES = 1024, 1 << 24
#: Number of seeds of a module's random numbers.
_SEEDS = 1 << 62


class Size(NamedTuple):
    """Number of inputs with their own statistics, of positions per input, and of outputs."""

    channels: int
    positions: int
    outputs: int


class StepRunner:
    """Runs the steps of a learner of one size on blocks of rows.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner.
    size : Size
        Size, including spare inputs and outputs.
    device, dtype
        Device and precision.
    capture : bool
        Whether the operations of a row are captured in CUDA graphs, each at its first use.
    activity : Activity
        Counts captures, and the time of rows on a GPU.

    Notes
    -----
    `prepare` captures what `learn` and `predict` need. From then on they allocate no memory of the device: a
    call that begins cannot end for lack of it.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        size: Size,
        device: str,
        dtype: torch.dtype,
        *,
        capture: bool,
        activity: devices.Activity,
    ) -> None:
        self.size = size
        place = devices.tensor_device(device)
        self.step = RowStep(spec, *size, place, dtype)
        self._device, self._activity = device, activity
        self._graphs = GraphPool(device, activity) if capture else None
        self._averages = spec.averages
        self._renews = spec.neighbours and bool(spec.hidden)
        self.columns = columns = self.step.width + DRAWS + spec.replayed
        self.rows = min(max(MOST_BYTES // (8 * columns), 1), MOST_ROWS)
        self.late_rows = min(max(MOST_BYTES // (8 * len(spec.experts) * size.outputs or 1), 1), self.rows)
        self._host = torch.zeros(self.rows, columns, dtype=torch.float64, pin_memory=devices.is_gpu(place))
        exact = torch.zeros((), dtype=torch.float64, device=place)
        self._rows = exact.new_zeros(self.rows + WARM_UPS, columns)
        self._results = exact.new_zeros(self.rows + WARM_UPS, 1 + size.outputs)
        self._at = torch.zeros(1, dtype=torch.int64, device=place)
        self._given: Tensor | None = None  # most learners need none
        self._runs: dict[str, Callable[[], None]] = {}
        self._random = (
            _Randomness(spec.seed, self._at.device) if isinstance(spec.network, nn.Module) else None
        )

    def predict(self, x: Vector, rest: Vector) -> Vector:
        """Return for each raw input whether it has a prediction, followed by the prediction: (B, 1 + C).

        Parameters
        ----------
        x : (B, n)
            Raw inputs, B ≤ `rows`.
        rest : (B, columns)
            Further columns of the rows; see `torch_sample`.
        """
        run = self._prepared(self.predict_row)
        with reproducible(self._uncaptured):
            self._upload(x, rest)
            start = time.perf_counter()
            for _ in range(len(x)):
                run()
            return self._download(len(x), start)

    def experts(self) -> Vector:
        """Return the predictions of the experts in the latest prediction, (K, C); NaN where one had none."""
        if self.step.experts is None:
            return np.empty((0, 0))
        values: Vector = self.step.experts.to("cpu", copy=True).numpy()
        return values

    def learn(
        self,
        x: Vector,
        rest: Vector,
        given: Vector | None = None,
        *,
        predict: bool,
        pause: Flag | None = None,
    ) -> tuple[int, Vector]:
        """Learn rows in order, up to the first refused row.

        Parameters
        ----------
        x : (B, n)
            Raw inputs, B ≤ `rows`.
        rest : (B, columns)
            Further columns of the rows; see `torch_sample`.
        given : (B, K, outputs in use), optional
            Earlier predictions of the experts, to judge them by; then B ≤ `late_rows`.
        predict : bool
            Whether to return the predictions.
        pause : Flag, optional
            Ends the call after a row, if the rows are not captured.

        Returns
        -------
        int, array of shape (B, C)
            Number of rows learned, and their predictions if `predict`.
        """
        if self._random is None:
            return self._learn_rows(x, rest, given, predict=predict, pause=pause)
        with self._random.own():
            return self._learn_rows(x, rest, given, predict=predict, pause=pause)

    def _learn_rows(
        self, x: Vector, rest: Vector, given: Vector | None, *, predict: bool, pause: Flag | None
    ) -> tuple[int, Vector]:
        counted = rest[:, NEW_WEIGHTS] > 0.0
        renewed = (rest[:, STEP] % METRIC_EVERY == 0.0) & self._renews
        run = self._learning(predict=predict, given=given)
        average = self._prepared(self.average_row) if counted.any() else _nothing
        renew = self._prepared(self.renew_row) if renewed.any() else _nothing
        with reproducible(self._uncaptured):
            self._upload(x, rest)
            start = time.perf_counter()
            for i, (counts, renews) in enumerate(zip(counted.tolist(), renewed.tolist(), strict=True)):
                if self._random is not None:
                    self._random.seed(int(rest[i, STEP]))
                try:
                    run()
                except torch.OutOfMemoryError:  # of a module that is not captured
                    self.step.discard()
                    if i == 0:
                        raise
                    break
                if counts:
                    average()
                if renews:
                    renew()
                if self._graphs is None and (bool(self.step.halted) or (pause is not None and pause[0])):
                    break  # a graph's host does not wait for the value
            results = self._download(len(x), start)
        return int(results[:, 0].sum()), results[:, 1:]

    @property
    def _uncaptured(self) -> str:
        """Device of operations that are not captured; the CPU if there are none."""
        return self._device if self._graphs is None else "cpu"

    def prepare(self) -> None:
        """Capture what later calls need: predictions need not wait, and no row ends for lack of memory."""
        self._prepared(self.predict_row)
        if self._averages:
            self._prepared(self.average_row)
        if self._renews:
            self._prepared(self.renew_row)

    def _learning(self, *, predict: bool, given: Vector | None) -> Callable[[], None]:
        """Return the method that learns a row, and copy predictions of the experts to the device."""
        if given is None:
            return self._prepared(self.learn_row if predict else self.learn_unpredicted_row)
        if self._given is None:
            count = self.late_rows + WARM_UPS
            self._given = self._rows.new_zeros(count, given.shape[1], self.size.outputs)
        run = self._prepared(self.learn_given_row)
        part = self._given[: len(given)]
        part[..., : given.shape[2]].copy_(torch.from_numpy(given))
        part[..., given.shape[2] :] = 0.0
        return run

    def _upload(self, x: Vector, rest: Vector) -> None:
        """Copy rows to the device and clear the refusal; the host's buffer is free after `_download`."""
        count, n = x.shape
        host = self._host.numpy()[:count]
        host[:, :n], host[:, n : self.step.width] = x, 0.0
        host[:, self.step.width :] = rest
        self._rows[:count].copy_(self._host[:count], non_blocking=True)
        self._results[:count, 0] = 0.0
        self._at.zero_()
        self.step.halted.zero_()

    def _download(self, count: int, start: float) -> Vector:
        """Return results. Only this method makes the host wait for the device."""
        # Whole rows: a part of each would be gathered in new memory of the device first.
        results: NDArray[np.float64] = self._results[:count].to("cpu", copy=True).numpy()
        if devices.is_gpu(self._device):
            self._activity.rows += count
            self._activity.seconds += time.perf_counter() - start
        return results

    def _prepared(self, function: Callable[[], None]) -> Callable[[], None]:
        """Return a method; of graphs, captured at its first use."""
        if self._graphs is None:
            return function
        name = function.__name__
        if name not in self._runs:
            self.step.halted.fill_(True)  # the warm-up runs change nothing
            self._at.zero_()
            self._runs[name] = self._graphs.capture(function)
        return self._runs[name]

    @torch.no_grad()
    def predict_row(self) -> None:
        """Predict the next row."""
        result = self.step.predict(self._rows.index_select(0, self._at)[0])
        self._results.index_copy_(0, self._at, result[None])
        self._at.add_(1)

    def learn_row(self) -> None:
        """Predict and learn the next row."""
        self._learn(predict=True)

    def learn_unpredicted_row(self) -> None:
        """Learn the next row."""
        self._learn(predict=False)

    def learn_given_row(self) -> None:
        """Predict and learn the next row, and judge the experts by their earlier predictions."""
        self._learn(predict=True, given=self._given)

    @torch.no_grad()
    def _learn(self, *, predict: bool, given: Tensor | None = None) -> None:
        row = self._rows.index_select(0, self._at)[0]
        if given is not None:
            given = given.index_select(0, self._at)[0]
        result = self.step.learn(row, predict=predict, given=given)
        self._results[:, : len(result)].index_copy_(0, self._at, result[None])
        self._at.add_(1)

    @torch.no_grad()
    def average_row(self) -> None:
        """Update the running means of the weights, after `learn_row`.

        The update has its own graph: few rows need it, and it reads all weights.
        """
        self.step.average(self._rows[self._at - 1][0])

    @torch.no_grad()
    def renew_row(self) -> None:
        """Renew the metric of the neighbours, after `learn_row`."""
        self.step.renew_metric()


class _Randomness:
    """Random numbers of a module, for example for dropout: they depend on the seed and the step alone.

    Modules draw from the generators of the process. While a block runs, no other module does.

    Parameters
    ----------
    seed : int
        Seed of the learner.
    device : torch.device
        Where the module draws.
    """

    _lock = threading.Lock()

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._gpus = [device.index] if device.type == "cuda" else []
        generators = [torch.cuda.default_generators[i] for i in self._gpus]
        self._generators = generators or [torch.default_generator]

    @contextmanager
    def own(self) -> Iterator[None]:
        """Restore the generators of the process after the block."""
        with self._lock, torch.random.fork_rng(self._gpus):
            yield

    def seed(self, step: int) -> None:
        """Begin the random numbers of a step."""
        for generator in self._generators:
            generator.manual_seed(draw(self._seed, step, 0, _SEEDS))


def _nothing() -> None:
    """Do nothing."""
