"""What a scrape sees of a model: what is copied in the model's turn, and what is made of it afterwards.

A copy of the moments and of the latest scores takes a few tenths of a millisecond; to make something of them
takes ten times as long, and is done in another thread while the model goes on.

The metrics of models: to add one is to add it to `FAMILIES`.

Their labels are bounded: by the number of models, by what their specs say of layers and of rates, and by the
names that this project gives to scores and to errors. A deleted model's series are gone with it.

What `/metrics` answers: the registry, and what a look at every model and at the store finds.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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
from bnp_online.evaluation.prequential import PrequentialMetrics

from ..errors import DamagedEventError, RequestError, StorageError, UnknownModelError
from ..settings import Settings
from ..storage.interfaces import Checkpoint, EventLog
from .hosted import HostedModel
from .operations import Operations
from .recovery import Replay
from .registry import Models
from .worker import Worker


@dataclass(frozen=True, slots=True)
class Inside:
    """What only a turn of the model may see, copied.

    Attributes
    ----------
    scores : PrequentialMetrics
        A copy.
    baselines : dict
        As `Baselines.report` returns them.
    mixture : list of dict
        As an estimator's.
    diagnose : callable
        Returns the layers' conditioning.
    features, classes, ignored : int
        How many are known, and how many values of others were ignored.
    """

    scores: PrequentialMetrics
    baselines: dict[str, Any]
    mixture: list[dict[str, float]]
    diagnose: Callable[[], list[Diagnosis]]
    features: int
    classes: int
    ignored: int


@dataclass(frozen=True, slots=True)
class Glance:
    """A model at one moment.

    Attributes
    ----------
    model : HostedModel
        Of which only plain counters may be read.
    failed, rebuilding : bool
        As a learner's `state` says.
    waiting : mapping of str to int
        How many wait ``"to learn"`` and ``"to read"``.
    refusals : mapping of str to int
        Samples that were refused, by code.
    replay : Replay
        The last one.
    checkpoints : list of Checkpoint
        Those that are kept, the newest first.
    unsaved : int
        Samples since the newest checkpoint of the branch that counts.
    inside : Inside or None
        None where the model did not answer in time.
    """

    model: HostedModel
    failed: bool
    rebuilding: bool
    waiting: Mapping[str, int]
    refusals: Mapping[str, int]
    replay: Replay
    checkpoints: list[Checkpoint]
    unsaved: int
    inside: Inside | None

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model.name


async def glance(worker: Worker, operations: Operations, seconds: float) -> Glance:
    """Look at a model, and wait at most so many seconds for its turn."""
    kept = await _checkpoints(operations)
    usable = [checkpoint.step for checkpoint, current in kept if current]
    inside = await _inside(worker, seconds)
    model = worker.model
    return Glance(
        model=model,
        failed=worker.failed,
        rebuilding=worker.state == "rebuilding",
        waiting={"learn": worker.samples_waiting, "read": worker._reads.taken},
        refusals=dict(worker.refusals),
        replay=operations.replay,
        checkpoints=[checkpoint for checkpoint, _ in kept],
        unsaved=max(model.step - usable[0], 0) if usable else model.step,
        inside=inside,
    )


async def _checkpoints(operations: Operations) -> list[tuple[Checkpoint, bool]]:
    try:
        return await operations.checkpoints()
    except (StorageError, DamagedEventError, OSError):  # who looks at a store that fails needs the rest
        return []


async def _inside(worker: Worker, seconds: float) -> Inside | None:
    try:
        async with asyncio.timeout(seconds):
            return await worker.ask(_look)
    except (TimeoutError, RequestError):  # its plain counters are shown all the same
        return None


def _look(model: HostedModel) -> Inside:
    estimator = model.estimator
    return Inside(
        scores=model.score.copy(),
        baselines=model.baselines.report(),
        mixture=estimator.mixture,
        diagnose=estimator.diagnosing(),
        features=len(estimator.feature_names),
        classes=len(estimator.labels) if isinstance(estimator, BNPClassifier) else 0,
        ignored=estimator.ignored_features,
    )


Series: TypeAlias = Iterable[tuple[tuple[str, ...], float]]
"""Values of the labels but the first, which is the model, and the value of the series."""

#: Refusals that are shown before the first: an alert could not tell that the first has happened, else.
_NON_FINITE = ("non_finite_feature", "non_finite_label", "non_finite_state")


class Family(NamedTuple):
    """A metric of models.

    Attributes
    ----------
    make : type
        Of the family.
    name, help : str
        Its name, without the suffix of a counter, and what it is.
    read : callable
        Returns the series of a model.
    labels : tuple of str
        Beside the model.
    """

    make: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    read: Callable[[Glance, Details], Series]
    labels: tuple[str, ...] = ()


class Details(NamedTuple):
    """What was made of a model's inside; empty where it did not answer."""

    inside: Inside | None
    scores: list[tuple[tuple[str, str], float]]
    baselines: list[tuple[tuple[str, str, str], float]]
    layers: list[Diagnosis]


