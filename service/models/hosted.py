"""Hosted model: an estimator, its prequential metrics, and the predictions that wait for labels.

All methods are synchronous and need exclusive access. The state depends only on the events and their order.
The same events give the same bits, with any number of samples per call.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.engines.devices import is_available
from bnp_online.errors import ConfigurationError, DeviceMemoryError, NonFiniteStateError, SampleError
from bnp_online.evaluation.baselines import Baselines
from bnp_online.evaluation.comparison import PairedComparison, Scored
from bnp_online.evaluation.history import ScoreHistory
from bnp_online.evaluation.importance import EVERY, Importances, is_due
from bnp_online.evaluation.prequential import PrequentialMetrics
from bnp_online.intervals import ScoredIntervals
from bnp_online.learner import Preview, Refusal
from bnp_online.values import Label, Prediction, Sample, Vector

from ..blocks import Block
from ..errors import UnknownShadowError, code_of
from ..schemas import DriftSpec, ModelSpec
from ..settings import Settings
from ..storage import event_codec
from ..storage.interfaces import Event, Record
from . import late_labels
from .backbones import open_backbone
from .drift import Drift
from .experts import ShareHistory, kind_of, summed
from .late_labels import Own
from .ledger import Ledger
from .pending import PendingPredictions
from .validation import (
    Answered,
    BlockEvent,
    Entry,
    PendingEvent,
    Predict,
    PredictionEvent,
    SampleEvent,
    Validator,
)

Answer: TypeAlias = dict[str, Any]
Outcome: TypeAlias = Answer | bytes | Exception
"""Answer to a request, or the error that refused it; that of a sample in a block is encoded."""

_logger = logging.getLogger(__name__)

#: Error code of a sample that was refused after it was logged.
NON_FINITE = "non_finite_state"
#: Greatest number of unknown features that a prediction names.
_UNKNOWN = 100
_NO_INTERVALS = np.empty((0, 2))
_COUNTS = ("predicted", "scored", "loss_sum", "last_loss")
#: Name that the first champion of a model has as a shadow, after a promotion.
ORIGINAL = "original"
#: Why a shadow learns no further sample.
DIVERGED = (
    "the shadow diverged: no prediction is finite after a sample. Delete it, and create it with a smaller lr"
)


@dataclass(slots=True)
class Applied:
    """Result of applying entries.

    Attributes
    ----------
    outcomes : list of dict or Exception
        Answer or error of each entry.
    refused : dict of int to str
        Error code of each logged event that was refused, by number.
    steps : dict of int to int
        Step of each event that differs from its logged step, by number.
    drifts : list of int
        Steps at which a drift was detected.
    learned, predicted : int
        Number of samples learned, and of those whose experts predicted them for a later label.
    shortage : DeviceMemoryError or None
        Why the entries behind the last outcome are not applied: the GPU has too little free memory. The model
        is as if they had not been given, and can apply them later.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    drifts: list[int] = field(default_factory=list)
    learned: int = 0
    predicted: int = 0
    shortage: DeviceMemoryError | None = None

    def add(self, further: Applied) -> None:
        """Add the result of further entries."""
        self.outcomes += further.outcomes
        self.refused |= further.refused
        self.steps |= further.steps
        self.drifts += further.drifts
        self.learned += further.learned
        self.predicted += further.predicted
        self.shortage = further.shortage


class Replay(NamedTuple):
    """Events that were applied to a checkpoint: number, size in bytes, time in seconds."""

    events: int = 0
    bytes: int = 0
    seconds: float = 0.0


