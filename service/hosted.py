"""A model as the server keeps it: an estimator, its prequential score, and what it remembers by id.

Everything here is synchronous and belongs to one thread, the model's writer; what it does follows from the
order of its calls alone, so that the same events make the same state again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, TypeAlias

from bnp_online import BNPClassifier, BNPRegressor, __version__
from bnp_online.encoding import Sample
from bnp_online.errors import NonFiniteStateError
from bnp_online.evaluate import PrequentialMetrics
from bnp_online.learner import Preview
from service.errors import REFUSALS, AlreadyLabelledError
from service.ids import Learned, LearnedIds, Pending, PendingPredictions, digest, same
from service.schemas import ModelSpec
from service.settings import Settings
from service.store.base import Event, EventLog

Answer: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Learn:
    """A sample to learn."""

    x: Any
    y: Any
    w: Any = 1.0
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """The label of the prediction that was given under an id."""

    id: str
    y: Any


@dataclass(slots=True)
class Admitted:
    """A sample that passed all checks: it is logged and learned.

    Attributes
    ----------
    learned : Learned or None
        To be remembered, for a sample with an id.
    pending : Pending or None
        For a label: the prediction that it is of.
    """

    event: Event
    sample: Sample
    learned: Learned | None = None
    pending: Pending | None = None


Entry: TypeAlias = Admitted | Learned | Exception


class HostedModel:
    """An estimator with what the server keeps beside it.

    Parameters
    ----------
    spec : ModelSpec
        What to make.
    settings : Settings
        The limits.
    log : EventLog
        Takes each event before the model changes.
    clock : callable
        Seconds, for pending predictions.
    """

    def __init__(
        self, spec: ModelSpec, settings: Settings, log: EventLog, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.estimator = _estimator(spec, settings.device)
        self.score = PrequentialMetrics(spec.task)
        self.sequence = 0
        self.predicted = 0
        self.scored = 0
        self.loss_sum = 0.0
        self.last_loss: float | None = None
        self._log = log
        self._ids = LearnedIds(settings.max_ids)
        self._pending = PendingPredictions(settings.max_pending, settings.label_ttl, clock)

    @property
    def step(self) -> int:
        """Number of samples learned."""
        return self.estimator.step

    def predict(self, x: Any, identifier: str | None = None) -> Answer:
        """Predict, and with an id keep the prediction for its label; the model does not change."""
        if identifier is not None and (given := self._pending.repeated(identifier, x)) is not None:
            return given
        prediction, probabilities = self.estimator.predict(x)
        answer: Answer = {"model": self.name, "step": self.step, "prediction": prediction, "id": identifier}
        if self.spec.task == "classification":
            answer["probabilities"] = probabilities
        if identifier is not None:
            self._pending.add(identifier, x, answer)
        self.predicted += 1
        return answer

    def learn(self, group: Sequence[Learn | Label]) -> Iterator[Answer | Exception]:
        """Learn a group: check all of it, log what was admitted, then apply one event after another.

        Yields
        ------
        dict or Exception
            For each request in order, as soon as it is applied: its answer, or what refused it.
        """
        entries = self._admit(group)
        if events := [entry.event for entry in entries if isinstance(entry, Admitted)]:
            self.sequence = self._log.append(self.name, events)
        for entry in entries:
            if isinstance(entry, Admitted):
                yield self._apply(entry)
            elif isinstance(entry, Learned):
                yield self._repeat(entry)
            else:
                yield entry

    def report(self) -> Answer:
        """Return the prequential metrics."""
        return self.score.report()

    def fingerprint(self) -> Answer:
        """Return digests of the state."""
        model = self.estimator.fingerprint()
        both = model + json.dumps(self.score.state_dict())
        return {"step": self.step, "sha256": hashlib.sha256(both.encode()).hexdigest(), "model_sha256": model}

    def describe(self) -> Answer:
        """Return what the model was told to be, and what it became."""
        model = self.estimator
        return {
            "name": self.name,
            "spec": self.spec.model_dump(mode="json"),
            "step": self.step,
            "classes": list(model.labels) if isinstance(model, BNPClassifier) else [],
            "features": list(model.feature_names),
            "ignored_features": model.ignored_features,
            "parameters": model.num_parameters,
            "device": model.device_name,
            "engine": model.engine_name,
            "mixture": model.mixture,
            "sequence": self.sequence,
            "versions": versions(),
        }

    def _admit(self, group: Sequence[Learn | Label]) -> list[Entry]:
        preview = self.estimator.preview()
        fresh: dict[str, Learned] = {}  # ids of this group: they are remembered only once they are learned
        labelled: set[str] = set()
        entries: list[Entry] = []
        for request in group:
            try:
                if isinstance(request, Learn):
                    entry = self._known(request, fresh) or self._admit_learn(request, preview, fresh)
                else:
                    entry = self._admit_label(request, preview, labelled)
            except REFUSALS as error:
                entry = error
            entries.append(entry)
        return entries

    def _known(self, request: Learn, fresh: dict[str, Learned]) -> Entry | None:
        """Return what the id stands for, if it was used before."""
        if request.id is None:
            return None
        learned = fresh.get(request.id) or self._ids.get(request.id)
        return learned and same(learned, digest(request.x, request.y, request.w))

    def _admit_learn(self, request: Learn, preview: Preview, fresh: dict[str, Learned]) -> Admitted:
        sample = preview.check(request.x, request.y, request.w)
        event = Event("learn", request.x, request.y, request.w, request.id)
        if request.id is None:
            return Admitted(event, sample)
        learned = fresh[request.id] = Learned(digest(request.x, request.y, request.w))
        return Admitted(event, sample, learned)

    def _admit_label(self, request: Label, preview: Preview, labelled: set[str]) -> Admitted:
        pending = self._pending.get(request.id)
        if request.id in labelled:
            raise AlreadyLabelledError("the prediction under this id has had its label", "id")
        sample = preview.check(pending.x, request.y)
        labelled.add(request.id)
        given = (pending.answer["prediction"], pending.answer.get("probabilities"))
        return Admitted(Event("label", pending.x, request.y, 1.0, request.id, given), sample, pending=pending)

    def _apply(self, entry: Admitted) -> Answer | Exception:
        """Predict, learn, score: in this order, so that a step that is refused leaves the score as it was."""
        (outcome,) = self.estimator.learn_samples([entry.sample])
        if isinstance(outcome, NonFiniteStateError):
            return outcome
        prediction, probabilities = entry.event.given or (outcome.value, outcome.probabilities)
        loss = self.score.update(entry.sample.target, prediction, probabilities)
        self._count(loss)
        if entry.learned is not None and entry.event.id is not None:
            entry.learned.step = self.step
            self._ids.add(entry.event.id, entry.learned)
        if entry.pending is not None:
            entry.pending.labelled, entry.pending.x = True, None
        return self._answer(self.step, prediction, loss)

    def _repeat(self, learned: Learned) -> Answer | Exception:
        if learned.step is None:  # its first request is of this group, and was refused
            return NonFiniteStateError("the step would have made the state non-finite; it was not taken")
        return self._answer(learned.step, None, None, duplicate=True)

    def _answer(self, step: int, prediction: Any, loss: float | None, duplicate: bool = False) -> Answer:
        return {
            "model": self.name,
            "step": step,
            "prediction": prediction,
            "loss": loss,
            "duplicate": duplicate,
        }

    def _count(self, loss: float | None) -> None:
        if loss is not None:
            self.scored += 1
            self.loss_sum += loss
            self.last_loss = loss


def _estimator(spec: ModelSpec, device: str) -> BNPClassifier | BNPRegressor:
    options = spec.model_dump(exclude={"name", "task"}, exclude_none=True)
    make = BNPClassifier if spec.task == "classification" else BNPRegressor
    return make(device=device, **options)


@cache
def versions() -> dict[str, str]:
    """Return the versions of everything that has a say in a model's bits."""
    others = {name: version(name) for name in ("torch", "numba", "numpy", "river")}
    return {"bnp-online": __version__, "python": platform.python_version(), **others}
