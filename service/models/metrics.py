"""Metrics of the models, of the event log and of its disk, for ``GET /metrics``.

A scrape copies the state of each model with exclusive access, which takes a few tenths of a millisecond. A
thread then computes the values from the copies, which takes ten times as long.

To add a metric of models, add it to `FAMILIES`. Its labels must be bounded: by the number of models, by the
layers and rates of their specifications, or by the names that this project gives to scores and errors. Ten
features of a model have a series. The series of a deleted model disappear with it.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from bnp_online import BNPClassifier, __version__
from bnp_online.diagnostics import Diagnosis
from bnp_online.engines.devices import Activity, is_gpu, memory
from bnp_online.errors import DeviceLostError, DeviceMemoryError
from bnp_online.evaluation.prequential import PrequentialMetrics

from ..errors import DamagedEventError, NotInMemoryError, RequestError, StorageError, UnknownModelError
from ..settings import Settings
from ..storage.interfaces import Checkpoint, EventLog
from . import report
from .access import Models
from .hosted import HostedModel, Replay, Shadow
from .operations import Operations
from .upgrading import Progress
from .worker import Worker

Series: TypeAlias = Iterable[tuple[tuple[str, ...], float]]
"""Values of the labels except the first, which is the model, and the value of the series."""

_Values: TypeAlias = tuple[tuple[str, str, int], ...]
"""Name, description and value of gauges."""

#: Refusals that have a series before the first one happens: an alert cannot see a series that begins with 1.
_NON_FINITE = ("non_finite_feature", "non_finite_label", "non_finite_state")
_OVER = ("cumulative", "window")
#: Greatest number of features of a model with their importances, and of characters of their names.
_IMPORTANCES, _LONGEST = 10, 100


class Copies(NamedTuple):
    """State of a model, copied with exclusive access.

    Attributes
    ----------
    scores : PrequentialMetrics
        Prequential metrics.
    baselines : dict
        Report of the baselines.
    intervals : dict or None
        Scores of the intervals, by span; None without intervals.
    mixture : list of dict
        Experts of the mixture and their weights.
    diagnose : callable
        Returns the conditioning of the layers.
    features, classes, ignored : int
        Number of features, of classes, and of values of features beyond the limit.
    fields, values, recycled : int
        Number of features with strings or words in the sparse stage, of their values, and of values that made
        room for others.
    importances : list of dict
        Features with the greatest running importance.
    """

    scores: PrequentialMetrics
    baselines: dict[str, Any]
    intervals: dict[str, Any] | None
    mixture: list[dict[str, Any]]
    diagnose: Callable[[], list[Diagnosis]]
    features: int
    classes: int
    ignored: int
    fields: int
    values: int
    recycled: int
    importances: list[dict[str, Any]]


@dataclass(frozen=True)
class Observation:
    """A model at the time of a scrape.

    Attributes
    ----------
    model : HostedModel
        The model, of which only counters are read.
    failed, rebuilding : bool
        State of the worker.
    upgrade : Progress or None
        Progress of an upgrade; None without one.
    waiting : mapping of str to int
        Number of requests that wait ``"to learn"`` and ``"to read"``, by queue.
    refusals : mapping of str to int
        Samples that were refused, by error code.
    in_blocks : int
        Samples that were learned in blocks.
    replay : Replay
        The latest replay of the log.
    checkpoints : list of Checkpoint or None
        The checkpoints, newest first; None if storage does not answer.
    unsaved : int or None
        Samples since the newest checkpoint of the current branch; None if storage does not answer.
    copies : Copies or None
        None if the model did not answer in time: metrics of the state have no series then.
    """

    model: HostedModel
    failed: bool
    rebuilding: bool
    upgrade: Progress | None
    waiting: Mapping[str, int]
    refusals: Mapping[str, int]
    in_blocks: int
    replay: Replay
    checkpoints: list[Checkpoint] | None
    unsaved: int | None
    copies: Copies | None

    @property
    def mixture(self) -> list[dict[str, Any]]:
        """Experts of the mixture."""
        return [] if self.copies is None else self.copies.mixture

    @cached_property
    def layers(self) -> list[Diagnosis]:
        """Conditioning of the layers, computed once per scrape."""
        return [] if self.copies is None else self.copies.diagnose()


async def observe(worker: Worker, operations: Operations, seconds: float, *, stored: bool) -> Observation:
    """Observe a model; wait at most `seconds` for exclusive access, and read storage only if `stored`."""
    kept = await _checkpoints(operations) if stored else None
    copies = await _copies(worker, seconds)
    model, to_learn = worker.model, worker.samples_waiting
    usable = [checkpoint.step for checkpoint, current in kept or () if current]
    return Observation(
        model=model,
        failed=worker.failed,
        rebuilding=worker.rebuilding,
        upgrade=operations.upgrading,
        waiting={"learn": to_learn, "read": worker.queue_depth - to_learn},
        refusals=dict(worker.refusals),
        in_blocks=worker.in_blocks,
        replay=operations.replay,
        checkpoints=None if kept is None else [checkpoint for checkpoint, _ in kept],
        unsaved=None if kept is None else max(model.step - usable[0], 0) if usable else model.step,
        copies=copies,
    )


async def _checkpoints(operations: Operations) -> list[tuple[Checkpoint, bool]] | None:
    try:
        return await operations.checkpoints()
    except (StorageError, DamagedEventError, OSError):  # the other metrics matter most while storage fails
        return None


async def _copies(worker: Worker, seconds: float) -> Copies | None:
    try:
        async with asyncio.timeout(seconds):
            return await worker.ask(_copy)
    except (
        TimeoutError,
        RequestError,
        DeviceMemoryError,
        DeviceLostError,
    ):  # the counters are reported nevertheless
        return None


def _copy(model: HostedModel) -> Copies:
    estimator = model.estimator
    fields = estimator.fields
    return Copies(
        scores=model.score.copy(),
        baselines=model.baselines.report(),
        intervals=report.intervals(model),
        mixture=estimator.mixture,
        diagnose=estimator.diagnosing(),
        features=len(estimator.feature_names),
        classes=len(estimator.labels) if isinstance(estimator, BNPClassifier) else 0,
        ignored=estimator.ignored_features,
        fields=len(fields),
        values=sum(fields.values()),
        recycled=estimator.recycled_values,
        importances=model.importances.report(_IMPORTANCES),
    )


class Family(NamedTuple):
    """A metric of models.

    Attributes
    ----------
    make : type
        Type of the family.
    name, help : str
        Name without the suffix of a counter, and description.
    read : callable
        Returns the series of a model.
    labels : tuple of str
        Labels except the model.
    """

    make: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    read: Callable[[Observation], Series]
    labels: tuple[str, ...] = ()


def _one(read: Callable[[Observation], float | None]) -> Callable[[Observation], Series]:
    """Return a reader of the only series of a model, which is omitted if it has no value."""
    return lambda seen: [] if (value := read(seen)) is None else [((), value)]


def _of_copies(read: Callable[[Copies], float]) -> Callable[[Observation], Series]:
    return _one(lambda seen: None if seen.copies is None else read(seen.copies))


def _refusals(seen: Observation) -> Series:
    return [((code,), count) for code, count in {**dict.fromkeys(_NON_FINITE, 0), **seen.refusals}.items()]


def _scores(seen: Observation) -> Series:
    if seen.copies is None or not (scores := seen.copies.scores.report())["n"]:
        return
    for over in _OVER:
        for metric, value in scores[over].items():
            if metric not in ("n", "size"):
                yield (metric, over), value


def _baselines(seen: Observation) -> Series:
    if seen.copies is None or not (baselines := seen.copies.baselines)["n"]:
        return
    for over in _OVER:
        for baseline, values in baselines[over].items():
            for metric, value in values.items():
                yield (baseline, metric, over), value


def _intervals(name: str, seen: Observation) -> Series:
    if seen.copies is None or seen.copies.intervals is None:
        return
    for over in _OVER:
        if (value := seen.copies.intervals[over][name]) is not None:
            yield (over,), value


def _mixture(seen: Observation) -> Series:
    for each in seen.mixture:
        rate = "" if each["lr"] is None else f"{each['lr']:g}"
        labels = (each["expert"], each["kind"], rate, str(each["replay"]), str(each["averages"]).lower())
        yield labels, each["weight"]


def _importances(seen: Observation) -> Series:
    found = (
        {} if seen.copies is None else {each["feature"][:_LONGEST]: each for each in seen.copies.importances}
    )
    for name, each in found.items():
        yield (name,), each["importance"]


def _ends(seen: Observation) -> Series:
    """Yield the weight of the networks at the lowest and the highest rate, if there are several rates."""
    networks = [each for each in seen.mixture if each["kind"] == "network"]
    rates = {each["lr"] for each in networks}
    for end, rate in (("lowest", min(rates)), ("highest", max(rates))) if len(rates) > 1 else ():
        yield (end,), sum(each["weight"] for each in networks if each["lr"] == rate)


def _unevenness(seen: Observation) -> Series:
    for layer in seen.layers:
        yield (layer.name, "before"), layer.before
        yield (layer.name, "after"), layer.after


def _upgrade(seen: Observation) -> Series:
    if seen.upgrade is not None:
        yield ("all",), seen.upgrade.events
        yield ("done",), seen.upgrade.done


def _of_gpu(read: Callable[[Activity], float]) -> Callable[[Observation], Series]:
    """Return a reader of the only series of a model on a GPU."""

    def value(seen: Observation) -> float | None:
        activity = seen.model.estimator.activity
        return None if activity is None else read(activity)

    return _one(value)


def _of_shadows(read: Callable[[Shadow], float | None]) -> Callable[[Observation], Series]:
    """Return a reader of the series of each shadow: their number is limited (``BNP_MAX_SHADOWS``)."""

    def values(seen: Observation) -> Series:
        for each in [*seen.model.shadows.values()]:
            if (value := read(each)) is not None:
                yield (each.name,), value

    return values


def _differences(seen: Observation) -> Series:
    for each in [*seen.model.shadows.values()]:
        low, high = each.comparison.interval()
        for bound, value in (("low", low), ("mean", each.comparison.difference), ("high", high)):
            if value is not None:
                yield (each.name, bound), value


_C, _G = CounterMetricFamily, GaugeMetricFamily
FAMILIES = (
    Family(_G, "bnp_model_up", "1, or 0 if the model failed.", _one(lambda m: not m.failed)),
    Family(_G, "bnp_model_rebuilding", "1 while the state is being rebuilt.", _one(lambda m: m.rebuilding)),
    Family(
        _G,
        "bnp_model_upgrade_events",
        "Events that an upgrade in progress relearns, and those that it has relearned.",
        _upgrade,
        ("events",),
    ),
    Family(_C, "bnp_model_learned", "Samples learned.", _one(lambda m: m.model.step)),
    Family(
        _C,
        "bnp_model_block_samples",
        "Samples learned in blocks since the server started: lines like earlier ones.",
        lambda m: [((), m.in_blocks)],
    ),
    Family(_C, "bnp_model_predicted", "Predictions answered.", _one(lambda m: m.model.predicted)),
    Family(_C, "bnp_model_labelled", "Predictions that got their label.", _one(lambda m: m.model.labelled)),
    Family(_C, "bnp_model_refusals", "Samples refused, by the error's code.", _refusals, ("code",)),
    Family(_C, "bnp_drifts", "Drifts detected.", _one(lambda m: m.model.drift.detections)),
    Family(_G, "bnp_model_step", "Samples in the model's state.", _one(lambda m: m.model.step)),
    Family(
        _G,
        "bnp_model_queue_depth",
        "Samples that wait to be learned, and predictions and questions that wait to read.",
        lambda m: [((queue,), count) for queue, count in m.waiting.items()],
        ("queue",),
    ),
    Family(
        _G,
        "bnp_model_pending_labels",
        "Predictions that wait for their label.",
        _one(lambda m: m.model.pending),
    ),
    Family(_G, "bnp_model_last_loss", "Loss of the last sample scored.", _one(lambda m: m.model.last_loss)),
    Family(
        _G,
        "bnp_model_score",
        "Prequential metrics as River computes them, cumulative and over the last 1,000 samples.",
        _scores,
        ("metric", "over"),
    ),
    Family(
        _G,
        "bnp_model_baseline_score",
        "The same of predictions without features: the majority class or the mean, and the last label.",
        _baselines,
        ("baseline", "metric", "over"),
    ),
    Family(
        _G,
        "bnp_model_interval_coverage",
        "Share of targets in their 90% interval, of a regression with intervals; near 0.9 is right.",
        partial(_intervals, "coverage"),
        ("over",),
    ),
    Family(
        _G,
        "bnp_model_interval_width",
        "Mean width of these intervals, in units of the target.",
        partial(_intervals, "width"),
        ("over",),
    ),
    Family(
        _G,
        "bnp_model_mixture_weight",
        "Share of each expert in the prediction: networks, linear models, neighbours, bins, and their stack.",
        _mixture,
        ("expert", "kind", "lr", "replay", "averages"),
    ),
    Family(
        _G,
        "bnp_model_feature_importance",
        "Mean absolute contribution to the predictions, of the 10 features with the greatest.",
        _importances,
        ("feature",),
    ),
    Family(
        _G,
        "bnp_model_mixture_end_weight",
        "Share of the networks at the lowest and at the highest learning rate.",
        _ends,
        ("end",),
    ),
    Family(
        _G,
        "bnp_model_layer_unevenness",
        "Largest by smallest mean square of a layer's inputs, before and after preconditioning; 1 is best.",
        _unevenness,
        ("layer", "stage"),
    ),
    Family(
        _G,
        "bnp_model_layer_columns",
        "Inputs of a layer.",
        lambda m: [((layer.name,), layer.columns) for layer in m.layers],
        ("layer",),
    ),
    Family(
        _G,
        "bnp_model_layer_silent_columns",
        "Inputs of a layer that hardly vary any more.",
        lambda m: [((layer.name,), layer.silent) for layer in m.layers],
        ("layer",),
    ),
    Family(_G, "bnp_model_features", "Features known.", _of_copies(lambda c: c.features)),
    Family(_G, "bnp_model_classes", "Classes known.", _of_copies(lambda c: c.classes)),
    Family(
        _C,
        "bnp_model_ignored_features",
        "Values of features beyond max_features.",
        _of_copies(lambda c: c.ignored),
    ),
    Family(
        _G,
        "bnp_model_fields",
        "Features with strings or words whose values have rows in place of columns.",
        _of_copies(lambda c: c.fields),
    ),
    Family(_G, "bnp_model_values", "Values of these features.", _of_copies(lambda c: c.values)),
    Family(
        _C,
        "bnp_model_values_recycled",
        "Values of these features that made room for others, because of max_values.",
        _of_copies(lambda c: c.recycled),
    ),
    Family(_C, "bnp_model_gpu_rows", "Samples learned or predicted on a GPU.", _of_gpu(lambda a: a.rows)),
    Family(
        _C,
        "bnp_model_gpu_seconds",
        "Time of these samples on the GPU: of the replays of CUDA graphs until their results arrived.",
        _of_gpu(lambda a: a.seconds),
    ),
    Family(
        _C,
        "bnp_model_gpu_captures",
        "CUDA graphs captured, when a model grew.",
        _of_gpu(lambda a: a.captures),
    ),
    Family(
        _C,
        "bnp_model_gpu_capture_seconds",
        "Time of the captures of CUDA graphs.",
        _of_gpu(lambda a: a.capture_seconds),
    ),
    Family(
        _G,
        "bnp_model_checkpoints",
        "Checkpoints kept.",
        _one(lambda m: None if m.checkpoints is None else len(m.checkpoints)),
    ),
    Family(
        _G,
        "bnp_model_checkpoints_size_bytes",
        "Size of all checkpoints that are kept.",
        _one(lambda m: None if m.checkpoints is None else sum(each.size for each in m.checkpoints)),
    ),
    Family(
        _G,
        "bnp_model_checkpoint_timestamp_seconds",
        "When the newest checkpoint was made, in seconds since 1970.",
        _one(lambda m: m.checkpoints[0].time if m.checkpoints else None),
    ),
    Family(
        _G,
        "bnp_model_unsaved_steps",
        "Samples since the newest checkpoint that counts: a start has to learn them again.",
        _one(lambda m: m.unsaved),
    ),
    Family(
        _G,
        "bnp_model_recovery_duration_seconds",
        "Time of the last replay of the log: at the start, for a rollback, or to unlearn.",
        _one(lambda m: m.replay.seconds),
    ),
    Family(
        _G,
        "bnp_model_recovery_events",
        "Events in the last replay of the log.",
        _one(lambda m: m.replay.events),
    ),
    Family(_C, "bnp_shadow_learned", "Samples learned.", _of_shadows(lambda s: s.model.step), ("shadow",)),
    Family(
        _C,
        "bnp_shadow_skipped",
        "Samples that a shadow could not learn, and its champion could.",
        _of_shadows(lambda s: s.skipped),
        ("shadow",),
    ),
    Family(
        _G,
        "bnp_shadow_up",
        "1, or 0 if the shadow no longer learns.",
        _of_shadows(lambda s: s.failure is None),
        ("shadow",),
    ),
    Family(
        _G,
        "bnp_shadow_behind_events",
        "Events that the champion has applied, and the shadow has not.",
        lambda m: [
            ((each.name,), max(m.model.sequence - each.model.sequence, 0))
            for each in [*m.model.shadows.values()]
            if each.failure is None
        ],
        ("shadow",),
    ),
    Family(
        _G,
        "bnp_shadow_compared",
        "Samples in the comparison of a shadow with its champion.",
        _of_shadows(lambda s: s.comparison.n),
        ("shadow",),
    ),
    Family(
        _G,
        "bnp_shadow_difference",
        "Mean loss of a shadow minus that of its champion, with its interval: below 0 the shadow is better.",
        _differences,
        ("shadow", "bound"),
    ),
)


def families_of(models: Iterable[Observation]) -> Iterator[Metric]:
    """Yield the families, each with the series of every model."""
    seen = list(models)
    for make, name, text, read, labels in FAMILIES:
        family = make(name, text, labels=("model", *labels))
        for each in seen:
            for values, value in read(each):
                family.add_metric([each.model.name, *values], value)
        yield family
    loss = SummaryMetricFamily("bnp_model_loss", "Loss; its mean is sum / count.", labels=["model"])
    for each in seen:
        loss.add_metric([each.model.name], each.model.scored, each.model.loss_sum)
    yield loss


def memory_of_gpus(devices: Iterable[str]) -> Iterator[Metric]:
    """Yield the memory of the GPUs among devices."""
    family = GaugeMetricFamily(
        "bnp_gpu_memory_bytes",
        "Memory of a GPU that a model uses: held by tensors, reserved by torch, free for all, and in total.",
        labels=["device", "memory"],
    )
    for device in sorted({each for each in devices if is_gpu(each)}):
        if (found := memory(device)) is not None:
            for name, value in found._asdict().items():
                family.add_metric([device, name], value)
    yield family


class StoreCollector(Collector):
    """Collects the size of the event log, the space on its disk, and limits for alerts."""

    def __init__(self, log: EventLog, settings: Settings) -> None:
        self._log = log
        self._settings = settings
        self._reading: asyncio.Future[_Values] | None = None
        self._of_log: _Values = ()

    async def read(self) -> bool:
        """Read the size of the log; return whether it answered within `BNP_READY_TIMEOUT`.

        A call that hangs blocks one thread, and the next scrapes wait for the same call.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().run_in_executor(None, self._read)
        self._of_log = ()
        try:
            self._of_log = await asyncio.wait_for(asyncio.shield(self._reading), self._settings.ready_timeout)
        except (TimeoutError, StorageError):
            return False
        return True

    def _read(self) -> _Values:
        return (
            ("bnp_log_events", "Events in the event log, of all models.", self._log.length),
            ("bnp_log_size_bytes", "Size of the event log.", self._log.size()),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield one family per value."""
        yield InfoMetricFamily("bnp_build", "The server's version.", {"version": __version__})
        for name, text, value in (
            *self._of_log,
            ("bnp_log_unerased", "1 while removed data may be on the disk, else 0.", self._log.unerased),
            *self._disk(),
            ("bnp_queue_limit", "Setting: how many may wait in a queue.", self._settings.queue_size),
            ("bnp_checkpoint_steps", "Setting: steps between checkpoints.", self._settings.checkpoint_every),
        ):
            yield GaugeMetricFamily(name, text, value)

    def _disk(self) -> Iterator[tuple[str, str, int]]:
        """Yield the space on the disk of the data folder, if the log is there."""
        if self._settings.store is None:
            disk = shutil.disk_usage(self._settings.data_dir)
            yield "bnp_disk_free_bytes", "Free space where the data folder is.", disk.free
            yield "bnp_disk_size_bytes", "Size of the disk where the data folder is.", disk.total


async def scrape(registry: CollectorRegistry, models: Models, store: StoreCollector) -> bytes:
    """Return all metrics in the text format of Prometheus, without those of the log if it does not answer.

    The models are observed concurrently. A thread computes the values and formats them.
    """
    seconds, stored = models.settings.ready_timeout, await store.read()
    seen = await asyncio.gather(*(_observe(models, worker, seconds, stored) for worker in models))
    count = Counter("stored" if each.state == "stored" else "memory" for each in models.summaries())
    return await asyncio.to_thread(generate_latest, _Both(registry, [each for each in seen if each], count))


async def _observe(models: Models, worker: Worker, seconds: float, stored: bool) -> Observation | None:
    try:
        return await observe(worker, models.operations_of(worker), seconds, stored=stored)
    except (UnknownModelError, NotInMemoryError):
        return None  # deleted or stored meanwhile


class _Both(Collector):
    """Metrics of a registry, and of models."""

    def __init__(
        self, registry: CollectorRegistry, models: list[Observation], count: Mapping[str, int]
    ) -> None:
        self._registry = registry
        self._models = models
        self._count = count

    def collect(self) -> Iterator[Metric]:
        count = GaugeMetricFamily("bnp_models", "Models, in memory and stored.", labels=["state"])
        for state in ("memory", "stored"):
            count.add_metric([state], self._count.get(state, 0))
        gpus = memory_of_gpus(each.model.estimator.device_name for each in self._models)
        return itertools.chain(self._registry.collect(), [count], families_of(self._models), gpus)
