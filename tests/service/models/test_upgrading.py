"""Upgrade of a model: it becomes the model that a new one would be, and serves and learns meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.errors import StorageFullError
from service.models.recovery import Recovery
from service.storage import event_codec
from service.storage.history import History
from service.storage.interfaces import Event
from service.storage.sqlite import SqliteLog
from tests.support import turning
from tests.support.exposition import samples, text_of
from tests.support.running import Json, Server, error, serving
from tests.support.server_process import wait_until
from tests.support.turning import DRIFTING, learn, sample

Serve = Callable[..., Server]
SPEC: dict[str, Any] = {"hidden": [5], "replay": 1, "memory": 60, "seed": 3}


def old(server: Server, samples: Sequence[int], **spec: Any) -> None:
    """Create the model ``m`` of an earlier version."""
    server.create(**{**SPEC, "name": "m", "learner": 1, **spec})
    learn(server, samples)


def upgrade(server: Server, query: str = "", rebuilding: bool = True) -> None:
    answer = server.client.post(f"/models/m/upgrade{query}")
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"model": "m", "learner": 2, "rebuilding": rebuilding}


def ready(server: Server) -> Json:
    wait_until(lambda: server.get("/models/m")["state"] == "ready")
    return server.get("/models/m")


def fresh(server: Server, numbers: Sequence[int], **spec: Any) -> Json:
    """Return the fingerprint of a new model of this kind that learned samples."""
    return turning.fresh(server, numbers, **{**SPEC, **spec})


def kinds(server: Server) -> list[str]:
    events = server.get("/models/m/events?limit=1000")["events"]
    return [event["kind"] for event in events if event["kind"] not in ("learn", "action")]


def measured(server: Server) -> dict[str, float]:
    """Return the events of an upgrade as the metrics tell them."""
    found = samples(text_of(server)).items()
    return {
        dict(labels)["events"]: value for (name, labels), value in found if name.endswith("upgrade_events")
    }


@contextmanager
def relearning(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold an upgrade after it has begun; yield an event that is set then."""
    begun, release, run_on = threading.Event(), threading.Event(), Recovery.run_on

    def held(self: Recovery, model: Any, upto: Any = None, advance: Any = None, upgrade: Any = None) -> Any:
        if upgrade is not None and upto is not None:
            begun.set()
            assert release.wait(60)
        return run_on(self, model, upto, advance or (lambda done: None), upgrade)

    with monkeypatch.context() as patch:
        patch.setattr(Recovery, "run_on", held)
        try:
            yield begun
        finally:
            release.set()


@pytest.mark.parametrize("spec", [{}, DRIFTING])
def test_an_upgraded_model_is_that_which_a_new_one_would_be(serve: Serve, spec: Json) -> None:
    server = serve()
    old(server, range(200), **spec)
    before = server.fingerprint("m")
    assert server.get("/models/m")["spec"]["learner"] == 1
    upgrade(server)
    described = ready(server)
    assert (described["spec"]["learner"], described["step"], described["upgrade"]) == (2, 200, None)
    assert kinds(server) == ["create", "upgrade", "upgraded"]
    learn(server, range(200, 230))
    expected = fresh(server, range(230), **spec)
    assert server.fingerprint("m") == expected
    upgrade(server, rebuilding=False)  # nothing is left to do
    assert kinds(server) == ["create", "upgrade", "upgraded"]

    for step in (210, 200):  # also the state at the very end of the upgrade
        server.post("/models/m/rollback", step=step).raise_for_status()
        assert server.fingerprint("m") == fresh(server, range(step), **spec)
    server.post("/models/m/rollback", step=199).raise_for_status()
    assert server.get("/models/m")["spec"]["learner"] == 1
    if not spec:  # a rollback omits a drift response that is due
        learn(server, [199])
        assert server.fingerprint("m") == before


