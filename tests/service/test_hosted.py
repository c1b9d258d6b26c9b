"""The model that the server keeps, without server or thread: groups, order, ids, expiry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bnp_online.encoding import Sample
from bnp_online.errors import NonFiniteStateError
from service.admission import Label, Learn
from service.errors import AlreadyLabelledError, IdConflictError, UnknownIdError
from service.hosted import HostedModel
from service.schemas import ModelSpec
from service.settings import Settings
from service.store.base import Event
from service.store.volatile import VolatileLog


class Recorder(VolatileLog):
    """A log that remembers, and notes the step at which each group was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[tuple[int, list[Event]]] = []
        self.model: HostedModel | None = None

    def append(self, model: str, events: Sequence[Event]) -> int:
        assert self.model is not None
        self.groups.append((self.model.step, list(events)))
        return super().append(model, events)


CPU = Settings(device="cpu")
RAW = ModelSpec(hidden=(8,), standardize=False)


def hosted(log: VolatileLog | None = None, now: list[float] | None = None, **settings: Any) -> HostedModel:
    clock = now or [0.0]
    return HostedModel(
        ModelSpec(hidden=(8,)),
        Settings(device="cpu", **settings),
        VolatileLog() if log is None else log,
        clock=lambda: clock[0],
    )


def learn(model: HostedModel, *requests: Learn | Label) -> list[Any]:
    """Learn a group, and return what came of each request."""
    return [outcome for part in model.learn(requests) for outcome in part]


def one(model: HostedModel, request: Learn | Label) -> Any:
    [outcome] = learn(model, request)
    return outcome


def test_a_group_is_logged_before_the_model_changes() -> None:
    log = Recorder()
    log.model = model = hosted(log)
    model.predict({"a": 1.0}, "t")
    learn(model, Learn({"a": 1.0}, "cat", 2.0, "e"), Learn({"a": []}, "cat"), Label("t", "dog"))
    learn(model, Learn({"a": 1.0}, "cat", 2.0, "e"))  # a duplicate is no event
    [(step, events)] = log.groups
    assert step == 0
    assert events == [
        Event("learn", {"a": 1.0}, "cat", 2.0, "e"),
        Event("label", {"a": 1.0}, "dog", 1.0, "t", (None, {})),
    ]
    assert model.sequence == 2


def test_a_later_sample_is_checked_as_if_the_earlier_were_learned() -> None:
    model = hosted()
    first, second = learn(model, Learn({"a": 1.0}, "cat"), Learn({"a": 1.0}, 1))
    assert isinstance(first, dict)
    assert isinstance(second, Exception)
    assert model.step == 1


def test_a_group_leaves_what_a_loop_leaves() -> None:
    """Refusals, duplicates and labels among them; however many samples one call of the estimator took."""
    requests: list[Learn | Label] = [
        Learn({"a": float(i % 7), "b": 0.5 * (i % 5)}, "cat" if i < 9 else f"dog {i % 2}", 1.0 + i % 2)
        for i in range(100)
    ]
    requests[30] = requests[31] = Learn({"a": 1.0, "new": 3.0}, "cat", id="e")
    requests[40] = requests[41] = Learn({"a": 1e39}, "cat", id="poison")
    requests[60] = requests[61] = Label("t", "dog 1")
    group, loop = HostedModel(RAW, CPU, VolatileLog()), HostedModel(RAW, CPU, VolatileLog())
    for model in (group, loop):
        model.predict({"a": 3.0}, "t")
    together, alone = learn(group, *requests), [one(loop, request) for request in requests]
    refused = [type(outcome) for outcome in together if isinstance(outcome, Exception)]
    assert refused == [NonFiniteStateError, NonFiniteStateError, AlreadyLabelledError]
    assert [type(outcome) for outcome in alone if isinstance(outcome, Exception)] == refused
    answered = [outcome for outcome in together if isinstance(outcome, dict)]
    assert answered == [outcome for outcome in alone if isinstance(outcome, dict)]
    assert [answer["step"] for answer in answered if not answer["duplicate"]] == list(range(1, 97))
    assert group.fingerprint() == loop.fingerprint()