def details(inside: Inside | None) -> Details:
    """Make something of a model's inside, which takes some milliseconds."""
    if inside is None:
        return Details(None, [], [], [])
    scores, baselines = inside.scores.report(), inside.baselines
    return Details(
        inside,
        [
            ((metric, over), value)
            for over in _OVER
            for metric, value in scores[over].items()
            if scores["n"] and metric not in ("n", "size")
        ],
        [
            ((baseline, metric, over), value)
            for over in _OVER
            for baseline, values in baselines[over].items()
            for metric, value in values.items()
            if baselines["n"]
        ],
        inside.diagnose(),
    )


_OVER = ("cumulative", "window")


def _one(read: Callable[[Glance], float | None]) -> Callable[[Glance, Details], Series]:
    """Return what reads the only series of a model, which is left out while it has no value."""
    return lambda glance, _: [] if (value := read(glance)) is None else [((), value)]


def _within(read: Callable[[Inside], float]) -> Callable[[Glance, Details], Series]:
    return _one(lambda glance: None if glance.inside is None else read(glance.inside))


def _refusals(glance: Glance, _: Details) -> Series:
    return [((code,), count) for code, count in {**dict.fromkeys(_NON_FINITE, 0), **glance.refusals}.items()]


def _mixture(_: Glance, made: Details) -> Series:
    for copy in made.inside.mixture if made.inside is not None else ():
        labels = (f"{copy['lr']:g}", str(copy["replay"]), str(copy["averages"]).lower())
        yield labels, copy["weight"]


def _ends(_: Glance, made: Details) -> Series:
    """Yield how much the copies at the lowest and at the highest rate count, if there are several rates."""
    copies = made.inside.mixture if made.inside is not None else []
    rates = {copy["lr"] for copy in copies}
    for end, rate in (("lowest", min(rates)), ("highest", max(rates))) if len(rates) > 1 else ():
        yield (end,), sum(copy["weight"] for copy in copies if copy["lr"] == rate)


def _unevenness(_: Glance, made: Details) -> Series:
    for layer in made.layers:
        yield (layer.name, "before"), layer.before
        yield (layer.name, "after"), layer.after


_C, _G = CounterMetricFamily, GaugeMetricFamily
FAMILIES = (
    Family(_G, "bnp_model_up", "1, or 0 if the model failed.", _one(lambda g: not g.failed)),
    Family(_G, "bnp_model_rebuilding", "1 while the state is being rebuilt.", _one(lambda g: g.rebuilding)),
    Family(_C, "bnp_model_learned", "Samples learned.", _one(lambda g: g.model.step)),
    Family(_C, "bnp_model_predicted", "Predictions answered.", _one(lambda g: g.model.predicted)),
    Family(_C, "bnp_model_labelled", "Predictions that got their label.", _one(lambda g: g.model.labelled)),
    Family(_C, "bnp_model_refusals", "Samples refused, by the error's code.", _refusals, ("code",)),
    Family(_C, "bnp_drifts", "Drifts detected.", _one(lambda g: g.model.drifts)),
    Family(_G, "bnp_model_step", "Samples in the model's state.", _one(lambda g: g.model.step)),
    Family(
        _G,
        "bnp_model_queue_depth",
        "Samples that wait to be learned, and predictions and questions that wait to read.",
        lambda g, _: [((queue,), count) for queue, count in g.waiting.items()],
        ("queue",),
    ),
    Family(
        _G,
        "bnp_model_pending_labels",
        "Predictions that wait for their label.",
        _one(lambda g: g.model.pending),
    ),
    Family(_G, "bnp_model_last_loss", "Loss of the last sample scored.", _one(lambda g: g.model.last_loss)),
    Family(
        _G,
        "bnp_model_score",
        "Prequential metrics as River computes them, cumulative and over the last 1,000 samples.",
        lambda _, made: made.scores,
        ("metric", "over"),
    ),
    Family(
        _G,
        "bnp_model_baseline_score",
        "The same of predictions without features: the majority class or the mean, and the last label.",
        lambda _, made: made.baselines,
        ("baseline", "metric", "over"),
    ),
    Family(
        _G,
        "bnp_model_mixture_weight",
        "Share of each copy of the network in the prediction, by its learning rate and replay.",
        _mixture,
        ("lr", "replay", "averages"),
    ),
    Family(
        _G,
        "bnp_model_mixture_end_weight",
        "Share of the copies at the lowest and at the highest learning rate.",
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
        lambda _, made: [((layer.name,), layer.columns) for layer in made.layers],
        ("layer",),
    ),
    Family(
        _G,
        "bnp_model_layer_silent_columns",
        "Inputs of a layer that hardly vary any more.",
        lambda _, made: [((layer.name,), layer.silent) for layer in made.layers],
        ("layer",),
    ),
    Family(_G, "bnp_model_features", "Features known.", _within(lambda i: i.features)),
    Family(_G, "bnp_model_classes", "Classes known.", _within(lambda i: i.classes)),
    Family(
        _C,
        "bnp_model_ignored_features",
        "Values of features beyond max_features.",
        _within(lambda i: i.ignored),
    ),
    Family(_G, "bnp_model_checkpoints", "Checkpoints kept.", _one(lambda g: len(g.checkpoints))),
    Family(
        _G,
        "bnp_model_checkpoints_size_bytes",
        "Size of all checkpoints that are kept.",
        _one(lambda g: sum(checkpoint.size for checkpoint in g.checkpoints)),
    ),
    Family(
        _G,
        "bnp_model_checkpoint_timestamp_seconds",
        "When the newest checkpoint was made, in seconds since 1970.",
        _one(lambda g: g.checkpoints[0].time if g.checkpoints else None),
    ),
    Family(
        _G,
        "bnp_model_unsaved_steps",
        "Samples since the newest checkpoint that counts: a start has to learn them again.",
        _one(lambda g: g.unsaved),
    ),
    Family(
        _G,
        "bnp_model_recovery_duration_seconds",
        "Time of the last replay of the log: at the start, for a rollback, or to unlearn.",
        _one(lambda g: g.replay.seconds),
    ),
    Family(
        _G,
        "bnp_model_recovery_events",
        "Events in the last replay of the log.",
        _one(lambda g: g.replay.events),
    ),
)