class HostedModel:
    """An estimator with its metrics, pending predictions and drift detector.

    Parameters
    ----------
    spec : ModelSpec
        Specification of the model.
    settings : Settings
        Limits and device.
    clock : callable
        Time in seconds, for pending predictions. It must never go back, not even across a restart.

    Attributes
    ----------
    sequence : int
        Number of the last event in the state.
    history : ScoreHistory
        Scores over the steps. They are not part of the fingerprint.
    shares : ShareHistory
        Shares of the kinds of experts over the steps. As above.
    importances : Importances
        Running importances of the features. They are not part of the fingerprint.
    drift : Drift
        Drift detection and response.
    acted : list of dict
        Drift actions that are not logged yet. They are not part of the state.
    replay : Replay
        Events that were replayed to restore the model. They are not part of the state.
    shadows : dict of str to Shadow
        Shadows of the model, by name.
    alias : str
        Name that the model has, or would have, as a shadow.
    is_shadow : bool
        Whether the model is a shadow. It scores what it predicted itself, not what its champion answered.
    ledger : Ledger or None
        Losses that were not compared yet: of a shadow, and of a model that has shadows.
    """

    def __init__(self, spec: ModelSpec, settings: Settings, clock: Callable[[], float]) -> None:
        self.spec = spec
        self.name = spec.name
        self.estimator = _estimator(spec, settings)
        self.score = PrequentialMetrics(spec.task)
        self._regression = spec.task == "regression"
        self._kinds: list[str] = []  # of the experts
        self._mixes = len(self.estimator.mixture_weights) > 1
        self._experts = self.estimator.preview().experts
        self.baselines = Baselines(spec.task)
        self.history = ScoreHistory(spec.task, intervals=bool(self.estimator.intervals))
        self.shares = ShareHistory()
        self._shared: list[tuple[int, dict[str, float]]] = []  # in the current call: steps, shares
        self._scored: list[ScoredIntervals] = []  # of the samples of the current call
        if self.estimator.intervals:
            self.estimator.on_intervals = self._scored.append
        self.importances = Importances()
        self.estimator.prepare_explanations()
        self.estimator.watch(EVERY, self._see)
        self.sequence = 0
        self.predicted = 0
        self.scored = 0
        self.loss_sum = 0.0
        self.last_loss: float | None = None
        self.labelled = 0
        self.settings = settings
        self.clock = clock
        limits = settings.max_pending, settings.max_pending_bytes, settings.label_ttl
        self._pending = PendingPredictions(*limits, clock)
        self.drift = Drift(spec.drift)
        self.acted: list[dict[str, Any]] = []
        self.replay = Replay()
        self.shadows: dict[str, Shadow] = {}
        self.alias = ORIGINAL
        self.is_shadow = False
        self.ledger: Ledger | None = None

    @property
    def step(self) -> int:
        """Number of samples learned."""
        return self.estimator.step

    @property
    def call_seconds(self) -> float | None:
        """Seconds that a call may take, about, if the model waits for a GPU; None on the CPU."""
        return self.estimator.call_seconds

    @property
    def pending(self) -> int:
        """Number of predictions that wait for their label."""
        return len(self._pending)

    def _see(self, x: Any) -> None:
        """Take the shares of the experts, and the contributions of the latest sample, if they are due."""
        with suppress(NonFiniteStateError, DeviceMemoryError):
            if self._mixes and self.shares.is_due(self.step):
                self._shared.append((self.step, self._summed_weights()))
            if is_due(self.step, strings=bool(self.estimator.fields)):
                found = self.estimator.contributions(x)
                if found is not None:
                    self.importances.add(*found)

    def _summed_weights(self) -> dict[str, float]:
        """Return the weight of each kind of experts, as `experts.shares`, and faster."""
        weights = self.estimator.mixture_weights
        if len(weights) != len(self._kinds):  # an import may be of another generation
            self._kinds = [kind_of(each) for each in self.estimator.mixture]
        return summed(self._kinds, weights)

    def explain(self, x: Any, label: Label | None = None) -> Answer:
        """Explain the prediction for a sample: of a class, or of the predicted one.."""
        features = self.estimator.read_features(x)
        found = self.estimator.explain_one(features, label)
        answer: Answer = {"model": self.name, "step": self.step, "prediction": found.prediction}
        if self.spec.task == "classification":
            answer["label"] = found.label
        contributions = found.contributions
        answer |= {
            "output": found.output,
            "baseline": found.baseline,
            "contributions": contributions if isinstance(contributions, dict) else contributions.tolist(),
        }
        if unknown := self.estimator.unknown_features(features):
            answer["unknown"] = unknown[:_UNKNOWN]
        return answer

    def predict(
        self,
        x: Any,
        identifier: str | None = None,
        level: float | None = None,
        *,
        novelty: bool = False,
    ) -> Answer:
        """Predict a sample, with interval and novelty if they are wanted. The model does not change."""
        features = self.estimator.read_features(x)
        prediction, probabilities = self.estimator.predict(features)
        answer: Answer = {"model": self.name, "step": self.step, "prediction": prediction, "id": identifier}
        if self.spec.task == "classification":
            answer["probabilities"] = probabilities
        if level is not None:
            answer["interval"] = self._interval(features, level)
        if novelty:
            answer["novelty"] = self.estimator.novelty_one(features)
        if unknown := self.estimator.unknown_features(features):
            answer["unknown"] = unknown[:_UNKNOWN]
        self.predicted += 1
        return answer

    def predict_block(self, block: Block) -> list[Answer] | None:
        """Predict samples together; None if each must be predicted alone. The model does not change."""
        if not self.estimator.knows(block.rows):
            return None
        try:
            predictions = self.estimator.predict_rows(block.rows)
        except NonFiniteStateError:
            return None
        self.predicted += len(predictions)
        common = {"model": self.name, "step": self.step}
        if self.spec.task == "classification":
            return [{**common, "prediction": y, "id": None, "probabilities": p} for y, p in predictions]
        return [{**common, "prediction": y, "id": None} for y, _ in predictions]

    def _interval(self, x: Any, level: float) -> list[float] | None:
        if isinstance(self.estimator, BNPClassifier):
            raise ConfigurationError(
                "interval", "a classification has no interval, it has probabilities: omit interval"
            )
        interval = self.estimator.predict_interval_one(x, level)
        return None if interval is None else [*interval]  # a list, as in the log

    def predict_pending(self, request: Predict) -> event_codec.Pending:
        """Predict a sample whose label follows. The model does not change."""
        answer = self.predict(request.x, request.id, request.interval, novelty=request.novelty)
        return event_codec.Pending(request.x, answer, self.clock() + self.settings.label_ttl)

    def validator(
        self, predict: Callable[[Predict], event_codec.Pending], refusals: Counter[str]
    ) -> Validator:
        """Return a validator of the next requests; the parameters are those of `Validator`."""
        preview = self.estimator.preview()
        return Validator(self.name, preview, self.step, predict, self._pending, refusals)

    def is_sound(self, entries: Sequence[Entry]) -> bool:
        """Return whether the prediction of the last learned sample of some entries is finite."""
        for entry in reversed(entries):
            if isinstance(entry, SampleEvent) and entry.step is not None:
                return self.estimator.is_finite(entry.sample.features)
        return True

    def readmit(self, records: Sequence[Record], preview: Preview) -> tuple[list[Entry], dict[int, str]]:
        """Return entries for logged samples, labels and predictions, to apply them again.

        Parameters
        ----------
        records : sequence of Record
            The events.
        preview : Preview
            Validator of samples, which has validated those before.

        Returns
        -------
        list of Entry
            The events, except those that were refused.
        dict of int to str
            Error code of each newly refused event, by number. A refusal is new if the server was killed
            before recording it, or if earlier samples were forgotten later.
        """
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

    def samples_of(self, event: BlockEvent, start: int, stop: int) -> tuple[list[Entry], dict[int, str]]:
        """Return entries for logged samples of a block, to apply each alone, and refusals; as `readmit`."""
        preview, block = self.estimator.preview(), event.block
        entries: list[Entry] = []
        refused: dict[int, str] = {}
        for i in range(start, stop):
            named = event.named.get(i)
            identifier, digest = (None, None) if named is None else (named.id, named.digest)
            logged = Event("learn", block.lines[i], identifier, digest, event.step(i))
            try:
                sample, [time] = preview.check(*block.decoded(i)), event.times_of(i, i + 1)
                entries.append(SampleEvent(logged, sample, seq=event.number(i), time=time))
            except SampleError as error:
                refused[event.number(i)] = error.code
                entries.append(Answered(error))
        return entries, refused

    def patch(self, changes: Mapping[str, Any]) -> None:
        """Change limits and drift detection.

        Raises
        ------
        ConfigurationError
            If a limit is below the size of the model. Nothing was changed.
        """
        update = dict(changes)
        if "drift" in update:
            update["drift"] = DriftSpec.model_validate(update["drift"])
        self.estimator.set_limits(**{name: value for name, value in update.items() if name != "drift"})
        self.spec = self.spec.model_copy(update=update)
        if self.spec.drift != self.drift.setting:
            self.drift = self.drift.changed(self.spec.drift)

    def copy_service_state(self) -> Callable[[], dict[str, Any]]:
        """Copy the state except the estimator's, and return a function that returns it as a JSON value.

        The copy takes a tenth of the time of the function, which any thread can call.
        """
        score, baselines, history = self.score.copy(), self.baselines.copy(), self.history.copy()
        importances = self.importances.copy()
        pending = self._pending.copy()
        counts = {name: getattr(self, name) for name in _COUNTS}
        drift, shares = self.drift.state_dict(), self.shares.copy()
        return lambda: {
            "score": score.state_dict(),
            "baselines": baselines.state_dict(),
            "history": history.state_dict(),
            "shares": shares.state_dict(),
            "importances": importances.state_dict(),
            "pending": pending.dump(),
            "counts": counts,
            "drift": drift,
        }

    def load_service_state(self, state: Mapping[str, Any]) -> None:
        """Load a state from `copy_service_state`."""
        self.score.load_state_dict(state["score"])
        if "baselines" in state:  # checkpoints of earlier versions have none
            self.baselines.load_state_dict(state["baselines"])
        if "history" in state:  # as above
            self.history.load_state_dict(state["history"])
        if "shares" in state:  # as above
            self.shares.load_state_dict(state["shares"])
        if "importances" in state:  # as above
            self.importances.load_state_dict(state["importances"])
        if "drift" in state:  # as above
            self.drift.load_state_dict(state["drift"])
        self._pending.load(state["pending"])
        for name in _COUNTS:
            setattr(self, name, state["counts"][name])

    def apply(self, entries: Sequence[Entry]) -> Applied:
        """Apply logged events in order, in one call of the estimator, or one per drift action.

        A sample that the estimator refuses changes nothing, and the others are learned. If the GPU has too
        little free memory, the call ends before the sample that needs more (`Applied.shortage`).
        """
        applied = Applied()
        if not self.drift.acts:
            self._apply_run(entries, applied)
            return applied
        start = 0
        while start < len(entries) and applied.shortage is None:
            stop = start + self.drift.steps_to_action(self.step)
            self._apply_run(entries[start:stop], applied)
            start = stop
        return applied

    def _apply_run(self, entries: Sequence[Entry], applied: Applied) -> None:
        """Apply entries; a model that judges experts, and a shadow, predict a pending sample at its place."""
        if (self._experts or self.is_shadow) and PredictionEvent in map(type, entries):
            for part in _samples_first(entries):
                if applied.shortage is None:
                    self._apply_part(part, applied)
        else:
            self._apply_part(entries, applied)

    def _apply_part(self, entries: Sequence[Entry], applied: Applied) -> None:
        samples = [
            entry.sample if entry.given is None else self._with_experts(entry)
            for entry in entries
            if isinstance(entry, SampleEvent)
        ]
        step = self.estimator.step
        self.begin_call()
        if self.drift.due and samples and self.drift.ready(step):
            predictions = iter(self._act_and_learn(samples))
        else:
            predictions = iter(self.estimator.learn_samples(samples) if samples else ())
        intervals, first, times = iter(self.take_intervals()), step + 1, list[float]()
        for entry in entries:
            if isinstance(entry, SampleEvent):
                prediction = next(predictions)
                if isinstance(prediction, DeviceMemoryError):
                    applied.shortage = prediction
                    break
                self.sequence = entry.seq
                if isinstance(prediction, Exception):
                    applied.refused[entry.seq] = NON_FINITE
                    applied.outcomes.append(prediction)
                    entry.refusal = prediction
                    continue
                step += 1
                if step != entry.event.step:
                    applied.steps[entry.seq] = step
                entry.step = step
                interval = next(intervals, None)
                applied.outcomes.append(self._accept(entry, prediction, step, applied.drifts, interval))
                applied.learned += 1
                times.append(entry.time)
            elif isinstance(entry, PredictionEvent):
                try:
                    experts = self._predicted(entry.prediction.x)
                except DeviceMemoryError as error:
                    applied.shortage = error
                    break
                self.sequence = entry.seq
                self._pending.add(str(entry.event.id), entry.event.body, entry.prediction, experts)
                applied.predicted += experts is not None
                applied.outcomes.append(entry.prediction.answer)
            elif isinstance(entry, Answered):
                applied.outcomes.append(entry.outcome())
        self.note_shares(first, times)

    def begin_call(self) -> None:
        """Drop what a failed call of the estimator left: intervals, and shares of the experts."""
        self._scored.clear()
        self._shared.clear()

    def take_intervals(self) -> Vector:
        """Return width and coverage of the intervals of the samples learned since the last call: (N, 2)."""
        if not self._scored:
            return _NO_INTERVALS
        found = np.concatenate([np.column_stack(each) for each in self._scored])
        self._scored.clear()
        return found

    def note_shares(self, first: int, times: Sequence[float]) -> None:
        """Add the shares of the experts to their history, of samples with these times from step `first`.

        Shares of later steps are dropped: after a call that ended early, the model is restored.
        """
        for step, found in self._shared:
            if step - first < len(times):
                self.shares.add(step, times[step - first], found)
        self._shared.clear()

    def refuse(self, entry: PendingEvent, error: Exception) -> Applied:
        """Refuse a logged event that is not applied; it changes nothing."""
        self.sequence, entry.refusal = entry.seq, error
        return Applied([error], {entry.seq: code_of(error)})

    def count(self, losses: Sequence[float]) -> None:
        """Count scored predictions."""
        self.scored += len(losses)
        for loss in losses:  # `sum` rounds in another way
            self.loss_sum += loss
            self.last_loss = loss

    def _predicted(self, x: Any) -> bytes | None:
        """Return what the experts predict for a sample, packed, and of a shadow also its prediction."""
        own = experts = None
        try:
            if self.is_shadow:
                own = self.estimator.predict(self.estimator.read_features(x))
            if self._experts:
                experts = self.estimator.predict_experts_one(x)
        except (SampleError, NonFiniteStateError):  # the answer is of another state
            pass
        packed = None if experts is None else late_labels.pack(experts)
        return late_labels.pack_own(Own(own, packed)) if self.is_shadow else packed

    def _with_experts(self, entry: SampleEvent) -> Sample:
        """Return the sample of a label with what the experts predicted, if that is kept."""
        experts = self._pending.experts(str(entry.event.id))
        if self.is_shadow:
            experts = late_labels.unpack_own(experts).experts
        if experts is None:
            return entry.sample
        estimator = self.estimator
        labels = estimator.labels if isinstance(estimator, BNPClassifier) else None
        x, y, w, _ = entry.sample
        try:  # the sparse stage may have opened since, which adds experts
            return estimator.preview().check(x, y, w, late_labels.unpack(experts, labels))
        except SampleError:  # another version had other experts
            return entry.sample

    def _act_and_learn(self, samples: list[Sample]) -> list[Prediction | Refusal]:
        """Take the drift action and learn. Undo it if all samples are refused: a replay would omit both."""
        action = self.drift.setting.action
        done = {"action": action, "step": self.step, "detected": self.drift.last}
        try:
            before = self.estimator.state_dict()
            getattr(self.estimator, action)()
        except DeviceMemoryError as error:  # nothing has changed
            return [error]
        predictions = self.estimator.learn_samples(samples)
        if all(isinstance(prediction, Exception) for prediction in predictions):
            self.estimator.load_state_dict(before)
        else:
            self.drift.done()
            self.acted.append(done)
        return predictions

    def _accept(
        self,
        entry: SampleEvent,
        prediction: Prediction,
        step: int,
        drifts: list[int],
        interval: Vector | None = None,
    ) -> Answer:
        """Score a sample that was learned, and return its answer."""
        given, probabilities = prediction if entry.given is None else self._given(entry)
        target = entry.sample.target
        loss = self.score.update(target, given, probabilities)
        plain = self.baselines.update(target)
        score = 0.0
        if loss is not None:
            score = abs(float(target) - float(given)) if self._regression else float(given == target)  # type: ignore[arg-type]  # numbers
        scored = None if interval is None else (float(interval[0]), float(interval[1]))
        self.history.add(step, entry.time, score, loss, plain, scored)
        if self.ledger is not None:
            self.ledger.add(entry.seq, score, loss, float(target) if self._regression else 0.0)
        if loss is not None:
            self.count([loss])
            if self.drift.see(loss, self.score.target_variance if self._regression else None, step):
                drifts.append(step)
                self.history.drifts.append((step, entry.time))
        if entry.given is not None and entry.event.id is not None:
            self._pending.label(entry.event.id)
            self.labelled += 1
        return {"model": self.name, "step": step, "prediction": given, "loss": loss, "duplicate": False}

    def _given(self, entry: SampleEvent) -> event_codec.Given:
        """Return the prediction that a label scores: the answer to the client, or what a shadow predicted."""
        if not self.is_shadow:
            assert entry.given is not None  # noqa: S101 (of a label)
            return entry.given
        own = late_labels.unpack_own(self._pending.experts(str(entry.event.id)))
        return own.given or (None, None)

    def adopt(self, former: HostedModel) -> None:
        """Take the shadows of a former state of the model, and its part in a comparison."""
        self.shadows, self.alias, self.is_shadow = former.shadows, former.alias, former.is_shadow
        self.ledger = former.ledger
        if self.ledger is not None:
            self.ledger.drop_after(self.sequence)

    def shadow(self, name: str) -> Shadow:
        """Return a shadow of this model.

        Raises
        ------
        UnknownShadowError
            If there is no shadow with this name.
        """
        if name not in self.shadows:
            known = f"its shadows are {', '.join(map(repr, self.shadows))}" if self.shadows else "it has none"
            raise UnknownShadowError(f"the model has no shadow {name!r:.80}: {known}", "shadow")
        return self.shadows[name]

    def begin_shadow(self) -> None:
        """Become a shadow: predictions that wait for their label are learned, but not compared."""
        waiting = self._pending.all_experts
        if self.is_shadow:
            waiting = {
                name: own.experts
                for name, body in waiting.items()
                if (own := late_labels.unpack_own(body)).experts is not None
            }
        packed = {name: late_labels.pack_own(Own(None, experts)) for name, experts in waiting.items()}
        self._pending.replace_experts(packed)
        self.is_shadow, self.ledger, self.shadows = True, Ledger(), {}

    def end_shadow(self, champion: HostedModel) -> None:
        """Take the place of the champion: its shadows, its losses, and the answers that wait for a label."""
        experts = {name: late_labels.unpack_own(body) for name, body in self._pending.all_experts.items()}
        self._pending = champion._pending.copy()
        self._pending.replace_experts(
            {n: own.experts for n, own in experts.items() if own.experts is not None}
        )
        self.is_shadow, self.ledger, self.shadows = False, champion.ledger, champion.shadows
        self.predicted, self.replay = champion.predicted, champion.replay