def test_a_step_that_is_refused_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = hosted()
    learn(model, *(Learn({"a": float(i)}, ["cat", "dog"][i % 2]) for i in range(6)))
    model.predict({"a": 1.0}, "t")
    before = model.fingerprint()
    learn_samples = model.estimator.learn_samples

    def refuse(samples: list[Sample]) -> list[NonFiniteStateError]:
        return [NonFiniteStateError("poison") for _ in samples]

    monkeypatch.setattr(model.estimator, "learn_samples", refuse)
    poison = Learn({"a": 9.0}, "cat", id="e")
    outcomes = learn(model, poison, poison, Label("t", "dog"))
    assert [type(outcome) for outcome in outcomes] == [NonFiniteStateError] * 3
    assert model.fingerprint() == before
    monkeypatch.setattr(model.estimator, "learn_samples", learn_samples)
    assert one(model, poison)["duplicate"] is False  # neither the id nor the prediction was used up
    assert one(model, Label("t", "dog"))["step"] == 8


def test_an_id_is_learned_once() -> None:
    model = hosted()
    first = one(model, Learn({"a": 1.0, "b": 2.0}, "cat", id="e"))
    learn(model, Learn({"a": 2.0}, "dog"))
    before = model.fingerprint()
    again = one(model, Learn({"b": 2.0, "a": 1.0}, "cat", id="e"))
    assert again == {**first, "prediction": None, "loss": None, "duplicate": True}
    for other in (Learn({"a": 1.0}, "cat", id="e"), Learn({"a": 1.0, "b": 2.0}, "dog", id="e")):
        assert isinstance(one(model, other), IdConflictError)
    assert model.fingerprint() == before


def test_the_oldest_ids_are_forgotten() -> None:
    model = hosted(max_ids=2)
    for i in range(3):
        one(model, Learn({"a": 1.0}, "cat", id=str(i)))
    assert one(model, Learn({"a": 1.0}, "cat", id="2"))["duplicate"]
    assert one(model, Learn({"a": 1.0}, "cat", id="1"))["duplicate"]
    assert not one(model, Learn({"a": 1.0}, "cat", id="0"))["duplicate"]


def test_the_same_prediction_is_answered_again() -> None:
    model = hosted()
    learn(model, *(Learn({"a": float(i)}, ["cat", "dog"][i % 2]) for i in range(6)))
    given = model.predict({"a": 1.0}, "t")
    learn(model, Learn({"a": 3.0}, "cat"))
    assert model.predict({"a": 1.0}, "t") == given
    assert model.predict({"a": 1.0})["probabilities"] != given["probabilities"]
    assert one(model, Label("t", "dog"))["prediction"] == given["prediction"]


def test_a_prediction_expires() -> None:
    now = [0.0]
    model = hosted(now=now, label_ttl=10.0)
    model.predict({"a": 1.0}, "early")
    now[0] = 5.0
    model.predict({"a": 1.0}, "late")
    now[0] = 10.0
    assert isinstance(one(model, Label("early", "cat")), UnknownIdError)
    assert one(model, Label("late", "cat"))["step"] == 1
    now[0] = 14.0
    assert isinstance(one(model, Label("late", "cat")), AlreadyLabelledError)
    now[0] = 15.0
    assert isinstance(one(model, Label("late", "cat")), UnknownIdError)
    model.predict({"a": 2.0}, "late")  # the id is free again


def test_the_oldest_predictions_make_room() -> None:
    model = hosted(max_pending=2)
    for i in range(3):
        model.predict({"a": 1.0}, str(i))
    assert isinstance(one(model, Label("0", "cat")), UnknownIdError)
    assert one(model, Label("1", "cat"))["step"] == 1


def test_predicting_changes_nothing() -> None:
    model = hosted()
    learn(model, Learn({"a": 1.0}, "cat"), Learn({"a": 2.0}, "dog"))
    before = model.fingerprint()
    model.predict({"a": 1.0, "new": 2.0, "town": "Oslo"})
    model.predict({"a": None}, "t")
    assert model.fingerprint() == before
