"""A model as the server keeps it: an estimator, its prequential score, and predictions that wait for labels.

Everything here is synchronous and is called in the model's turn, one thing at a time; what it does follows
from the order of its calls alone, so that the same events make the same state again. (A clock decides how
many samples one call of the estimator takes, which changes no bit.)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.encoding import Sample
from bnp_online.errors import ConfigurationError, NonFiniteStateError, SampleError
from bnp_online.evaluation.baselines import Baselines
from bnp_online.evaluation.prequential import PrequentialMetrics
from bnp_online.learner import Prediction, Preview

from ..schemas import DriftSpec, ModelSpec
from ..settings import Settings
from ..storage import event_codec
from ..storage.history import Learned
from ..storage.interfaces import Record
from .drift import Drift
from .pending import PendingPredictions
from .scheduling import CallLength
from .validation import Entry, Fresh, Predict, PredictionEvent, Repeated, SampleEvent, Validator

Answer: TypeAlias = dict[str, Any]
Outcome: TypeAlias = Answer | Exception

#: Why a sample was refused after all.
NON_FINITE = "non_finite_state"
_COUNTS = ("predicted", "scored", "loss_sum", "last_loss")


@dataclass(slots=True)
class Applied:
    """What came of a part of a group.

    Attributes
    ----------
    outcomes : list of dict or Exception
        For each request in order its answer, or what refused it.
    refused : dict of int to str
        Why events that were logged had no effect, by number.
    steps : dict of int to int
        Where events led, other than it was expected when they were logged, by number.
    drifts : list of int
        The steps at which the loss was found to have risen.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    drifts: list[int] = field(default_factory=list)

    @property
    def surprising(self) -> bool:
        """Whether anything came out otherwise than was expected when it was logged."""
        return bool(self.refused or self.steps)