@dataclass(slots=True, eq=False, weakref_slot=True)
class Shadow:
    """A model that learns the samples of its champion, and never answers for it.

    Its state is a function of the log: that of a new model which learned the samples after the shadow's
    creation. It may lag behind its champion.

    Attributes
    ----------
    model : HostedModel
        The model, with the name of the champion.
    comparison : PairedComparison
        Comparison with the champion, since the creation or the latest promotion.
    skipped : int
        Samples that its estimator refused, since its creation.
    diverged : bool
        Whether no prediction is finite any more: it has no state, and learns no further sample.
    failure : str or None
        Why it does not follow the log.
    """

    model: HostedModel
    comparison: PairedComparison
    skipped: int = 0
    diverged: bool = False
    failure: str | None = None

    @property
    def name(self) -> str:
        """Name among the shadows of the champion."""
        return self.model.alias

    def compare(self, champion: Ledger) -> None:
        """Compare the losses since the last call with those of the champion."""
        own = self.model.ledger
        assert own is not None  # noqa: S101 (of a shadow)
        for row in own.rows():
            other = champion.find(row.seq)
            if other is not None and row.loss == row.loss and other.loss == other.loss:  # not NaN
                pair = Scored(other.score, other.loss), Scored(row.score, row.loss)
                self.comparison.update(*pair, row.target)
        own.drop_until(self.model.sequence)

    def restart(self) -> None:
        """Begin the comparison anew, with another champion."""
        self.model.begin_shadow()
        self.comparison = PairedComparison(self.comparison.task)


