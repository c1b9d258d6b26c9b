"""What a scrape sees of a model: what is copied in the model's turn, and what is made of it afterwards.

A copy of the moments and of the latest scores takes a few tenths of a millisecond; to make something of them
takes ten times as long, and is done in another thread while the model goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bnp_online import BNPClassifier
from bnp_online.diagnostics import Diagnosis
from bnp_online.evaluate import PrequentialMetrics
from service.errors import DamagedEventError, RequestError, StorageError
from service.hosted import HostedModel
from service.learner import Learner
from service.maintenance import Maintenance
from service.recovery import Replay
from service.store.base import Checkpoint


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


async def glance(learner: Learner, maintenance: Maintenance, seconds: float) -> Glance:
    """Look at a model, and wait at most so many seconds for its turn."""
    kept = await _checkpoints(maintenance)
    usable = [checkpoint.step for checkpoint, current in kept if current]
    inside = await _inside(learner, seconds)
    model = learner.model
    return Glance(
        model=model,
        failed=learner.failed,
        rebuilding=learner.state == "rebuilding",
        waiting={"learn": learner.samples_waiting, "read": learner.reads.waiting},
        refusals=dict(learner.refusals),
        replay=maintenance.replay,
        checkpoints=[checkpoint for checkpoint, _ in kept],
        unsaved=max(model.step - usable[0], 0) if usable else model.step,
        inside=inside,
    )


async def _checkpoints(maintenance: Maintenance) -> list[tuple[Checkpoint, bool]]:
    try:
        return await maintenance.checkpoints()
    except (StorageError, DamagedEventError, OSError):  # who looks at a store that fails needs the rest
        return []


async def _inside(learner: Learner, seconds: float) -> Inside | None:
    try:
        async with asyncio.timeout(seconds):
            return await learner.reads.ask(_look)
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
