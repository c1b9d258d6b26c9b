"""What a server must do with a model, in a few lines: a list of events, and an estimator."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bnp_online import BNPClassifier, BNPRegressor, SampleError

Json = dict[str, Any]


class RefusedError(Exception):
    """The server must answer with this status and code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(status, code)
        self.answer = status, code


def attempt(what: Callable[[], Any]) -> Any:
    """Return what something returns, or the error by which it must be refused."""
    try:
        return what()
    except RefusedError as refused:
        return refused


@dataclass
class Event:
    """What happened to a model; `step` is where it was then, None where that cannot be gone back to."""

    number: int
    kind: str
    id: str | None = None
    sample: tuple[Any, ...] = ()
    given: Json = field(default_factory=dict)
    step: int | None = None


class Twin:
    """What a server must know of one of its models."""

    def __init__(self, spec: Json) -> None:
        self._spec = spec
        self._numbers = itertools.count()
        self.events: list[Event] = []  # those that count
        self._dead: list[Event] = []  # those that were rolled back
        self._forgotten: set[str] = set()
        self.checkpoints: dict[str, int] = {}  # the number of the last event in each
        self.branch = 0
        self._rebuild()
        self._add(Event(0, "create"))

    def learn(self, x: Json, y: Any, w: float | None = None, id: str | None = None) -> Json:
        w = 1.0 if w is None else w
        if id in self._forgotten:
            raise RefusedError(409, "id_forgotten")
        for event in self.events:
            if id is not None and (event.kind, event.id) == ("learn", id):
                if event.sample != (x, y, w):
                    raise RefusedError(409, "id_conflict")
                return {"step": event.step, "prediction": None, "loss": None, "duplicate": True}
        return self._learn(Event(0, "learn", id, (x, y, w)), self._predict(x)["prediction"])

    def label(self, id: str, y: Any) -> Json:
        if (waiting := self.pending.get(id)) is None:
            raise RefusedError(404, "unknown_id")
        if id in self._labelled:
            raise RefusedError(409, "already_labelled")
        return self._learn(Event(0, "label", id, (*waiting.sample, y, 1.0)), waiting.given["prediction"])

    def predict(self, x: Json, id: str | None = None) -> Json:
        if id is None:
            return self._predict(x)
        if (waiting := self.pending.get(id)) is not None:
            if waiting.sample != (x,):
                raise RefusedError(409, "id_conflict")
            if id in self._labelled:
                raise RefusedError(409, "already_labelled")
            return waiting.given
        given = {**self._predict(x), "id": id}
        self._add(Event(0, "predict", id, (x,), given))
        return given

    @property
    def waiting(self) -> int:
        """Number of predictions that wait for their label."""
        return len(self.pending.keys() - self._labelled)

    def checkpoint(self, name: str) -> None:
        self.checkpoints[name] = self.events[-1].number

    def roll_back_to_step(self, step: int) -> Json:
        found = [event.number for event in self.events if event.step == step]
        if not found:
            raise RefusedError(404, "unknown_checkpoint")
        return self._roll_back(found[-1])

    def roll_back_to_checkpoint(self, name: str) -> Json:
        if name not in self.checkpoints:
            raise RefusedError(404, "unknown_checkpoint")
        return self._roll_back(self.checkpoints[name])

    def _roll_back(self, last: int) -> Json:
        self._dead += [event for event in self.events if event.number > last]
        self.events = [event for event in self.events if event.number <= last]
        self._drop_checkpoints(last)
        self._rebuild()
        self._add(Event(0, "rollback"))
        self.branch += 1
        return {"step": self.estimator.step, "branch": self.branch}

    def forget(self, ids: list[str]) -> Json:
        gone = [event for event in [*self.events, *self._dead] if event.id in ids]
        if set(ids) - {event.id for event in gone} - self._forgotten:
            raise RefusedError(404, "unknown_id")
        self._forgotten |= set(ids)
        if gone:
            self._drop_checkpoints(min(event.number for event in gone) - 1)
            self.events = [event for event in self.events if event not in gone]
            self._dead = [event for event in self._dead if event not in gone]
            self._rebuild()
            self._add(Event(0, "forget"))
        return {"forgotten": len(gone)}

    def _drop_checkpoints(self, last: int) -> None:
        self.checkpoints = {name: number for name, number in self.checkpoints.items() if number <= last}

    def _predict(self, x: Json) -> Json:
        try:
            prediction = self.estimator.predict(x).value
        except SampleError as error:
            raise RefusedError(422, error.code) from None
        given = {"step": self.estimator.step, "prediction": prediction}
        if isinstance(self.estimator, BNPClassifier):
            probabilities = self.estimator.predict_proba_one(x)
            given["probabilities"] = {_key(label): p for label, p in probabilities.items()}
        return given

    def _learn(self, event: Event, prediction: Any) -> Json:
        try:
            self._add(event)
        except SampleError as error:
            raise RefusedError(422, error.code) from None
        return {"step": event.step, "prediction": prediction, "duplicate": False}

    def _add(self, event: Event) -> None:
        self._apply(event)
        event.number = next(self._numbers)
        self.events.append(event)

    def _rebuild(self) -> None:
        """Let everything that counts happen again."""
        make: Any = BNPClassifier if self._spec["task"] == "classification" else BNPRegressor
        options = {name: value for name, value in self._spec.items() if name != "task"}
        self.estimator = make(**{**options, "hidden": tuple(options["hidden"])}, device="cpu")
        self.pending: dict[str, Event] = {}
        self._labelled: set[str] = set()
        self._experts: dict[str | None, Any] = {}  # what the experts predicted, for a label
        for event in self.events:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        if event.kind in ("learn", "label"):
            x, y, w = event.sample
            given = None if event.kind == "learn" else self._experts.get(event.id)
            self.estimator.learn_one(x, y, w=w, given=given)
        if event.kind == "label" and event.id is not None:
            self._labelled.add(event.id)
        if event.kind == "predict" and event.id is not None:
            self.pending[event.id] = event
            self._experts[event.id] = self.estimator.predict_experts_one(event.sample[0])
        elif event.kind != "forget":
            event.step = self.estimator.step


def _key(label: Any) -> str:
    return label if isinstance(label, str) else json.dumps(label)