def _samples_first(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Divide entries into runs in which no sample follows a prediction."""
    start = 0
    for stop in range(1, len(entries)):
        if isinstance(entries[stop], SampleEvent) and isinstance(
            entries[stop - 1], PredictionEvent | Answered
        ):
            yield entries[start:stop]
            start = stop
    yield entries[start:]


def _readmitted(record: Record, preview: Preview) -> Entry:
    """Return the entry of a logged event."""
    event = record.event
    if event.kind == "predict":
        return PredictionEvent(
            event, event_codec.decode_pending(event.body), seq=record.seq, time=record.time
        )
    x, y, w, given = event_codec.read_sample(event)
    return SampleEvent(event, preview.check(x, y, w), given, seq=record.seq, time=record.time)


def _estimator(spec: ModelSpec, settings: Settings) -> BNPClassifier | BNPRegressor:
    """Return the estimator of a specification, on its device or that of the settings.

    A model that was created where there is a GPU is served on the CPU where there is none.
    """
    device = settings.device if spec.device is None else spec.device
    if spec.device is not None and not is_available(device):
        _logger.warning("model %r: this machine has no device %s: auto is used", spec.name, device)
        device = "auto"
    make = BNPClassifier if spec.task == "classification" else BNPRegressor
    backbone = None
    if spec.backbone is not None:
        backbone = open_backbone(spec.backbone, settings, spec.backbone_sha256)
    return make(**{**spec.options(), "device": device, "backbone": backbone})
