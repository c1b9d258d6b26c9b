"""Removals that were committed: the answer says so, whatever fails later, and the server completes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bnp_online.client import Client
from service.errors import DamagedEventError, StorageFailedError, StorageFullError
from service.models import operations, removals
from service.models.recovery import Recovery
from service.storage.checkpoints import CheckpointFiles
from service.storage.sqlite import SqliteLog
from tests.support.running import Json, Server, error
from tests.support.server_process import wait_until

Serve = Callable[..., Server]


@contextmanager
def failing(owner: type, name: str, failure: Exception, times: int | None = None) -> Iterator[list[int]]:
    """Let a method raise, for some calls or for all during the block; yield the number of its calls."""
    method, calls = getattr(owner, name), [0]

    def fail(self: Any, *args: Any, **options: Any) -> Any:
        calls[0] += 1
        if times is None or calls[0] <= times:
            raise failure
        return method(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield calls


FULL = StorageFullError("the disk is full")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "_SHORTEST", 0.02)
    monkeypatch.setattr(operations, "_SHORTEST", 0.02)


def forget(server: Server, *ids: str) -> Json:
    answer = server.post("/models/default/forget", ids=ids)
    assert answer.status_code == 202, answer.text
    body: Json = answer.json()
    return body


def state(server: Server) -> str:
    return str(server.get("/models/default")["state"])


def unerased(server: Server) -> bool:
    lines = server.client.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("bnp_log_unerased ")]
    return line.split()[1] == "1.0"


def contents(server: Server) -> bytes:
    folder: Path = server.app.state.settings.data_dir
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_deleted_model_is_gone_though_its_data_is_erased_later(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "service.models.removals")
    server = serve()
    for i in range(20):
        server.learn({"secret": "Secret-Content"}, "cat", id=f"Secret-{i}")
    server.client.post("/models/default/checkpoints").raise_for_status()
    with failing(SqliteLog, "erase", FULL) as calls:
        answer = server.client.delete("/models/default")
        assert (answer.status_code, answer.json()) == (202, {"model": "default", "erased": False})
        assert error(server.client.get("/models/default"))[:2] == (404, "unknown_model")
        assert error(server.client.delete("/models/default"))[:2] == (404, "unknown_model")
        assert error(server.post("/learn", x={"a": 1}, y="cat"))[:2] == (404, "unknown_model")
        assert unerased(server)
        wait_until(lambda: calls[0] > 5)
        server.create(name="default", hidden=[3])  # the name is free
        assert server.learn({"a": 1}, "cat", id="Secret-1")["step"] == 1
        server.client.post("/models/default/checkpoints").raise_for_status()
    wait_until(lambda: not unerased(server))
    assert b"Secret-Content" not in contents(server)
    assert contents(server).count(b"Secret-") == contents(server).count(b"Secret-1")
    assert (state(server), server.get("/models/default")["step"]) == ("ready", 1)

    def said() -> list[tuple[str, str]]:
        records = [each for each in caplog.records if "removed data" in each.getMessage()]
        return [(each.levelname, each.getMessage()) for each in records]

    wait_until(lambda: len(said()) > 1)
    assert said() == [
        ("WARNING", "cannot erase removed data now, trying again: the disk is full"),
        ("INFO", "all removed data is erased"),
    ]


def test_the_clients_learn_that_data_is_erased_later(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        client.create("a")
        client.create("b")
        assert client.delete("a") is True
        with failing(SqliteLog, "erase", FULL):
            assert client.delete("b") is False
            answer = server.client.request(
                "DELETE",
                "/api/model/",
                content=b"model=default",
                headers={"content-type": "application/x-www-form-urlencoded"},
            )
            assert (answer.status_code, answer.json()) == (202, "Successful delete.")


def test_a_start_completes_a_deletion(serve: Serve) -> None:
    server = serve()
    server.learn({"secret": "Secret-Content"}, "cat", id="Secret-Id")
    with failing(SqliteLog, "erase", FULL):
        assert server.client.delete("/models/default").status_code == 202
        server.stop()
        server = serve()  # it serves, and tries again
        assert unerased(server)
        assert b"Secret-Content" in contents(server)
        assert server.get("/models")["models"] == []
    wait_until(lambda: not unerased(server))
    assert b"Secret" not in contents(server)


def test_a_refused_deletion_leaves_all_operations_available(serve: Serve) -> None:
    server = serve()
    for i in range(10):
        server.learn({"a": i}, "cat", id=f"e{i}")
    with failing(SqliteLog, "drop", FULL):
        assert error(server.client.delete("/models/default"))[:2] == (503, "storage_full")
    assert server.post("/models/default/rollback", step=8).json()["step"] == 8
    assert forget(server, "e3")["forgotten"] == 1
    wait_until(lambda: state(server) == "ready")
    assert server.get("/models/default")["step"] == 7
    assert server.client.post("/models/default/checkpoints").status_code == 201


def test_a_refused_deletion_does_not_cancel_a_rebuild(serve: Serve) -> None:
    server = serve()
    for i in range(10):
        server.learn({"a": i}, "cat", id=f"e{i}")
    with failing(Recovery, "run", StorageFailedError("not now")) as calls:
        forget(server, "e3")
        wait_until(lambda: calls[0] > 2)
        with failing(SqliteLog, "drop", FULL):
            assert error(server.client.delete("/models/default"))[:2] == (503, "storage_full")
    wait_until(lambda: state(server) == "ready")
    assert server.get("/models/default")["step"] == 9


@pytest.mark.parametrize("current", [True, False])
def test_unlearning_is_answered_as_done_and_completed_later(serve: Serve, current: bool) -> None:
    server = serve()
    for i in range(10):
        server.learn({"a": f"Secret-{i}-"}, "cat", id=f"e{i}")
    server.client.post("/models/default/checkpoints").raise_for_status()
    if not current:
        server.post("/models/default/rollback", step=3).raise_for_status()
    with failing(SqliteLog, "erase", FULL) as calls:
        assert forget(server, "e5") == {"model": "default", "forgotten": 1, "rebuilding": True}
        wait_until(lambda: calls[0] > 5)
        assert forget(server, "e5") == {"model": "default", "forgotten": 0, "rebuilding": True}
        assert state(server) == "rebuilding"
        server.learn({"a": 1}, "cat")
        wait_until(lambda: server.client.post("/models/default/checkpoints").status_code == 201)
        assert state(server) == "rebuilding"
    wait_until(lambda: state(server) == "ready")
    assert not unerased(server)
    assert b"Secret-5-" not in contents(server)
    assert b"Secret-2-" in contents(server)
    assert server.get("/models/default")["step"] == (10 if current else 4)


@pytest.mark.parametrize("failure", [FULL, DamagedEventError(1, 7)])
def test_a_rebuild_that_fails_is_tried_again(serve: Serve, failure: Exception) -> None:
    server = serve()
    for i in range(10):
        server.learn({"a": f"Secret-{i}-"}, "cat", id=f"e{i}")
    with failing(Recovery, "run", failure, times=5):
        forget(server, "e5")
        wait_until(lambda: not unerased(server))  # does not wait for the rebuild
        assert b"Secret-5-" not in contents(server)
        wait_until(lambda: state(server) == "ready")
    assert server.get("/models/default")["step"] == 9
    assert server.client.post("/models/default/checkpoints").status_code == 201


def test_a_sample_forgotten_at_the_end_of_a_rebuild_is_unlearned(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    for i in range(10):
        server.learn({"a": i}, "cat", id=f"e{i}")
    erase, reached, release = SqliteLog.erase, threading.Event(), threading.Event()

    def slowly(log: SqliteLog) -> None:
        reached.set()
        release.wait(30)
        erase(log)

    monkeypatch.setattr(SqliteLog, "erase", slowly)
    forget(server, "e1")
    assert reached.wait(30)
    forget(server, "e2")
    release.set()
    wait_until(lambda: state(server) == "ready")
    assert server.get("/models/default")["step"] == 8


def test_a_checkpoint_that_is_being_written_is_deleted_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    server.create(name="other")
    save, reached, release = CheckpointFiles.save, threading.Event(), threading.Event()

    def slowly(*args: Any) -> Any:
        reached.set()
        release.wait(30)
        return save(*args)

    monkeypatch.setattr(CheckpointFiles, "save", slowly)
    taking = []
    for name in ("default", "other"):
        for i in range(5):
            server.learn({"a": f"Secret-{i}-"}, "cat", id=f"{name}-{i}", model=name)
        server.predict({"a": f"Secret-{name}-"}, id=f"waits-{name}", model=name)
        worker = server.registry.get(name)
        taking.append(server.on_loop(worker.exclusive(server.registry.operations(name)._take)))
    assert reached.wait(30)
    removing = [
        threading.Thread(target=lambda: server.client.delete("/models/other")),
        threading.Thread(target=lambda: forget(server, "default-3", "waits-default")),
    ]
    for thread in removing:
        thread.start()
    time.sleep(0.5)  # both requests arrive
    release.set()
    for thread in removing:
        thread.join()
    for each in taking:
        each.result(30)
    wait_until(lambda: state(server) == "ready")
    wait_until(lambda: not unerased(server))
    left = contents(server)
    assert not [s for s in (b"Secret-3-", b"waits-default", b"Secret-default-", b"other-1") if s in left]
    server.client.post("/models/default/checkpoints").raise_for_status()  # nor is it in memory
    left = contents(server)
    assert not [s for s in (b"Secret-3-", b"waits-default", b"Secret-default-") if s in left]


def test_a_created_model_is_answered_as_created(serve: Serve) -> None:
    server = serve()
    with failing(SqliteLog, "changes", StorageFailedError("cannot read")):
        answer = server.post("/models", name="new")
    assert answer.status_code == 201
    assert server.learn({"a": 1}, "cat", model="new")["step"] == 1


def test_a_change_is_answered_as_done_by_a_server_with_a_full_queue(serve: Serve) -> None:
    server = serve()
    server.learn({"a": 1}, "cat")
    file = server.client.get("/models/default/export").content
    reads = server.registry.get()._reads
    reads.taken += 1_000_000
    assert error(server.client.get("/models/default"))[:2] == (429, "queue_full")
    answers: list[httpx.Response] = [
        server.client.patch("/models/default", json={"max_features": 9}),
        server.client.put(
            "/models/default/import", content=file, headers={"content-type": "application/octet-stream"}
        ),
        server.post("/models", name="other"),
        server.post("/models/default/rollback", step=1),
    ]
    reads.taken -= 1_000_000
    assert [answer.status_code for answer in answers] == [200, 200, 201, 200]
    assert {*answers[0].json()} == {*answers[1].json()} == {*server.get("/models/default")}


def test_a_checkpoint_on_the_disk_is_answered_as_taken(serve: Serve) -> None:
    server = serve()
    server.learn({"a": 1}, "cat")
    with failing(SqliteLog, "prune", FULL):
        assert server.client.post("/models/default/checkpoints").status_code == 201
    assert len(server.get("/models/default/checkpoints")["checkpoints"]) == 1


def test_samples_that_retention_removed_are_erased_periodically(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "_PERIOD", 0.05)
    server = serve(retain_events=3, keep_checkpoints=1)
    for i in range(60):
        server.learn({"a": i}, "cat", id=f"Secret-{i}-")
    server.client.post("/models/default/checkpoints").raise_for_status()
    wait_until(lambda: not unerased(server))
    left = contents(server)
    assert [i for i in range(60) if b"Secret-%d-" % i in left] == [57, 58, 59]
