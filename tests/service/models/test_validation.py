"""Validation: which requests become events, and which are answered at once, as if those before were learned.

Outcomes are compared after `HostedModel.apply`, so that the tests depend on no type of entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

import pytest

from bnp_online.errors import NonFiniteStateError
from service.errors import AlreadyLabelledError, ForgottenIdError, IdConflictError, StorageFullError, code_of
from service.models.hosted import HostedModel
from service.models.validation import Label, Learn, Predict, Request
from service.schemas import ModelSpec
from service.settings import Settings
from service.storage import event_codec
from service.storage.history import Learned

SETTINGS = Settings(device="cpu")


class Checked:
    """A model and its validator; `take` and `apply` are apart, as in the writer."""

    def __init__(self, **spec: Any) -> None:
        self.model = HostedModel(ModelSpec(hidden=(4,), replay=0, **spec), SETTINGS, lambda: 0.0)
        self.refusals: Counter[str] = Counter()
        self.validator = self.model.validator(self.model.predict_pending, self.refusals)
        self._seq = 0

    def know(self, known: Mapping[str, Learned], forgotten: Set[str] = frozenset()) -> None:
        """Tell the validator what the log knows of ids."""
        self.validator.look_up(known, forgotten)

    def take(self, *requests: Request) -> list[Any]:
        """Check requests; return their entries, those with an event numbered."""
        entries = self.validator.take(requests)
        for entry in self.events(entries):
            self._seq += 1
            entry.seq = self._seq
        return entries

    def apply(self, entries: list[Any]) -> list[Any]:
        """Apply entries; return their outcomes."""
        outcomes = self.model.apply(entries).outcomes
        self.validator.settle(entries)
        return outcomes

    def events(self, entries: list[Any]) -> list[Any]:
        """Return the entries that have an event."""
        return [entry for entry in entries if hasattr(entry, "event")]

    def kinds(self, entries: list[Any]) -> list[tuple[str, int | None]]:
        """Return kind and step of each event."""
        return [(entry.event.kind, entry.event.step) for entry in self.events(entries)]


@pytest.fixture
def checked() -> Checked:
    return Checked()


def codes(outcomes: list[Any]) -> list[Any]:
    """Return the step of each answer, and the code of each error."""
    return [code_of(each) if isinstance(each, Exception) else each["step"] for each in outcomes]


def test_samples_become_events_with_the_steps_they_lead_to(checked: Checked) -> None:
    entries = checked.take(Learn({"a": 1.0}, "cat"), Learn({"a": 2.0}, "dog"))
    assert checked.kinds(entries) == [("learn", 1), ("learn", 2)]
    assert codes(checked.apply(entries)) == [1, 2]


def test_the_body_of_a_request_is_logged_as_it_came(checked: Checked) -> None:
    raw = b'{"x": {"a": 1.0},  "y": "cat"}'
    (entry,) = checked.take(Learn({"a": 1.0}, "cat", raw=raw))
    assert entry.event.body == raw


def test_a_refused_sample_takes_no_step_and_is_counted(checked: Checked) -> None:
    entries = checked.take(
        Learn({"a": 1.0}, "cat"), Learn({"a": 1.0}, 7), Learn({"a": float("inf")}, "cat"), Learn({}, "dog")
    )
    assert checked.kinds(entries) == [("learn", 1), ("learn", 2)]
    assert codes(checked.apply(entries)) == [1, "label_type", "non_finite_feature", 2]
    assert checked.refusals == {"label_type": 1, "non_finite_feature": 1}


def test_a_sample_is_checked_against_classes_that_are_not_learned_yet() -> None:
    checked = Checked(max_classes=2)
    entries = checked.take(*(Learn({"a": 1.0}, label) for label in ("cat", "dog", "cow", "cat")))
    assert codes(checked.apply(entries)) == [1, 2, "too_many_classes", 3]


def test_checking_leaves_the_model_as_it_is(checked: Checked) -> None:
    before = checked.model.estimator.fingerprint()
    checked.take(Learn({"a": 1.0}, "cat"), Predict({"a": 1.0}, "p-1"))
    assert checked.model.estimator.fingerprint() == before
    assert (checked.model.step, checked.model.pending) == (0, 0)


def test_an_id_that_was_learned_is_answered_with_its_step(checked: Checked) -> None:
    checked.know({"e-1": Learned(event_codec.digest({"a": 1.0}, "cat", 1.0), 7)})
    entries = checked.take(Learn({"a": 1.0}, "cat", id="e-1"))
    (answer,) = checked.apply(entries)
    assert checked.events(entries) == []
    assert (answer["step"], answer["duplicate"], answer["loss"]) == (7, True, None)
    assert checked.model.step == 0


def test_an_id_that_waits_is_answered_with_the_step_of_the_first(checked: Checked) -> None:
    request = Learn({"a": 1.0}, "cat", id="e-1")
    first, second = checked.apply(checked.take(request, request))
    assert (first["step"], first["duplicate"]) == (1, False)
    assert (second["step"], second["duplicate"]) == (1, True)
    assert checked.model.step == 1


def test_an_id_whose_body_differs_is_a_conflict(checked: Checked) -> None:
    checked.know({"e-1": Learned(event_codec.digest({"a": 1.0}, "cat", 1.0), 7)})
    entries = checked.take(
        Learn({"a": 1.0}, "dog", id="e-1"),
        Learn({"a": 1.0}, "cat", id="e-2"),
        Learn({"a": 1.0}, "cat", 2.0, id="e-2"),
    )
    outcomes = checked.apply(entries)
    assert isinstance(outcomes[0], IdConflictError)
    assert outcomes[1]["step"] == 1
    assert isinstance(outcomes[2], IdConflictError)


def test_an_id_that_was_unlearned_is_not_learned_again(checked: Checked) -> None:
    checked.know({}, {"e-1"})
    (outcome,) = checked.apply(checked.take(Learn({"a": 1.0}, "cat", id="e-1")))
    assert isinstance(outcome, ForgottenIdError)


def test_an_id_whose_sample_was_refused_when_it_was_applied_is_refused(checked: Checked) -> None:
    checked.know({"e-1": Learned(event_codec.digest({"a": 1.0}, "cat", 1.0), None)})
    (outcome,) = checked.apply(checked.take(Learn({"a": 1.0}, "cat", id="e-1")))
    assert isinstance(outcome, NonFiniteStateError)


def test_a_refused_sample_leaves_its_id_free(checked: Checked) -> None:
    entries = checked.take(Learn({"a": float("inf")}, "cat", id="e-1"), Learn({"a": 1.0}, "cat", id="e-1"))
    outcomes = checked.apply(entries)
    assert codes(outcomes) == ["non_finite_feature", 1]
    assert outcomes[1]["duplicate"] is False


def test_settled_ids_are_looked_up_in_the_log(checked: Checked) -> None:
    request = Learn({"a": 1.0}, "cat", id="e-1")
    checked.apply(checked.take(request))
    entries = checked.take(request)  # the log, as `know` tells it, has no such id
    assert checked.kinds(entries) == [("learn", 2)]


def test_a_prediction_is_an_event_and_waits_for_its_label(checked: Checked) -> None:
    entries = checked.take(Predict({"a": 1.0}, "p-1"))
    assert checked.kinds(entries) == [("predict", None)]
    (answer,) = checked.apply(entries)
    assert (answer["id"], answer["step"]) == ("p-1", 0)
    assert checked.model.pending == 1


@pytest.mark.parametrize("applied", [True, False])
def test_a_prediction_that_is_repeated_has_the_first_answer(checked: Checked, applied: bool) -> None:
    first = checked.take(Predict({"a": 1.0}, "p-1"))
    outcomes = checked.apply(first) if applied else []
    second = checked.take(Predict({"a": 1.0}, "p-1"))
    assert checked.events(second) == []
    outcomes += checked.apply([*first, *second] if not applied else second)
    assert outcomes[0] == outcomes[1]
    assert checked.model.pending == 1


@pytest.mark.parametrize("applied", [True, False])
def test_a_prediction_of_another_sample_under_the_same_id_is_a_conflict(
    checked: Checked, applied: bool
) -> None:
    first = checked.take(Predict({"a": 1.0}, "p-1"))
    if applied:
        checked.apply(first)
    second = checked.take(Predict({"a": 2.0}, "p-1"))
    outcomes = checked.apply(second if applied else [*first, *second])
    assert isinstance(outcomes[-1], IdConflictError)


def test_a_repeated_prediction_is_refused_with_the_first(checked: Checked) -> None:
    first = checked.take(Predict({"a": 1.0}, "p-1"))
    second = checked.take(Predict({"a": 1.0}, "p-1"))
    first[0].refusal = error = StorageFullError("the disk is full")  # its commit failed
    assert checked.apply(second) == [error]


def test_a_label_is_learned_once_with_the_prediction_that_was_given(checked: Checked) -> None:
    checked.apply(checked.take(Learn({"a": 1.0}, "cat"), Learn({"a": 2.0}, "dog")))
    (prediction,) = checked.apply(checked.take(Predict({"a": 1.0}, "p-1")))
    entries = checked.take(Label("p-1", "cat"), Label("p-1", "cat"))
    assert checked.kinds(entries) == [("label", 3)]
    first, second = checked.apply(entries)
    assert (first["step"], first["prediction"]) == (3, prediction["prediction"])
    assert isinstance(second, AlreadyLabelledError)
    (third,) = checked.apply(checked.take(Label("p-1", "cat")))
    assert isinstance(third, AlreadyLabelledError)


def test_a_label_without_a_prediction_is_refused(checked: Checked) -> None:
    assert codes(checked.apply(checked.take(Label("p-1", "cat")))) == ["unknown_id"]


def test_a_refused_label_may_be_sent_again(checked: Checked) -> None:
    checked.apply(checked.take(Learn({"a": 1.0}, "cat"), Predict({"a": 1.0}, "p-1")))
    assert codes(checked.apply(checked.take(Label("p-1", 7), Label("p-1", "cat")))) == ["label_type", 2]
