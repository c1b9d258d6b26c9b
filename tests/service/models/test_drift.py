"""A drift is found, told and counted; what is done about it is the same however the log is learned again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from bnp_online import checkpoint
from bnp_online.checkpoint import pack, unpack
from service.errors import PositionMovedError, StorageFullError
from service.models import report, snapshot
from service.models.recovery import Recovery
from service.models.validation import Learn
from service.schemas import ModelSpec
from service.storage import event_codec
from service.storage.checkpoints import CheckpointFiles
from service.storage.interfaces import Event
from tests.service.models.test_durability import crash, forget, wait_for
from tests.support.hosted import Model
from tests.support.running import Json, Server, error, serving
from tests.support.streaming import post_lines

SMALL = {"hidden": [6], "replay": 1, "memory": 20, "seed": 1}
ACTIONS = ("forget_moments", "reset_slowest")
CHANGE, LENGTH = 320, 600


def samples(task: str = "classification", seed: int = 0) -> list[tuple[Json, Any]]:
    """Another feature decides as well, and numbers are much larger, after `CHANGE` samples."""
    rng = random.Random(seed)  # noqa: S311
    drawn = []
    for i in range(LENGTH):
        x = {"a": rng.gauss(0.0, 1.0), "b": rng.gauss(0.0, 1.0)}
        sign = 1.0 if i < CHANGE else -1.0
        y: Any = "cat" if x["a"] * (x["b"] if i >= CHANGE else 1.0) > 0 else "dog"
        drawn.append(
            (x, y if task == "classification" else sign * 100.0 * x["a"] + (0.0 if i < CHANGE else 2000.0))
        )
    return drawn


def spec(action: str = "none", task: str = "classification", **drift: Any) -> ModelSpec:
    body = {**SMALL, "task": task, "drift": {"action": action, **drift}}
    return ModelSpec.model_validate_json(event_codec.dumps(body))


@pytest.fixture
def make(tmp_path: Path) -> Any:
    made: list[Model] = []

    def one(setting: ModelSpec) -> Model:
        folder = tmp_path / f"log{len(made)}"
        folder.mkdir()
        made.append(Model(folder, setting))
        return made[-1]

    yield one
    for model in made:
        model.log.close()


def recovered(model: Model) -> Any:
    """Return the model that its log makes."""
    recovery = Recovery(model.history, CheckpointFiles(model.settings.data_dir), model.settings)
    return recovery.run()


@pytest.mark.parametrize("detector", ["adwin", "page_hinkley", "none"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_change_is_found_and_nothing_else(make: Callable[..., Model], task: str, detector: str) -> None:
    model = make(spec(task=task, detector=detector, threshold=10.0))
    model.learn(*(Learn(x, y) for x, y in samples(task)))
    found = report.describe(model.hosted)["drift"]
    if detector == "none":
        assert (found["detections"], found["last_step"]) == (0, None)
    else:
        assert model.hosted.drift.detections == found["detections"] >= 1
        assert CHANGE < found["last_step"] < CHANGE + 150
    assert (found["actions"], found["due"]) == (0, False)
    assert report.fingerprint(recovered(model)) == model.fingerprint()


def test_a_change_for_the_better_is_no_drift(make: Callable[..., Model]) -> None:
    model = make(spec())
    rng = random.Random(2)  # noqa: S311
    for i in range(800):  # labels are chance, and then are not
        a = rng.gauss(0.0, 1.0)
        model.learn(Learn({"a": a}, bool(a > 0) if i > 300 else rng.random() < 0.5))
    assert model.hosted.drift.detections == 0


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("action", ACTIONS)
def test_groups_of_any_size_act_at_the_same_steps(make: Callable[..., Model], task: str, action: str) -> None:
    plain, one, other = make(spec(task=task)), make(spec(action, task)), make(spec(action, task))
    requests = [Learn(x, y) for x, y in samples(task)]
    plain.learn(*requests)
    for request in requests:
        one.one(request)
    rng, start = random.Random(3), 0  # noqa: S311
    while start < LENGTH:
        stop = start + rng.randrange(1, 90)
        other.learn(*requests[start:stop])
        start = stop
    assert one.hosted.drift.actions >= 1
    assert one.hosted.acted == other.hosted.acted
    assert all(
        done["step"] % 32 == 0 and 0 <= done["step"] - done["detected"] < 32 for done in one.hosted.acted
    )
    assert one.fingerprint() == other.fingerprint() == report.fingerprint(recovered(other))
    assert plain.fingerprint()["model_sha256"] != one.fingerprint()["model_sha256"]


def test_an_action_waits_for_a_sample_that_is_learned(make: Callable[..., Model]) -> None:
    model = make(spec("forget_moments"))
    left = iter(Learn(x, y) for x, y in samples())
    while not model.hosted.drift.ready(model.hosted.step):
        model.one(next(left))
    before = model.fingerprint()
    assert isinstance(model.one(Learn({"a": 1.0}, "cat", 1e300)), Exception)
    assert model.fingerprint() == before == report.fingerprint(recovered(model))
    assert model.hosted.drift.due
    model.one(next(left))
    assert (model.hosted.drift.due, model.hosted.drift.actions) == (False, 1)
    assert model.fingerprint() == report.fingerprint(recovered(model))


def test_a_checkpoint_holds_the_detector_and_an_older_one_begins_anew(make: Callable[..., Model]) -> None:
    model = make(spec("reset_slowest"))
    requests = [Learn(x, y) for x, y in samples()]
    model.learn(*requests[: CHANGE + 10])
    state = checkpoint.loads(checkpoint.dumps(snapshot.take(model.hosted)))
    restored = snapshot.restore(state, model.settings, model.clock)
    assert report.fingerprint(restored) == model.fingerprint()
    assert restored.drift.state_dict() == model.hosted.drift.state_dict()
    beside = event_codec.loads(unpack(state["tensors"]["service"]))
    del beside["drift"], state["service"]["spec"]["drift"]
    state["tensors"]["service"] = pack(event_codec.dumps(beside))
    old = snapshot.restore(state, model.settings, model.clock)
    assert old.estimator.fingerprint() == model.hosted.estimator.fingerprint()
    assert (old.spec.drift.detector, old.spec.drift.action, old.drift.detections) == ("adwin", "none", 0)


def lines(start: int = 0, stop: int = LENGTH, left_out: Collection[int] = ()) -> list[bytes]:
    return [
        event_codec.dumps({"x": x, "y": y, "id": f"e{i}"}) + b"\n"
        for i, (x, y) in enumerate(samples())
        if start <= i < stop and i not in left_out
    ]


def actions(server: Server) -> list[int]:
    logged = server.get("/models/default/events?limit=1000")["events"]
    return [event["step"] for event in logged if event["kind"] == "action"]


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_is_told_logged_and_taken_after_a_checkpoint(tmp_path: Path, action: str) -> None:
    with serving(tmp_path / "data", default_model=spec(action)) as server:
        post_lines(server, lines())
        described = server.get("/models/default")["drift"]
        taken = actions(server)
        assert described["setting"]["action"] == action
        assert described["actions"] == len(taken) >= 1
        told = [each for each in server.get("/models/default/history")["marks"] if each["kind"] == "drift"]
        assert told[-1]["step"] == described["last_step"]
        assert len(told) == described["detections"]
        wait_for(lambda: len(server.get("/models/default/checkpoints")["checkpoints"]) == len(taken))
        kept = server.get("/models/default/checkpoints")["checkpoints"]
        assert [each["step"] for each in kept] == taken[::-1]
        before = server.fingerprint()
        killed = crash(server, tmp_path / "killed")
        shutil.rmtree(crash(server, tmp_path / "bare") / "checkpoints")
    for folder in (killed, tmp_path / "bare"):
        with serving(folder, default_model=spec(action)) as server:
            assert server.fingerprint() == before
            post_lines(server, lines(0, 1))  # a group, in which nothing is left to be noted
            assert actions(server) == taken
    # Back to before the action, it is undone for good: it is not taken again with the next sample.
    with serving(killed, default_model=spec(action)) as server:
        body = {"checkpoint": kept[-1]["checkpoint"]}
        server.client.post("/models/default/rollback", json=body).raise_for_status()
        assert server.get("/models/default")["drift"]["due"] is False
        post_lines(server, lines(taken[0], taken[0] + 5))
        undone = server.fingerprint()
        assert actions(server) == []
        again = crash(server, tmp_path / "again")
    with serving(again, default_model=spec(action)) as server:
        assert server.fingerprint() == undone


def test_an_action_that_was_not_noted_is_noted_after_the_next_start(tmp_path: Path) -> None:
    """As of a server that was killed in between; and unlearning may let it be taken elsewhere."""
    with serving(tmp_path / "data", default_model=spec("reset_slowest")) as server:
        worker = server.registry.get()
        append = worker.history.log.append

        def refuse(groups: Any) -> list[int]:
            """Refuse the groups with actions; the writer commits the others of the transaction."""
            refused = [
                i
                for i, group in enumerate(groups)
                if any(isinstance(event, Event) and event.kind == "action" for event in group.events)
            ]
            if refused:
                raise PositionMovedError(refused)
            return append(groups)

        worker.history.log.append = refuse  # type: ignore[method-assign]
        answers = post_lines(server, lines())
        assert all("step" in answer for answer in answers)
        assert actions(server) == []
        expected, killed = server.fingerprint(), crash(server, tmp_path / "killed")
        worker.history.log.append = append  # type: ignore[method-assign]
    with serving(killed, default_model=spec("reset_slowest")) as server:
        assert server.fingerprint() == expected
        post_lines(server, lines(0, 1))
        described = server.get("/models/default")["drift"]
        wait_for(lambda: len(actions(server)) == described["actions"])


@pytest.mark.parametrize("action", ACTIONS)
def test_unlearning_acts_where_a_server_does_that_never_saw_the_samples(tmp_path: Path, action: str) -> None:
    gone = {5, *range(100, 140), *range(CHANGE, CHANGE + 10)}
    with serving(tmp_path / "never", default_model=spec(action)) as server:
        post_lines(server, lines(left_out=gone))
        expected, taken = server.fingerprint(), actions(server)
    with serving(tmp_path / "data", default_model=spec(action), checkpoint_every=100) as server:
        post_lines(server, lines())
        others = actions(server)
        forget(server, *(f"e{i}" for i in gone))
        assert server.fingerprint() == expected
        assert others != taken
        post_lines(server, lines(left_out=gone)[:1])
        assert set(taken) <= set(actions(server))
        killed = crash(server, tmp_path / "killed")
    with serving(killed, default_model=spec(action)) as server:
        assert server.fingerprint() == expected


def test_how_a_model_is_watched_may_change_while_it_lives(tmp_path: Path) -> None:
    with serving(tmp_path / "data", default_model=spec(detector="none")) as server:
        post_lines(server, lines(0, 100))
        assert server.get("/models/default")["spec"]["drift"]["detector"] == "none"
        for bad in ({"detector": "kswin"}, {"delta": 0.0}, {"delta": "x"}, {"threshold": 0}, {"sigma": 1}):
            answer = server.client.patch("/models/default", json={"drift": bad})
            assert error(answer)[0] == 422, bad
        setting = {"detector": "page_hinkley", "threshold": 20, "action": "forget_moments"}
        changed = server.client.patch("/models/default", json={"drift": setting}).json()
        assert changed["spec"]["drift"] == changed["drift"]["setting"] == {**setting, "delta": None}
        post_lines(server, lines(100))
        found = server.get("/models/default")["drift"]
        assert found["detections"] >= 1
        assert found["actions"] >= 1
        server.client.patch("/models/default", json={"drift": {**setting, "action": "none"}})
        assert server.get("/models/default")["drift"]["detections"] == found["detections"]
        before = server.fingerprint()
        exported = server.client.get("/models/default/export").content
        killed = crash(server, tmp_path / "killed")
        shutil.rmtree(killed / "checkpoints")
        put = server.client.put(
            "/models/default/import", content=exported, headers={"content-type": "application/octet-stream"}
        ).json()
        assert put["drift"]["setting"]["detector"] == "page_hinkley"
        assert put["drift"]["detections"] == 0
    with serving(killed, default_model=spec(detector="none")) as server:
        assert server.fingerprint() == before


def test_a_change_that_cannot_be_logged_changes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "data", default_model=spec()) as server:
        post_lines(server, lines(0, 100))
        before, worker = server.fingerprint(), server.registry.get()
        append = worker.history.log.append

        def refuse(groups: Any) -> list[int]:
            raise StorageFullError("full")

        worker.history.log.append = refuse  # type: ignore[method-assign]
        answer = server.client.patch("/models/default", json={"drift": {"detector": "page_hinkley"}})
        assert error(answer)[1] == "storage_full"
        worker.history.log.append = append  # type: ignore[method-assign]
        assert server.fingerprint() == before
        assert server.get("/models/default")["drift"]["setting"]["detector"] == "adwin"


@pytest.mark.parametrize(
    ("drift", "field"),
    [
        ({"delta": 5}, "drift.delta"),
        ({"action": "nothing"}, "drift.action"),
        ({"detector": 1}, "drift.detector"),
        ({"window": 3}, "drift.window"),
        (3, "drift"),
    ],
)
def test_what_is_wrong_in_the_setting_is_named(serve: Callable[..., Server], drift: Any, field: str) -> None:
    server = serve()
    before = server.fingerprint()
    assert error(server.post("/models", name="other", drift=drift)) == (422, "invalid_spec", field)
    answer = server.client.patch("/models/default", json={"drift": drift})
    assert error(answer) == (422, "invalid_spec", field)
    assert server.fingerprint() == before