class HostedModel:
    """An estimator with what the server keeps beside it.

    Parameters
    ----------
    spec : ModelSpec
        What to make.
    settings : Settings
        The limits.
    clock : callable
        Seconds, for pending predictions; it must never go back, in no process.

    Attributes
    ----------
    sequence : int
        Number of the last event that is in the state.
    pace : Pace
        How many entries one call of `apply` should take, so that it is short.
    drift : Drift
        Watches the loss.
    acted : list of dict
        What was done about a drift and is not in the log yet; it is not part of the state.
    """

    def __init__(self, spec: ModelSpec, settings: Settings, clock: Callable[[], float]) -> None:
        self.spec = spec
        self.name = spec.name
        self.estimator = _estimator(spec, settings.device)
        self.score = PrequentialMetrics(spec.task)
        self.baselines = Baselines(spec.task)
        self.sequence = 0
        self.predicted = 0
        self.scored = 0
        self.loss_sum = 0.0
        self.last_loss: float | None = None
        self.labelled = 0
        self.settings = settings
        self.clock = clock
        self._pending = PendingPredictions(settings.max_pending, clock)
        self.call_length = CallLength()
        self.drift = Drift(spec.drift)
        self.acted: list[dict[str, Any]] = []

    @property
    def drifts(self) -> int:
        """How often the loss was found to have risen."""
        return self.drift.detections

    @property
    def room(self) -> int:
        """How many entries the next call of `apply` should take: no action is due before the last of them."""
        samples = self.call_length.samples
        return samples if (room := self.drift.room(self.step)) is None else min(samples, room)

    @property
    def step(self) -> int:
        """Number of samples learned."""
        return self.estimator.step

    @property
    def pending(self) -> int:
        """Number of predictions that wait for their label."""
        return len(self._pending)

    def predict(self, x: Any, identifier: str | None = None, level: float | None = None) -> Answer:
        """Predict, with an interval if a level is given; the model does not change."""
        prediction, probabilities = self.estimator.predict(x)
        answer: Answer = {"model": self.name, "step": self.step, "prediction": prediction, "id": identifier}
        if self.spec.task == "classification":
            answer["probabilities"] = probabilities
        if level is not None:
            answer["interval"] = self._interval(x, level)
        self.predicted += 1
        return answer

    def _interval(self, x: Any, level: float) -> list[float] | None:
        if isinstance(self.estimator, BNPClassifier):
            raise ConfigurationError(
                "interval", "a classification has probabilities, and no interval: leave it out"
            )
        interval = self.estimator.predict_interval_one(x, level)
        return None if interval is None else [*interval]  # as it is read from the log

    def predict_pending(self, request: Predict) -> event_codec.Pending:
        """Predict what is to wait for its label; the model does not change."""
        answer = self.predict(request.x, request.id, request.interval)
        return event_codec.Pending(request.x, answer, self.clock() + self.settings.label_ttl)

    def validator(
        self, predict: Callable[[Predict], event_codec.Pending], refusals: Counter[str]
    ) -> Validator:
        """Return what checks the requests that come next; its parameters are those of `Admission`."""
        return Validator(self.estimator.preview(), self.step, predict, self._pending, refusals)

    def is_sound(self, entries: Sequence[Entry]) -> bool:
        """Return whether the model can predict the last sample of these that it has learned."""
        for entry in reversed(entries):
            if isinstance(entry, SampleEvent) and entry.learned:
                try:
                    self.estimator.predict(entry.sample.features)
                except NonFiniteStateError:
                    return False
                return True
        return True

    def readmit(self, records: Sequence[Record]) -> tuple[list[Entry], dict[int, str]]:
        """Return samples, labels and predictions that were logged, to be applied again.

        What was refused then is left out. What is refused only now, by number, was logged by a server that
        was killed before it could note that, or follows on others that were forgotten meanwhile.
        """
        preview = self.estimator.preview()
        entries: list[Entry] = []
        refused: dict[int, str] = {}
        for record in records:
            if record.refused is not None:
                continue
            try:
                entries.append(_readmitted(record, preview))
            except SampleError as error:
                refused[record.seq] = error.code
        return entries, refused

    def patch(self, changes: Mapping[str, Any]) -> None:
        """Change limits, and how the loss is watched.

        Raises
        ------
        ConfigurationError
            If one is below what the model has; nothing was changed.
        """
        update = dict(changes)
        if "drift" in update:
            update["drift"] = DriftSpec.model_validate(update["drift"])
        self.estimator.set_limits(**{name: value for name, value in update.items() if name != "drift"})
        self.spec = self.spec.model_copy(update=update)
        if self.spec.drift != self.drift.setting:
            self.drift = self.drift.changed(self.spec.drift)

    def keeping(self) -> Callable[[], dict[str, Any]]:
        """Return what tells all of the state but the estimator's, as JSON can hold it, of this moment.

        To copy it takes a tenth of the time that it takes to make JSON of it, which any thread can do.
        """
        score, baselines, pending = self.score.copy(), self.baselines.copy(), self._pending.copy()
        counts = {name: getattr(self, name) for name in _COUNTS}
        drift = self.drift.state_dict()
        return lambda: {
            "score": score.state_dict(),
            "baselines": baselines.state_dict(),
            "pending": pending.dump(),
            "counts": counts,
            "drift": drift,
        }

    def load_beside(self, state: Mapping[str, Any]) -> None:
        """Take over what `keeping` told."""
        self.score.load_state_dict(state["score"])
        if "baselines" in state:  # an earlier version kept none: they begin anew, then
            self.baselines.load_state_dict(state["baselines"])
        if "drift" in state:  # as above
            self.drift.load_state_dict(state["drift"])
        self._pending.load(state["pending"])
        for name in _COUNTS:
            setattr(self, name, state["counts"][name])

    def apply(self, entries: Sequence[Entry]) -> Applied:
        """Apply what was admitted and logged, in order, in one call of the estimator, or between two actions.

        A sample that is refused leaves everything as it was, and does not keep the others from being learned.
        """
        applied, before, began = Applied(), self.step, time.perf_counter()
        start = 0
        while start < len(entries):
            room = self.drift.room(self.step)
            stop = len(entries) if room is None else start + room
            self._apply_run(entries[start:stop], applied)
            start = stop
        if self.step > before:
            self.call_length.note(self.step - before, time.perf_counter() - began)
        return applied

    def _apply_run(self, entries: Sequence[Entry], applied: Applied) -> None:
        step = self.step
        predictions = iter(self._learn([entry.sample for entry in entries if isinstance(entry, SampleEvent)]))
        for entry in entries:
            if isinstance(entry, SampleEvent | PredictionEvent):
                self.sequence = entry.seq
            if isinstance(entry, SampleEvent):
                prediction = next(predictions)
                if isinstance(prediction, Exception):
                    applied.refused[entry.seq] = NON_FINITE
                    applied.outcomes.append(prediction)
                    entry.refuse(prediction)
                    continue
                step += 1
                if step != entry.event.step:
                    applied.steps[entry.seq] = step
                entry.learned = True
                applied.outcomes.append(self._accept(entry, prediction, step, applied.drifts))
            elif isinstance(entry, PredictionEvent):
                self._pending.add(entry.identifier, entry.pending)
                applied.outcomes.append(entry.pending.answer)
            else:
                applied.outcomes.append(self._known(entry))

    def _learn(self, samples: list[Sample]) -> list[Prediction | NonFiniteStateError]:
        if not samples:
            return []
        if self.drift.ready(self.step):
            return self._act_and_learn(samples)
        return self.estimator.learn_samples(samples)

    def _act_and_learn(self, samples: list[Sample]) -> list[Prediction | NonFiniteStateError]:
        """Do what is due; it stays due if none of the samples is learned: no replay would see them."""
        before, action = self.estimator.state_dict(), self.drift.setting.action
        done = {"action": action, "step": self.step, "detected": self.drift.last}
        getattr(self.estimator, action)()
        predictions = self.estimator.learn_samples(samples)
        if all(isinstance(prediction, Exception) for prediction in predictions):
            self.estimator.load_state_dict(before)
        else:
            self.drift.done()
            self.acted.append(done)
        return predictions

    def _accept(self, entry: SampleEvent, prediction: Prediction, step: int, drifts: list[int]) -> Answer:
        """Score a sample that was learned, and note what its id stands for."""
        given, probabilities = entry.given or prediction
        loss = self.score.update(entry.sample.target, given, probabilities)
        self.baselines.update(entry.sample.target)
        if loss is not None:
            self.scored += 1
            self.loss_sum += loss
            self.last_loss = loss
            if self.drift.see(loss, self.score.target_variance, step):
                drifts.append(step)
        if entry.fresh is not None:
            entry.fresh.step = step
        if entry.given is not None and entry.event.id is not None:
            self._pending.label(entry.event.id)
            self.labelled += 1
        return self._answer(step, given, loss)

    def _known(self, entry: Repeated | Learned | Fresh | Exception) -> Outcome:
        if isinstance(entry, Exception):
            return entry
        if isinstance(entry, Repeated):
            refusal = None if entry.first is None else entry.first.refusal
            return refusal or entry.answer
        if isinstance(entry, Fresh) and entry.refusal is not None:
            return entry.refusal
        if entry.step is None:
            return NonFiniteStateError("the step would have made the state non-finite; it was not taken")
        return self._answer(entry.step, None, None, duplicate=True)

    def _answer(self, step: int, prediction: Any, loss: float | None, duplicate: bool = False) -> Answer:
        return {
            "model": self.name,
            "step": step,
            "prediction": prediction,
            "loss": loss,
            "duplicate": duplicate,
        }


def _readmitted(record: Record, preview: Preview) -> SampleEvent | PredictionEvent:
    """Return an event of the log as it was admitted."""
    event = record.event
    if event.kind == "predict":
        return PredictionEvent(event, str(event.id), event_codec.read_pending(event), record.seq)
    x, y, w, given = event_codec.read_sample(event)
    return SampleEvent(event, preview.check(x, y, w), given, seq=record.seq)


def _estimator(spec: ModelSpec, device: str) -> BNPClassifier | BNPRegressor:
    make = BNPClassifier if spec.task == "classification" else BNPRegressor
    return make(device=device, **spec.options())