def test_the_model_learns_and_is_changed_meanwhile(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    old(server, range(80), max_features=3)
    server.client.patch("/models/m", json={"max_features": 50, "max_classes": 5}).raise_for_status()
    with relearning(monkeypatch) as begun:
        upgrade(server)
        assert begun.wait(30)
        described = server.get("/models/m")
        assert (described["state"], described["spec"]["learner"]) == ("rebuilding", 1)
        assert described["upgrade"] == {"learner": 2, "done": 0, "events": 81}
        assert measured(server) == {"all": 81, "done": 0}
        upgrade(server)  # it is in progress
        learn(server, range(80, 100))
        server.client.patch("/models/m", json={"max_classes": 7}).raise_for_status()
        server.predict(sample(100)[0], model="m", id="later")
        assert server.get("/models/m")["step"] == 100
    described = ready(server)
    assert measured(server) == {}
    assert (described["spec"]["max_classes"], described["spec"]["max_features"]) == (7, 50)
    assert described["pending"] == 1
    assert server.fingerprint("m") == fresh(server, range(100))
    assert kinds(server) == ["create", "patch", "upgrade", "patch", "predict", "upgraded"]


def test_a_prediction_with_an_id_is_labelled_across_an_upgrade(serve: Serve) -> None:
    server = serve()
    old(server, range(50))
    given = server.predict(sample(50)[0], model="m", id="p")
    upgrade(server)
    ready(server)
    answer = server.label("p", "cat", model="m")
    assert (answer["prediction"], answer["step"]) == (given["prediction"], 51)
    server.create(**{**SPEC, "name": "new"})
    learn(server, range(50), "new")
    server.learn(sample(50)[0], "cat", model="new")
    assert server.fingerprint("m")["model_sha256"] == server.fingerprint("new")["model_sha256"]


def test_samples_are_unlearned_during_and_after_an_upgrade(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(checkpoint_every=40)
    old(server, range(100))
    with relearning(monkeypatch) as begun:
        upgrade(server)
        assert begun.wait(30)
        server.post("/models/m/forget", ids=["s7", "s90"]).raise_for_status()
    assert ready(server)["spec"]["learner"] == 2
    rest = [i for i in range(100) if i not in (7, 90)]
    assert server.fingerprint("m") == fresh(server, rest)
    learn(server, range(100, 120))
    server.post("/models/m/forget", ids=["s3", "s110"]).raise_for_status()
    ready(server)
    rest = [i for i in range(120) if i not in (3, 7, 90, 110)]
    assert server.fingerprint("m") == fresh(server, rest)
    server.post("/models/m/rollback", step=50).raise_for_status()
    assert server.get("/models/m")["spec"]["learner"] == 1
    assert server.fingerprint("m") == fresh(server, rest[:50], learner=1)
    steps = [event["step"] for event in server.get("/models/m/events?limit=1000")["events"]]
    assert steps[:51] == [0, *range(1, 51)]


@pytest.mark.parametrize("step", [60, 100])
def test_a_rollback_cancels_an_upgrade(serve: Serve, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    server = serve()
    old(server, range(100))
    with relearning(monkeypatch) as begun:
        upgrade(server)
        assert begun.wait(30)
        server.post("/models/m/rollback", step=step).raise_for_status()
        described = server.get("/models/m")
        assert (described["state"], described["upgrade"]) == ("ready", None)
    learn(server, range(100, 120))
    assert server.get("/models/m")["spec"]["learner"] == 1
    upgrade(server)  # a second request
    ready(server)
    assert server.fingerprint("m") == fresh(server, [*range(step), *range(100, 120)])


def test_an_import_cancels_an_upgrade_and_its_samples_are_not_in_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    old(server, range(60))
    file = server.client.get("/models/m/export").content
    octets = {"content-type": "application/octet-stream"}
    with relearning(monkeypatch) as begun:
        upgrade(server)
        assert begun.wait(30)
        server.client.put("/models/m/import", content=file, headers=octets).raise_for_status()
        assert server.get("/models/m")["upgrade"] is None
    learn(server, range(100, 130))
    answer = server.client.post("/models/m/upgrade")
    assert error(answer)[:2] == (410, "not_kept")
    assert "30 of the 90 samples" in answer.json()["error"]["message"]
    upgrade(server, "?kept=true")
    assert ready(server)["step"] == 30
    assert server.fingerprint("m") == fresh(server, range(100, 130))
    server.post("/models/m/rollback", step=89).raise_for_status()  # before the upgrade
    assert server.get("/models/m")["spec"]["learner"] == 1


def test_what_is_kept_of_a_pruned_log_is_relearned_on_request(serve: Serve, tmp_path: Path) -> None:
    with serving(tmp_path / "data", keep_checkpoints=1, retain_events=40) as before:
        old(before, range(100))
        before.client.post("/models/m/checkpoints").raise_for_status()
    server = serve()
    learn(server, range(100, 110))
    answer = server.client.post("/models/m/upgrade")
    assert error(answer)[:2] == (410, "not_kept")
    message = answer.json()["error"]["message"]
    assert "50 of the 110 samples" in message
    assert "kept=true (--kept)" in message
    assert kinds(server) == ["create"]
    upgrade(server, "?kept=true")
    assert ready(server)["step"] == 50
    expected = fresh(server, range(60, 110))
    assert server.fingerprint("m") == expected
    server.post("/models/m/rollback", step=105).raise_for_status()
    assert server.get("/models/m")["spec"]["learner"] == 1
    learn(server, range(105, 110))
    upgrade(server, "?kept=true")
    ready(server)
    assert server.fingerprint("m") == expected
    server.post("/models/m/forget", ids=["s70"]).raise_for_status()
    ready(server)
    expected = fresh(server, [i for i in range(60, 110) if i != 70])
    assert server.fingerprint("m") == expected


def test_the_samples_stay_until_they_are_relearned(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(keep_checkpoints=1, retain_events=0, checkpoint_every=20)
    old(server, range(15))
    with relearning(monkeypatch) as begun:
        upgrade(server)
        assert begun.wait(30)
        learn(server, range(15, 90))  # with checkpoints, after which no sample would be kept
        server.client.post("/models/m/checkpoints").raise_for_status()
    ready(server)
    assert server.fingerprint("m") == fresh(server, range(90))
    assert len(server.get("/models/m/checkpoints")["checkpoints"]) <= 2


def test_a_start_continues_an_upgrade(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    old(server, range(70))
    with relearning(monkeypatch) as begun:
        upgrade(server)
        assert begun.wait(30)
        server.ask_to_stop()
    server.stop()
    with serving(tmp_path / "data") as again:
        assert ready(again)["spec"]["learner"] == 2
        assert again.fingerprint("m") == fresh(again, range(70))


def test_an_upgrade_that_makes_no_sense_is_refused(serve: Serve) -> None:
    server = serve()
    server.create(name="m", network="cnn", input_shape=[1, 6, 6], hidden=[3], learner=1)
    answer = server.client.post("/models/m/upgrade")
    assert error(answer)[:2] == (422, "invalid_spec")
    assert "nothing to upgrade" in answer.json()["error"]["message"]
    assert error(server.client.post("/models/unknown/upgrade"))[:2] == (404, "unknown_model")


def test_a_server_may_not_allow_the_upgraded_model(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    old(server, range(10), max_features=10, max_classes=3)
    server.stop()
    monkeypatch.setattr("bnp_online.engines.base.LINEAR_RATES", (0.1,) * 50)  # it has more weights
    with serving(tmp_path / "data", max_parameters=1000) as again:
        assert again.fingerprint("m")["step"] == 10
        answer = again.client.post("/models/m/upgrade")
        assert error(answer) == (422, "invalid_spec", "hidden")
        assert again.get("/models/m")["state"] == "ready"


def test_a_model_is_deleted_during_an_upgrade(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    old(server, range(60))
    with relearning(monkeypatch) as begun:
        upgrade(server)
        assert begun.wait(30)
        server.client.delete("/models/m").raise_for_status()
    old(server, range(20))  # another model of this name
    upgrade(server)
    ready(server)
    assert server.fingerprint("m") == fresh(server, range(20))


def test_an_upgrade_waits_for_space_on_the_disk(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples are not relearned again; the model of before serves and learns."""
    server = serve()
    old(server, range(60))
    append, begin = SqliteLog.append, Recovery.begin
    free, tried, begun = threading.Event(), threading.Event(), list[int]()

    def full(self: SqliteLog, groups: Any) -> list[int]:
        first = groups[0].events[0]
        if isinstance(first, Event) and first.kind == "upgraded" and not free.is_set():
            tried.set()
            raise StorageFullError("the disk is full")
        return append(self, groups)

    def counted(self: Recovery, upgrade: Any) -> Any:
        begun.append(upgrade.seq)
        return begin(self, upgrade)

    monkeypatch.setattr(SqliteLog, "append", full)
    monkeypatch.setattr(Recovery, "begin", counted)
    monkeypatch.setattr("service.models.upgrading._SHORTEST", 0.05)
    upgrade(server)
    assert tried.wait(30)
    learn(server, range(60, 70))
    described = server.get("/models/m")
    assert (described["state"], described["spec"]["learner"]) == ("rebuilding", 1)
    free.set()
    ready(server)
    assert len(begun) == 1
    assert kinds(server) == ["create", "upgrade", "upgraded"]
    assert server.fingerprint("m") == fresh(server, range(70))


def test_an_upgrade_without_its_samples_is_not_continued(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path)) as log:
        spec = {"name": "m"}
        model = log.create(Event("create", event_codec.dumps(spec), step=0))
        history = History(log, model, new=True)
        learned = [history.append(Event("learn", b"{}", step=i)) for i in (1, 2)]
        history.request_upgrade({**spec, "learner": 2}, model, 0)
        assert History(log, model).upgrading == history.upgrading
        log.prune(model, learned[1], 0, 0, 0.0)
        assert History(log, model).upgrading is None