def of_models(glances: Iterable[Glance]) -> Iterator[Metric]:
    """Yield the families, each with the series of every model."""
    seen = [(glance, details(glance.inside)) for glance in glances]
    for make, name, text, read, labels in FAMILIES:
        family = make(name, text, labels=("model", *labels))
        for glance, made in seen:
            for values, value in read(glance, made):
                family.add_metric([glance.name, *values], value)
        yield family
    loss = SummaryMetricFamily("bnp_model_loss", "Loss; its mean is sum / count.", labels=["model"])
    for glance, _ in seen:
        loss.add_metric([glance.name], glance.model.scored, glance.model.loss_sum)
    yield loss


class StoreCollector(Collector):
    """Looks at the event log and its disk when asked, and tells the limits that alerts compare with."""

    def __init__(self, log: EventLog, settings: Settings) -> None:
        self._log = log
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each fact."""
        yield InfoMetricFamily("bnp_build", "The server's version.", {"version": __version__})
        disk = shutil.disk_usage(self._settings.data_dir)
        for name, text, value in (
            ("bnp_log_events", "Events in the event log, of all models.", self._log.length),
            ("bnp_log_size_bytes", "Size of the event log.", self._log.size()),
            ("bnp_disk_free_bytes", "Free space where the data folder is.", disk.free),
            ("bnp_disk_size_bytes", "Size of the disk where the data folder is.", disk.total),
            ("bnp_queue_limit", "Setting: how many may wait in a queue.", self._settings.queue_size),
            ("bnp_checkpoint_steps", "Setting: steps between checkpoints.", self._settings.checkpoint_every),
        ):
            yield GaugeMetricFamily(name, text, value)


async def scrape(registry: CollectorRegistry, models: Models) -> bytes:
    """Return all metrics in Prometheus' text format.

    Models are looked at in their turns, all at once; what takes longer is done in a thread.
    """
    seconds = models.settings.ready_timeout
    seen = await asyncio.gather(*(_glance(models, worker, seconds) for worker in models))
    glances = [each for each in seen if each is not None]
    return await asyncio.to_thread(generate_latest, _Both(registry, glances))


async def _glance(models: Models, worker: Worker, seconds: float) -> Glance | None:
    try:
        return await glance(worker, models.operations(worker.model.name), seconds)
    except UnknownModelError:
        return None  # deleted meanwhile


class _Both(Collector):
    def __init__(self, registry: CollectorRegistry, glances: list[Glance]) -> None:
        self._registry = registry
        self._glances = glances

    def collect(self) -> Iterator[Metric]:
        return itertools.chain(self._registry.collect(), of_models(self._glances))
