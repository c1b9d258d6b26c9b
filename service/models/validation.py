"""What may be learned: each request of a group is checked as if those before it had been learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from bnp_online import encoding
from bnp_online.learner import Preview

from ..errors import REFUSALS, AlreadyLabelledError, ForgottenIdError, IdConflictError, code_of
from ..storage import event_codec
from ..storage.history import Learned
from ..storage.interfaces import Event
from .pending import PendingPredictions


class Learn(NamedTuple):
    """A sample to learn, and as which JSON it came: what is there need not be written again for the log."""

    x: Any
    y: Any
    w: Any = 1.0
    id: str | None = None
    raw: bytes | None = None


class Label(NamedTuple):
    """The label of the prediction that was given under an id."""

    id: str
    y: Any


class Predict(NamedTuple):
    """A sample to predict, whose prediction is kept for its label."""

    x: Any
    id: str
    interval: float | None = None


Request: TypeAlias = Learn | Label | Predict


@dataclass(slots=True)
class Fresh:
    """A sample with an id that was admitted, and is not learned yet.

    Attributes
    ----------
    digest : bytes
        Of the body.
    step : int or None
        Where it led; None until it is learned, and for what was refused.
    refusal : Exception or None
        Why it was refused after all.
    """

    digest: bytes | None
    step: int | None = None
    refusal: Exception | None = None


@dataclass(slots=True)
class SampleEvent:
    """A sample that passed all checks: it is logged and learned.

    Attributes
    ----------
    event : Event
        As it is logged.
    sample : Sample
        As the estimator takes it.
    given : tuple or None
        For a label: the prediction given at the time, which is what is scored.
    fresh : Fresh or None
        For a sample with an id: takes the step.
    seq : int
        Number of the event, once it is logged.
    learned : bool
        Whether it was applied, and not refused.
    """

    event: Event
    sample: encoding.Sample
    given: event_codec.Given | None = None
    fresh: Fresh | None = None
    seq: int = 0
    learned: bool = False

    def refuse(self, error: Exception) -> None:
        """Note why it was not learned after all, for those who repeat it."""
        self.learned = False
        if self.fresh is not None:
            self.fresh.step, self.fresh.refusal = None, error


@dataclass(slots=True)
class PredictionEvent:
    """A prediction that was made: it is logged, kept for its label, and answered.

    Attributes
    ----------
    refusal : Exception or None
        Why it could not be logged.
    """

    event: Event
    identifier: str
    pending: event_codec.Pending
    seq: int = 0
    refusal: Exception | None = None

    def refuse(self, error: Exception) -> None:
        """Note why it was not kept after all, for those who repeat it."""
        self.refusal = error


@dataclass(slots=True)
class Repeated:
    """A prediction that was asked for before, and changes nothing now.

    Attributes
    ----------
    answer : dict
        The answer of the first time.
    first : Kept or None
        The first time, if that is not applied yet.
    """

    answer: dict[str, Any]
    first: PredictionEvent | None = None


Entry: TypeAlias = SampleEvent | PredictionEvent | Repeated | Learned | Fresh | Exception


class Validator:
    """Checks requests in order, as if each one before had been learned; what they ask of does not change.

    Parameters
    ----------
    preview : Preview
        The model's check of samples to come.
    step : int
        Samples that the model has learned.
    predict : callable
        Makes the prediction that `Predict` asks for.
    pending : PendingPredictions
        What waits for its label.
    refusals : Counter of str
        Where it is counted what was refused, by the code of the error.
    """

    def __init__(
        self,
        preview: Preview,
        step: int,
        predict: Callable[[Predict], event_codec.Pending],
        pending: PendingPredictions,
        refusals: Counter[str],
    ) -> None:
        self._preview = preview
        self._step = step
        self._predict_one = predict
        self._pending = pending
        self._refusals = refusals
        self._known: Mapping[str, Learned] = {}
        self._forgotten: Set[str] = frozenset()
        # What was admitted, and is neither in the model nor sure to be in the log.
        self._fresh: dict[str, Fresh] = {}
        self._labelled: set[str] = set()
        self._kept: dict[str, PredictionEvent] = {}

    def look_up(self, known: Mapping[str, Learned], forgotten: Set[str]) -> None:
        """Take what the log knows of the ids in the requests that come next.

        Parameters
        ----------
        known : dict of str to Learned
            What was learned.
        forgotten : set of str
            Which of them are of samples that were unlearned.
        """
        self._known, self._forgotten = known, forgotten

    def settle(self, entries: Iterable[Entry]) -> None:
        """Let go of what is in the log and in the model, or was refused: they know of it from now on."""
        if not (self._fresh or self._labelled or self._kept):
            return  # most often: no request had an id
        for entry in entries:
            if isinstance(entry, SampleEvent) and entry.event.id is not None:
                self._fresh.pop(entry.event.id, None)
                self._labelled.discard(entry.event.id)
            elif isinstance(entry, PredictionEvent):
                self._kept.pop(entry.identifier, None)

    def take(self, requests: Iterable[Request]) -> list[Entry]:
        """Return for each request what is to be done, what was done before, or why nothing is."""
        return [self._take(request) for request in requests]

    def _take(self, request: Request) -> Entry:
        try:
            if isinstance(request, Learn):
                return self._learn(request)
            return self._label(request) if isinstance(request, Label) else self._predict(request)
        except REFUSALS as error:
            self._refusals[code_of(error)] += 1
            return error

    def _learn(self, request: Learn) -> Entry:
        x, y, w, identifier, raw = request
        if identifier is not None and (known := self._repeated(identifier, request)) is not None:
            return known
        sample = self._preview.check(x, y, w)
        self._step += 1
        event = event_codec.learn_event(x, y, w, identifier, self._step, raw)
        if identifier is None:
            return SampleEvent(event, sample)
        fresh = self._fresh[identifier] = Fresh(event.digest)
        return SampleEvent(event, sample, fresh=fresh)

    def _repeated(self, identifier: str, request: Learn) -> Fresh | Learned | None:
        """Return what the id stands for, if it was used."""
        if identifier in self._forgotten:
            raise ForgottenIdError("the sample of this id was unlearned: it is not learned again", "id")
        known = self._fresh.get(identifier) or self._known.get(identifier)
        if known is not None and known.digest != event_codec.digest(request.x, request.y, request.w):
            raise IdConflictError("this id was used with another body: an id stands for one sample", "id")
        return known

    def _label(self, request: Label) -> SampleEvent:
        pending = self._pending.get(request.id)
        if request.id in self._labelled:
            raise AlreadyLabelledError("the prediction under this id has had its label", "id")
        sample = self._preview.check(pending.x, request.y)
        self._labelled.add(request.id)
        self._step += 1
        given = (pending.answer["prediction"], pending.answer.get("probabilities"))
        event = event_codec.label_event(pending.x, request.y, given, request.id, self._step)
        return SampleEvent(event, sample, given)

    def _predict(self, request: Predict) -> PredictionEvent | Repeated:
        if (answer := self._pending.repeated(request.id, request.x)) is not None:
            return Repeated(answer)
        if (kept := self._kept.get(request.id)) is not None:
            if event_codec.digest(kept.pending.x) != event_codec.digest(request.x):
                raise IdConflictError("a prediction for another x waits under this id", "id")
            return Repeated(kept.pending.answer, kept)
        pending = self._predict_one(request)  # of the state before the group, as its answer says
        kept = PredictionEvent(event_codec.predict_event(pending, request.id), request.id, pending)
        self._kept[request.id] = kept
        return kept
