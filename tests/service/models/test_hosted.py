"""The model that the server keeps, without server or thread: groups, order, ids, expiry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bnp_online.errors import NonFiniteStateError
from bnp_online.values import Sample
from service.errors import AlreadyLabelledError, IdConflictError, UnknownIdError
from service.models import report, snapshot
from service.models.hosted import HostedModel
from service.models.validation import Label, Learn, Predict, Request
from service.schemas import ModelSpec
from service.storage import event_codec
from tests.support.hosted import Model

SPEC = ModelSpec(hidden=(8,))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Model]]:
    made: list[Model] = []

    def one(spec: ModelSpec = SPEC, **settings: Any) -> Model:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Model(folder, spec, **settings))
        return made[-1]

    yield one
    for model in made:
        model.log.close()


def test_a_group_is_logged_with_the_steps_that_it_leads_to(make: Callable[..., Model]) -> None:
    model = make()
    model.one(Predict({"a": 1.0}, "t"))
    model.learn(Learn({"a": 1.0}, "cat", 2.0, "e"), Learn({"a": [1]}, "cat"), Label("t", "dog"))
    model.learn(Learn({"a": 1.0}, "cat", 2.0, "e"))  # a duplicate is no event
    assert model.events() == [
        ("create", 0, None),
        ("predict", None, None),
        ("learn", 1, None),
        ("label", 2, None),
    ]
    records = list(model.history.read())
    assert event_codec.read_sample(records[2].event) == ({"a": 1.0}, "cat", 2.0, None)
    assert event_codec.read_sample(records[3].event) == ({"a": 1.0}, "dog", 1.0, (None, {}))
    assert model.hosted.sequence == records[-1].seq


def test_a_later_sample_is_checked_as_if_the_earlier_were_learned(make: Callable[..., Model]) -> None:
    model = make()
    first, second = model.learn(Learn({"a": 1.0}, "cat"), Learn({"a": 1.0}, 1))
    assert isinstance(first, dict)
    assert isinstance(second, Exception)
    assert model.hosted.step == 1


def test_a_group_leaves_what_a_loop_leaves(make: Callable[..., Model]) -> None:
    """Refusals, duplicates and labels among them; however many samples one call of the estimator took."""
    requests: list[Request] = [
        Learn({"a": float(i % 7), "b": 0.5 * (i % 5)}, "cat" if i < 9 else f"dog {i % 2}", 1.0 + i % 2)
        for i in range(100)
    ]
    requests[30] = requests[31] = Learn({"a": 1.0, "new": 3.0}, "cat", id="e")
    requests[40] = requests[41] = Learn({"a": 1.0}, "cat", 1e300, id="poison")
    requests[60] = requests[61] = Label("t", "dog 1")
    raw = ModelSpec(hidden=(8,), standardize=False)
    group, loop = make(raw), make(raw)
    for model in (group, loop):
        model.one(Predict({"a": 3.0}, "t"))
    together, alone = group.learn(*requests), [loop.one(request) for request in requests]
    refused = [type(outcome) for outcome in together if isinstance(outcome, Exception)]
    assert refused == [NonFiniteStateError, NonFiniteStateError, AlreadyLabelledError]
    assert [type(outcome) for outcome in alone if isinstance(outcome, Exception)] == refused
    answered = [outcome for outcome in together if isinstance(outcome, dict)]
    assert answered == [outcome for outcome in alone if isinstance(outcome, dict)]
    assert [answer["step"] for answer in answered if not answer["duplicate"]] == list(range(1, 97))
    assert group.fingerprint() == loop.fingerprint()
    steps = [step for kind, step, refused in group.events() if kind in ("learn", "label") and refused is None]
    assert steps == list(range(1, 97))


def test_a_step_that_is_refused_changes_nothing(
    make: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    model.learn(*(Learn({"a": float(i)}, ["cat", "dog"][i % 2]) for i in range(6)))
    model.one(Predict({"a": 1.0}, "t"))
    before = model.fingerprint()
    learn_samples = model.hosted.estimator.learn_samples

    def refuse(samples: list[Sample]) -> list[NonFiniteStateError]:
        return [NonFiniteStateError("poison") for _ in samples]

    monkeypatch.setattr(model.hosted.estimator, "learn_samples", refuse)
    poison = Learn({"a": 9.0}, "cat", id="e")
    outcomes = model.learn(poison, poison, Label("t", "dog"))
    assert [type(outcome) for outcome in outcomes] == [NonFiniteStateError] * 3
    assert model.fingerprint() == before
    assert model.events()[-2:] == [("learn", None, "non_finite_state"), ("label", None, "non_finite_state")]
    monkeypatch.setattr(model.hosted.estimator, "learn_samples", learn_samples)
    assert model.one(poison)["duplicate"] is False  # neither the id nor the prediction was used up
    assert model.one(Label("t", "dog"))["step"] == 8


def test_an_id_is_learned_once(make: Callable[..., Model]) -> None:
    model = make()
    first = model.one(Learn({"a": 1.0, "b": 2.0}, "cat", id="e"))
    model.learn(Learn({"a": 2.0}, "dog"))
    before = model.fingerprint()
    again = model.one(Learn({"b": 2.0, "a": 1.0}, "cat", id="e"))
    assert again == {**first, "prediction": None, "loss": None, "duplicate": True}
    for other in (Learn({"a": 1.0}, "cat", id="e"), Learn({"a": 1.0, "b": 2.0}, "dog", id="e")):
        assert isinstance(model.one(other), IdConflictError)
    assert model.fingerprint() == before


def test_the_same_prediction_is_answered_again(make: Callable[..., Model]) -> None:
    model = make()
    model.learn(*(Learn({"a": float(i)}, ["cat", "dog"][i % 2]) for i in range(6)))
    given = model.one(Predict({"a": 1.0}, "t"))
    model.learn(Learn({"a": 3.0}, "cat"))
    assert model.one(Predict({"a": 1.0}, "t")) == given
    assert model.hosted.predict({"a": 1.0})["probabilities"] != given["probabilities"]
    assert model.one(Label("t", "dog"))["prediction"] == given["prediction"]


def test_a_prediction_expires(make: Callable[..., Model]) -> None:
    model = make(label_ttl=10.0)
    model.now = 0.0
    model.one(Predict({"a": 1.0}, "early"))
    model.now = 5.0
    model.one(Predict({"a": 1.0}, "late"))
    model.now = 10.0
    assert isinstance(model.one(Label("early", "cat")), UnknownIdError)
    assert model.one(Label("late", "cat"))["step"] == 1
    model.now = 14.0
    assert isinstance(model.one(Label("late", "cat")), AlreadyLabelledError)
    model.now = 15.0
    assert isinstance(model.one(Label("late", "cat")), UnknownIdError)
    model.one(Predict({"a": 2.0}, "late"))  # the id is free again


def test_the_oldest_predictions_make_room(make: Callable[..., Model]) -> None:
    model = make(max_pending=2)
    for i in range(3):
        model.one(Predict({"a": 1.0}, str(i)))
    assert isinstance(model.one(Label("0", "cat")), UnknownIdError)
    assert model.one(Label("1", "cat"))["step"] == 1


def test_pending_predictions_are_limited_in_bytes(make: Callable[..., Model]) -> None:
    model, size = make(max_pending_bytes=10_000), "v" * 1000
    for i in range(30):
        model.one(Predict({"a": 1.0, "b": size}, f"p{i:02d}"))
    sizes = [len(record.event.body) for record in model.history.read() if record.event.kind == "predict"]
    kept = 10_000 // max(sizes)
    assert model.hosted.pending == kept < 10
    assert isinstance(model.one(Label(f"p{29 - kept}", "cat")), UnknownIdError)
    assert model.one(Label(f"p{30 - kept}", "cat"))["step"] == 1
    assert model.one(Predict({"a": 1.0, "b": size}, "p29"))["id"] == "p29"  # it repeats the answer
    assert isinstance(model.one(Predict({"a": 2.0}, "p29")), IdConflictError)
    for i in range(20):  # a label frees the bytes of its prediction
        model.learn(Predict({"a": 1.0, "b": size}, f"q{i}"), Label(f"q{i}", "cat"))
        model.one(Label(f"q{i}", "cat"))
    assert model.one(Label("p29", "cat"))["step"] == 22


def test_pending_predictions_of_a_replay_and_of_a_checkpoint_are_those_of_the_model(
    make: Callable[..., Model],
) -> None:
    """Whatever the JSON of their samples is, and with a label that JSON numbers cannot hold in 64 bits."""
    model = make(max_pending_bytes=5000)
    model.now = 1000.0
    huge = 10**25
    xs: list[Any] = [{"é\n": "\U0001f600", "a": 1e16, "b": -0.0, "c": 2**53 + 1}, {"a": huge, "B": 1.0}]
    model.learn(Learn({"a": 1.0}, huge), Learn({"a": 2.0}, 7))
    for i in range(40):
        model.one(Predict(xs[i % 2], f"p{i}"))
    model.one(Label("p37", 7))
    replayed = HostedModel(SPEC, model.settings, model.clock)
    for record in list(model.history.read())[1:]:
        replayed.apply(replayed.readmit([record], replayed.estimator.preview())[0])
    restored = snapshot.restore(snapshot.take(model.hosted), model.settings, model.clock)
    pending, *others = (twin.copy_service_state()()["pending"] for twin in (model.hosted, replayed, restored))
    assert pending == others[0]
    # The JSON of a state with an integer beyond 64 bits has sorted keys.
    assert [(*each, json.loads(body)) for each, body in map(_apart, pending)] == [
        (*each, json.loads(body)) for each, body in map(_apart, others[1])
    ]
    for twin in (replayed, restored):
        assert twin.pending == model.hosted.pending
        twin.predict_pending(Predict({"a": 1.0}, "new"))
        assert report.fingerprint(twin) == model.fingerprint()


def _apart(entry: list[Any]) -> tuple[list[Any], bytes]:
    """Return the entry of a pending prediction without its body, and the body."""
    identifier, body, *rest = entry
    return [identifier, len(body), *rest], body


def test_predicting_changes_nothing(make: Callable[..., Model]) -> None:
    model = make()
    model.learn(Learn({"a": 1.0}, "cat"), Learn({"a": 2.0}, "dog"))
    before = model.fingerprint()
    model.hosted.predict({"a": 1.0, "new": 2.0, "town": "Oslo"})
    model.one(Predict({"a": None}, "t"))
    assert model.fingerprint() == before


def test_what_is_kept_is_of_the_moment_when_it_was_taken(make: Callable[..., Model]) -> None:
    """The state is written by another thread, while the model goes on."""
    model, twin = make(), make()
    for each in (model, twin):
        each.now = 1000.0
        each.learn(*(Learn({"a": float(i % 5)}, ["cat", "dog"][i % 2]) for i in range(60)))
        each.learn(Predict({"a": 1.0}, "first"), Predict({"a": 2.0}, "second"))
    later = snapshot.taking(model.hosted)
    model.learn(Label("first", "cow"), Predict({"a": 3.0}, "third"), Learn({"a": 1.0, "b": 2.0}, "cat"))
    state, expected = later(), snapshot.take(twin.hosted)
    assert state["tensors"].keys() == expected["tensors"].keys()
    assert [n for n, t in state["tensors"].items() if not torch.equal(t, expected["tensors"][n])] == []
    assert state["service"] == expected["service"]
    restored = snapshot.restore(state, model.settings, model.clock)
    assert report.fingerprint(restored) == twin.fingerprint() != model.fingerprint()
