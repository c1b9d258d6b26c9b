"""A label judges the experts by what they predicted at the place of its prediction in the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnp_online import BNPClassifier, BNPRegressor
from service.models import snapshot
from service.models.hosted import HostedModel
from service.models.validation import Label, Learn, Predict
from service.schemas import ModelSpec
from tests.service.models.test_durability import crash, forget, samples
from tests.support.hosted import Model
from tests.support.replay import Replayer, read_log
from tests.support.running import Json, Server, serving
from tests.support.server_process import wait_until

#: Between a prediction and its label.
DELAY = 8
SPEC: dict[str, Any] = {"hidden": (6,), "replay": 1, "memory": 30}
NUMBERS = {**SPEC, "task": "regression", "intervals": 1}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Model]]:
    made: list[Model] = []

    def one(spec: Json = SPEC, **settings: Any) -> Model:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Model(folder, ModelSpec(**spec), **settings))
        return made[-1]

    yield one
    for model in made:
        model.log.close()


def events(count: int, task: str = "classification") -> Iterator[Predict | Label | Learn]:
    """Every third sample has its label at once; the others are predicted, and labelled later."""
    late = deque[Label]()
    for i, (x, y) in enumerate(samples(count)):
        y = float(len(y) + x["a"]) if task == "regression" else y
        if i % 3 == 0:
            yield Learn(x, y, 1.0)
        else:
            yield Predict(x, f"p{i}")
            late.append(Label(f"p{i}", y))
        if len(late) > DELAY:
            yield late.popleft()
    yield from late


def grouped(requests: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Groups in which no label is that of a prediction of the same group."""
    group: list[Any] = []
    for request in requests:
        predicted = {each.id for each in group if isinstance(each, Predict)}
        if group and (len(group) == size or (isinstance(request, Label) and request.id in predicted)):
            yield group
            group = []
        group.append(request)
    yield group


@pytest.mark.parametrize("spec", [SPEC, NUMBERS], ids=["classes", "numbers"])
def test_the_model_is_that_of_the_library(make: Callable[..., Model], spec: Json) -> None:
    model, task = make(spec), spec.get("task", "classification")
    options = {name: value for name, value in spec.items() if name != "task"}
    twin: Any = (BNPRegressor if task == "regression" else BNPClassifier)(**options)
    at_arrival = type(twin)(**options)
    waiting: dict[str, Any] = {}
    for request in events(90, task):
        model.one(request)
        if isinstance(request, Predict):
            waiting[request.id] = request.x, twin.predict_experts_one(request.x)
        elif isinstance(request, Label):
            x, given = waiting.pop(request.id)
            twin.learn_one(x, request.y, given=given)
            at_arrival.learn_one(x, request.y)
        else:
            twin.learn_one(request.x, request.y)
            at_arrival.learn_one(request.x, request.y)
    assert model.hosted.estimator.fingerprint() == twin.fingerprint() != at_arrival.fingerprint()


@pytest.mark.parametrize("spec", [SPEC, NUMBERS, {**SPEC, "learner": 1}], ids=["classes", "numbers", "first"])
def test_groups_and_replays_give_the_same_bits(make: Callable[..., Model], spec: Json) -> None:
    """Replays from the log alone, and from a checkpoint between prediction and label."""
    model = make({**spec, "drift": {"detector": "page_hinkley", "threshold": 3.0, "action": "reset_slowest"}})
    kept: Any = None
    for group in grouped(events(140, spec.get("task", "classification")), 7):
        model.learn(*group)
        if kept is None and model.hosted.step > 40:
            kept = snapshot.take(model.hosted)
    records = list(model.history.read())[1:]
    whole = HostedModel(model.hosted.spec, model.settings, model.clock)
    one_by_one = HostedModel(model.hosted.spec, model.settings, model.clock)
    continued = snapshot.restore(kept, model.settings, model.clock)
    whole.apply(whole.readmit(records, whole.estimator.preview())[0])
    for record in records:
        one_by_one.apply(one_by_one.readmit([record], one_by_one.estimator.preview())[0])
    continued.apply(
        continued.readmit(
            [each for each in records if each.seq > continued.sequence], continued.estimator.preview()
        )[0]
    )
    for replayed in (whole, one_by_one, continued):
        assert replayed.estimator.fingerprint() == model.hosted.estimator.fingerprint()
        state, expected = replayed.copy_service_state()(), model.hosted.copy_service_state()()
        del state["shares"], expected["shares"]  # their steps are those of groups
        assert state["counts"].pop("predicted") <= expected["counts"].pop("predicted")
        assert state == expected


