"""Validation: turns each request of a group into an event for the log, or into an immediate answer.

Each request is checked as if all requests before it had been learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from bnp_online.errors import NonFiniteStateError
from bnp_online.learner import Preview
from bnp_online.values import Sample

from ..blocks import Block
from ..errors import REFUSALS, AlreadyLabelledError, ForgottenIdError, IdConflictError, code_of
from ..storage import event_codec
from ..storage.history import Learned
from ..storage.interfaces import Event, Form, Run
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
    novelty: bool = False


Request: TypeAlias = Learn | Label | Predict
Requests: TypeAlias = "Sequence[Request] | Block"
"""Requests that are queued together."""


def ids_of(request: Request | Block) -> Iterable[str]:
    """Return the ids of samples to learn, which may repeat learned ones."""
    if isinstance(request, Block):
        return request.ids.values()
    return (request.id,) if isinstance(request, Learn) and request.id is not None else ()


def samples_of(block: Block) -> list[Learn]:
    """Return the samples of a block, each of which is checked alone."""
    lines = enumerate(block.lines)
    return [Learn(*block.decoded(i), block.ids.get(i), line) for i, line in lines]


@dataclass(slots=True, eq=False)
class PendingEvent:
    """A valid event, before it is logged and applied.

    Attributes
    ----------
    event : Event or Run
        The event as it is logged.
    seq : int
        Its number, once it is logged; of a run that of its last event.
    time : float
        Time of logging, once it is logged.
    refusal : Exception or None
        Error that refused it after validation.
    """

    event: Event | Run
    seq: int = field(default=0, kw_only=True)
    time: float = field(default=0.0, kw_only=True)
    refusal: Exception | None = field(default=None, kw_only=True)

    @property
    def size(self) -> int:
        """Number of requests."""
        return self.event.samples

    def refuse(self, error: Exception) -> None:
        """Store the error that refused the event."""
        self.refusal = error


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

    event: Event
    sample: Sample
    given: event_codec.Given | None = None
    step: int | None = None


@dataclass(slots=True, eq=False)
class PredictionEvent(PendingEvent):
    """A prediction that will wait for its label."""

    event: Event
    prediction: event_codec.Pending


@dataclass(slots=True, eq=False)
class BlockEvent(PendingEvent):
    """Samples to learn that are logged together.

    Attributes
    ----------
    block : Block
        The samples.
    named : dict of int to Named
        Those with an id, by position.
    times : list of float or None
        Time of logging of each sample, if they differ.
    """

    event: Run
    block: Block
    named: dict[int, Named]
    times: list[float] | None = None

    def number(self, position: int) -> int:
        """Return the number of a sample in the log."""
        return self.seq - len(self.block) + 1 + position

    def step(self, position: int) -> int:
        """Return the step of the model after a sample, as it is logged."""
        assert self.event.step is not None  # noqa: S101 (of a run of samples)
        return self.event.step - len(self.block) + 1 + position

    def times_of(self, start: int, stop: int) -> list[float]:
        """Return the time of logging of some samples, by position."""
        return [self.time] * (stop - start) if self.times is None else self.times[start:stop]

    def refuse(self, error: Exception) -> None:
        """Store the error that refused all samples."""
        for named in self.named.values():
            named.refusal = error

    def settle(self, samples: Iterable[Entry]) -> None:
        """Store what became of samples that were applied alone."""
        for each in samples:
            if isinstance(each, SampleEvent):
                named = self.named.get(each.seq - self.number(0))
                if named is not None:
                    named.step, named.refusal = each.step, each.refusal


@dataclass(slots=True, eq=False)
class Named:
    """Sample of a block with an id, which later requests may repeat.

    Attributes
    ----------
    id : str
        The id.
    digest : bytes
        Digest of its content.
    step : int or None
        Step of the model with this sample, once it is learned.
    refusal : Exception or None
        Error that refused it after validation.
    """

    id: str
    digest: bytes
    step: int | None = None
    refusal: Exception | None = None


@dataclass(slots=True, eq=False)
class Answered:
    """A request that changes nothing.

    Attributes
    ----------
    value : dict or Exception
        The answer, or the error that refuses the request.
    repeats : SampleEvent, Named, PredictionEvent or None
        An event with the same id that is not applied yet. If that event is refused, this request gets the
        same error.
    """

    value: dict[str, Any] | Exception
    repeats: SampleEvent | Named | PredictionEvent | None = None

    @property
    def size(self) -> int:
        """Number of requests: one."""
        return 1

    def outcome(self) -> dict[str, Any] | Exception:
        """Return the answer or the error, after the earlier events are applied."""
        if self.repeats is None or isinstance(self.value, Exception):
            return self.value
        if self.repeats.refusal is not None:
            return self.repeats.refusal
        if isinstance(self.repeats, PredictionEvent):
            return self.value
        return {**self.value, "step": self.repeats.step}


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
        self._samples: dict[str, SampleEvent | Named] = {}
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
            elif isinstance(entry, BlockEvent):
                for named in entry.named.values():
                    self._samples.pop(named.id, None)
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

    def take_block(self, block: Block) -> list[Entry]:
        """Return events for the samples of a block, and as `take` for those that must be checked alone."""
        if not self._preview.knows(block.rows):
            return self.take(samples_of(block))
        entries: list[Entry] = []
        start = 0
        for position in (*self._repeats(block), len(block)):
            part = block[start:position]
            entries += [self._logged(part)] if len(part) > 1 else self.take(samples_of(part))
            entries += self.take(samples_of(block[position : position + 1]))
            start = position + 1
        return entries

    def _repeats(self, block: Block) -> list[int]:
        """Return the positions of samples whose ids were used."""
        ids, found = set[str](), []
        for i, each in sorted(block.ids.items()):
            if each in ids or each in self._samples or each in self._known or each in self._forgotten:
                found.append(i)
            ids.add(each)
        return found

    def _logged(self, block: Block) -> BlockEvent:
        named = {i: Named(each, event_codec.digest(*block.decoded(i))) for i, each in block.ids.items()}
        self._samples.update((each.id, each) for each in named.values())
        self._step += len(block)
        names = {i: (each.id, each.digest) for i, each in named.items()}
        return BlockEvent(Run(block.lines, names, self._step, Form.OBJECTS), block, named)

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
        if (waiting := self._samples.get(identifier)) is not None:
            _require_same(request, waiting.digest if isinstance(waiting, Named) else waiting.event.digest)
            return Answered(self._duplicate, repeats=waiting)
        if (known := self._known.get(identifier)) is None:
            return None
        _require_same(request, known.digest)
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
            if not event_codec.is_digest(event_codec.digest(waiting.prediction.x), request.x):
                raise IdConflictError("this id was used for a prediction with another x", "id")
            return Answered(waiting.prediction.answer, repeats=waiting)
        prediction = self._predict_one(request)  # from the state before the group, as its step says
        entry = PredictionEvent(event_codec.predict_event(prediction, request.id), prediction)
        self._predictions[request.id] = entry
        return entry


def _require_same(request: Learn, digest: bytes | None) -> None:
    if not event_codec.is_digest(digest, request.x, request.y, request.w):
        raise IdConflictError("this id was used with another body: use one id for one sample", "id")
