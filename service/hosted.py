"""A model as the server keeps it: an estimator, its prequential score, and what it remembers by id.

Everything here is synchronous and belongs to one thread, the model's writer; what it does follows from the
order of its calls alone, so that the same events make the same state again. (A clock decides how many samples
one call of the estimator takes, which changes no bit.)
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, TypeAlias

from bnp_online import BNPClassifier, BNPRegressor, __version__
from bnp_online.encoding import Sample
from bnp_online.errors import NonFiniteStateError
from bnp_online.evaluate import PrequentialMetrics
from bnp_online.learner import Prediction
from service.admission import Admission, Admitted, Entry, Label, Learn
from service.ids import Learned, LearnedIds, PendingPredictions
from service.pace import Pace
from service.schemas import ModelSpec
from service.settings import Settings
from service.store.base import EventLog

Answer: TypeAlias = dict[str, Any]
Outcome: TypeAlias = Answer | Exception

#: How many requests are checked before those who only read have a turn.
_SLICE = 16


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
        self._pace = Pace()

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

    def learn(self, group: Sequence[Learn | Label]) -> Iterator[list[Outcome]]:
        """Learn a group: check all of it, log what was admitted, then apply it in order, in short calls.

        Yields
        ------
        list of dict or Exception
            Of the requests that are done since the last yield, in order and possibly none: answers, or what
            refused them. Between two yields the model is whole, so that others may look at it.
        """
        admission = Admission(self.estimator.preview(), self._ids, self._pending)
        entries: list[Entry] = []
        for start in range(0, len(group), _SLICE):
            entries += admission.take(group[start : start + _SLICE])
            yield []
        if events := [entry.event for entry in entries if isinstance(entry, Admitted)]:
            self.sequence = self._log.append(self.name, events)
        start = 0
        while start < len(entries):
            part = entries[start : start + self._pace.samples]
            yield self._apply(part)
            start += len(part)

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

    def _apply(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Predict and learn in one call, then score: what is refused leaves the score as it was."""
        step = self.step
        predictions = iter(self._learn([entry.sample for entry in entries if isinstance(entry, Admitted)]))
        outcomes: list[Outcome] = []
        for entry in entries:
            if isinstance(entry, Admitted):
                prediction = next(predictions)
                if isinstance(prediction, Exception):
                    outcomes.append(prediction)
                else:
                    step += 1
                    outcomes.append(self._accept(entry, prediction, step))
            else:
                outcomes.append(self._repeat(entry) if isinstance(entry, Learned) else entry)
        return outcomes

    def _learn(self, samples: list[Sample]) -> list[Prediction | NonFiniteStateError]:
        if not samples:
            return []
        start = time.perf_counter()
        predictions = self.estimator.learn_samples(samples)
        self._pace.note(len(samples), time.perf_counter() - start)
        return predictions

    def _accept(self, entry: Admitted, prediction: Prediction, step: int) -> Answer:
        """Score a sample that was learned, and remember its id."""
        given, probabilities = entry.event.given or prediction
        loss = self.score.update(entry.sample.target, given, probabilities)
        self._count(loss)
        if entry.learned is not None and entry.event.id is not None:
            entry.learned.step = step
            self._ids.add(entry.event.id, entry.learned)
        if entry.pending is not None:
            entry.pending.labelled, entry.pending.x = True, None
        return self._answer(step, given, loss)

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
