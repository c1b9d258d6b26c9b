"""Validation: turns each request of a group into an event for the log, or into an immediate answer.

Each request is checked as if all requests before it had been learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from bnp_online.errors import NonFiniteStateError
from bnp_online.learner import Preview
from bnp_online.values import Sample

from ..errors import REFUSALS, AlreadyLabelledError, ForgottenIdError, IdConflictError, code_of
from ..storage import event_codec
from ..storage.history import Learned
from ..storage.interfaces import Event
from .pending import PendingPredictions


class Learn(NamedTuple):
    """A sample to learn.

    Attributes
    ----------
    raw : bytes or None
        The JSON body of the request. The log stores it unchanged.
    """

    x: Any
    y: Any
    w: Any = 1.0
    id: str | None = None
    raw: bytes | None = None


class Label(NamedTuple):
    """The label of the pending prediction with an id."""

    id: str
    y: Any


class Predict(NamedTuple):
    """A sample to predict. The prediction waits for its label."""

    x: Any
    id: str
    interval: float | None = None


Request: TypeAlias = Learn | Label | Predict


@dataclass(slots=True, eq=False)
class PendingEvent:
    """A valid event, before it is logged and applied.

    Attributes
    ----------
    event : Event
        The event as it is logged.
    seq : int
        Its number, once it is logged.
    refusal : Exception or None
        Error that refused it after validation.
    """

    event: Event
    seq: int = field(default=0, kw_only=True)
    refusal: Exception | None = field(default=None, kw_only=True)


@dataclass(slots=True, eq=False)
class SampleEvent(PendingEvent):
    """A sample to learn.

    Attributes
    ----------
    sample : Sample
        The sample as the estimator takes it.
    given : tuple or None
        For a label: the earlier prediction, to score.
    step : int or None
        Step of the model with this sample, once it is learned.
    """

    sample: Sample
    given: event_codec.Given | None = None
    step: int | None = None


@dataclass(slots=True, eq=False)
class PredictionEvent(PendingEvent):
    """A prediction that will wait for its label."""

    prediction: event_codec.Pending


@dataclass(slots=True, eq=False)
class Answered:
    """A request that changes nothing.

    Attributes
    ----------
    value : dict or Exception
        The answer, or the error that refuses the request.
    repeats : PendingEvent or None
        An event with the same id that is not applied yet. If that event is refused, this request gets the
        same error.
    """

    value: dict[str, Any] | Exception
    repeats: PendingEvent | None = None

    def outcome(self) -> dict[str, Any] | Exception:
        """Return the answer or the error, after the earlier events are applied."""
        if self.repeats is None or isinstance(self.value, Exception):
            return self.value
        if self.repeats.refusal is not None:
            return self.repeats.refusal
        return (
            {**self.value, "step": self.repeats.step} if isinstance(self.repeats, SampleEvent) else self.value
        )


Entry: TypeAlias = PendingEvent | Answered
"""Result of the validation of a request."""


class Validator:
    """Checks requests in order. It changes nothing in the model.

    Parameters
    ----------
    name : str
        Name of the model.
    preview : Preview
        Check of samples by the estimator.
    step : int
        Number of samples that the model has learned.
    predict : callable
        Returns the prediction for a `Predict`.
    pending : PendingPredictions
        Predictions that wait for their label.
    refusals : Counter of str
        Counts refused requests by error code.
    """

    def __init__(
        self,
        name: str,
        preview: Preview,
        step: int,
        predict: Callable[[Predict], event_codec.Pending],
        pending: PendingPredictions,
        refusals: Counter[str],
    ) -> None:
        self._duplicate = {"model": name, "step": None, "prediction": None, "loss": None, "duplicate": True}
        self._preview = preview
        self._step = step
        self._predict_one = predict
        self._pending = pending
        self._refusals = refusals
        self._known: Mapping[str, Learned] = {}
        self._forgotten: Set[str] = frozenset()
        # Events that are valid, and not applied yet, by the id of the sample or the prediction.
        self._samples: dict[str, SampleEvent] = {}
        self._labelled: set[str] = set()
        self._predictions: dict[str, PredictionEvent] = {}

    def look_up(self, known: Mapping[str, Learned], forgotten: Set[str]) -> None:
        """Store what the log contains about the ids of the next requests.

        Parameters
        ----------
        known : dict of str to Learned
            Learned samples.
        forgotten : set of str
            Ids of samples that were unlearned.
        """
        self._known, self._forgotten = known, forgotten

    @property
    def remembers(self) -> bool:
        """Whether `settle` may have events to remove: a request had an id."""
        return bool(self._samples or self._labelled or self._predictions)

    def settle(self, entries: Iterable[Entry]) -> None:
        """Remove events that are applied or refused. From now on the log and the model contain them."""
        for entry in entries:
            if isinstance(entry, SampleEvent) and entry.event.id is not None:
                self._samples.pop(entry.event.id, None)
                self._labelled.discard(entry.event.id)
            elif isinstance(entry, PredictionEvent):
                self._predictions.pop(str(entry.event.id), None)

    def take(self, requests: Iterable[Request]) -> list[Entry]:
        """Return an event or an answer for each request."""
        entries: list[Entry] = []
        for request in requests:
            try:
                if isinstance(request, Learn):
                    entries.append(self._learn(request))
                elif isinstance(request, Label):
                    entries.append(self._label(request))
                else:
                    entries.append(self._predict(request))
            except REFUSALS as error:
                self._refusals[code_of(error)] += 1
                entries.append(Answered(error))
        return entries

    def _learn(self, request: Learn) -> Entry:
        x, y, w, identifier, raw = request
        if identifier is None:
            sample = self._preview.check(x, y, w)
            self._step += 1
            if raw is not None:  # the usual case
                return SampleEvent(Event("learn", raw, None, None, self._step), sample)
            return SampleEvent(event_codec.learn_event(x, y, w, None, self._step), sample)
        if (answered := self._repeated(request, identifier)) is not None:
            return answered
        sample = self._preview.check(x, y, w)
        self._step += 1
        event = event_codec.learn_event(x, y, w, identifier, self._step, raw)
        entry = self._samples[identifier] = SampleEvent(event, sample)
        return entry

    def _repeated(self, request: Learn, identifier: str) -> Answered | None:
        """Return the answer to a sample whose id was used, None for a new id."""
        if identifier in self._forgotten:
            raise ForgottenIdError("the sample with this id was unlearned: it is not learned again", "id")
        digest = event_codec.digest(request.x, request.y, request.w)
        if (waiting := self._samples.get(identifier)) is not None:
            _require_same(digest, waiting.event.digest)
            return Answered(self._duplicate, repeats=waiting)
        if (known := self._known.get(identifier)) is None:
            return None
        _require_same(digest, known.digest)
        if known.step is None:
            raise NonFiniteStateError("the step would have made the state non-finite; it was not taken")
        return Answered({**self._duplicate, "step": known.step})

    def _label(self, request: Label) -> SampleEvent:
        pending = self._pending.get(request.id)
        if request.id in self._labelled:
            raise AlreadyLabelledError("the prediction with this id has its label", "id")
        sample = self._preview.check(pending.x, request.y)
        self._labelled.add(request.id)
        self._step += 1
        given = (pending.answer["prediction"], pending.answer.get("probabilities"))
        event = event_codec.label_event(pending.x, request.y, given, request.id, self._step)
        return SampleEvent(event, sample, given)

    def _predict(self, request: Predict) -> Entry:
        if (answer := self._pending.repeated(request.id, request.x)) is not None:
            return Answered(answer)
        if (waiting := self._predictions.get(request.id)) is not None:
            if event_codec.digest(waiting.prediction.x) != event_codec.digest(request.x):
                raise IdConflictError("this id was used for a prediction with another x", "id")
            return Answered(waiting.prediction.answer, repeats=waiting)
        prediction = self._predict_one(request)  # from the state before the group, as its step says
        entry = PredictionEvent(event_codec.predict_event(prediction, request.id), prediction)
        self._predictions[request.id] = entry
        return entry


def _require_same(digest: bytes, other: bytes | None) -> None:
    if digest != other:
        raise IdConflictError("this id was used with another body: use one id for one sample", "id")