def test_beyond_the_limit_the_experts_predict_again(make: Callable[..., Model]) -> None:
    """What the oldest predicted is dropped before the predictions themselves."""

    def predicted(**settings: Any) -> Model:
        model = make(**settings)
        for x, y in samples(30):
            model.one(Learn(x, y))
        for i, x in enumerate(xs):
            model.one(Predict(x, f"p{i}"))
        return model

    xs = [{"a": 0.1 * i} for i in range(9)]
    whole = predicted().hosted._pending
    model = predicted(max_pending_bytes=whole._bytes + whole._expert_bytes // 2)
    pending = model.hosted._pending
    assert len(pending) == len(whole) == 9
    kept = [pending.experts(f"p{i}") for i in range(9)]
    assert kept == [None] * 5 + [whole.experts(f"p{i}") for i in range(5, 9)]
    twin = BNPClassifier(**SPEC)
    for x, y in samples(30):
        twin.learn_one(x, y)
    given = twin.predict_experts_one(xs[8])
    model.learn(Label("p0", "cat"))
    twin.learn_one(xs[0], "cat")
    model.learn(Label("p8", "dog"))
    twin.learn_one(xs[8], "dog", given=given)
    assert model.hosted.estimator.fingerprint() == twin.fingerprint()


def test_a_label_that_was_accepted_in_time_finds_what_the_experts_predicted(
    make: Callable[..., Model],
) -> None:
    """The clock drops nothing between its check and its application."""
    model = make(label_ttl=10.0)
    model.now = 0.0
    for x, y in samples(30):
        model.one(Learn(x, y))
    model.one(Predict({"a": 1.0}, "p"))
    model.now = 9.999
    validator = model.hosted.validator(model.hosted.predict_pending, model.refusals)
    [entry] = validator.take([Label("p", "cat")])
    model.now = 10.001
    assert isinstance(validator.take([Label("p", "cat")])[0].outcome(), Exception)  # type: ignore[union-attr]
    assert model.hosted._pending.experts("p") is not None
    twin = BNPClassifier(**SPEC)
    for x, y in samples(30):
        twin.learn_one(x, y)
    twin.learn_one({"a": 1.0}, "cat", given=twin.predict_experts_one({"a": 1.0}))
    model.hosted.apply([entry])
    assert model.hosted.estimator.fingerprint() == twin.fingerprint()


def send(server: Server, count: int, leave_out: frozenset[str] = frozenset(), model: str = "default") -> None:
    """Send requests one by one."""
    for i, request in enumerate(events(count)):
        if isinstance(request, Learn):
            if f"e{i}" not in leave_out:
                server.learn(request.x, request.y, id=f"e{i}", model=model)
        elif request.id in leave_out:
            continue
        elif isinstance(request, Predict):
            server.predict(request.x, id=request.id, model=model)
        else:
            server.label(request.id, request.y, model=model)


def test_an_upgrade_gives_the_model_that_a_new_one_would_be(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.create(**{**SPEC, "name": "m", "learner": 1})
        server.create(**{**SPEC, "name": "new"})
        send(server, 60, model="m")
        send(server, 60, model="new")
        server.client.post("/models/m/upgrade").raise_for_status()
        wait_until(lambda: server.get("/models/m")["state"] == "ready")
        assert server.fingerprint("m")["model_sha256"] == server.fingerprint("new")["model_sha256"]


def learns(count: int) -> list[str]:
    """Return the ids of the samples that `send` sends with their labels."""
    return [f"e{i}" for i, request in enumerate(events(count)) if isinstance(request, Learn)]


def test_recovery_rollback_and_unlearning_relearn_the_same_bits(tmp_path: Path) -> None:
    settings: Json = {"default_model": ModelSpec(**SPEC), "checkpoint_every": 35}
    gone = frozenset({learns(90)[4], learns(90)[20], "p31"})
    with serving(tmp_path / "never", **settings) as server:
        send(server, 90, gone)
        expected = server.fingerprint()["model_sha256"]
    with serving(tmp_path / "data", **settings) as server:
        send(server, 90)
        before = server.fingerprint()
        killed = crash(server, tmp_path / "killed")
        replica, differences = Replayer(killed).run(read_log(killed), "default")
        assert (replica.fingerprint(), differences) == (before, [])
        server.client.post("/models/default/rollback", json={"step": 52}).raise_for_status()
        rolled = server.fingerprint()
        copy = crash(server, tmp_path / "rolled")
        replica, differences = Replayer(copy).run(read_log(copy), "default")
        assert (replica.fingerprint(), differences) == (rolled, [])
    with serving(killed, **settings) as server:
        assert server.fingerprint() == before
        forget(server, *gone)
        assert server.fingerprint()["model_sha256"] == expected
