"""Repair of data folders that lost events: what continues, what is refused, and what stays on the disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import IncompleteLogError, StorageError, StorageFailedError, StorageFullError
from service.models import continuation
from service.models.recovery import open_folder
from service.settings import Settings
from service.storage.interfaces import Event, Group
from service.storage.sqlite import SqliteLog
from tests.support.running import serving
from tests.support.server_process import restartable

LOG, WAL, MARK = "events.sqlite3", "events.sqlite3-wal", "events.head"


def learn(client: httpx.Client, numbers: range, model: str = "default") -> None:
    for i in numbers:
        body = {"x": {"a": float(i % 7), "b": i % 3}, "y": i % 2, "id": f"e{i}", "model": model}
        client.post("/learn", json=body).raise_for_status()


def step(client: httpx.Client, model: str = "default") -> int:
    return int(client.get(f"/models/{model}").raise_for_status().json()["step"])


def checkpoint(client: httpx.Client, model: str = "default") -> None:
    client.post(f"/models/{model}/checkpoints").raise_for_status()


def remove_log(folder: Path) -> None:
    for path in folder.glob(f"{LOG}*"):
        path.unlink()


def copy_log(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in source.glob(f"{LOG}*"):
        shutil.copy(path, target)


def restore_log(source: Path, target: Path) -> None:
    remove_log(target)
    copy_log(source, target)


def test_a_header_that_is_lost_stops_the_start_or_changes_nothing(tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        learn(server.start(), range(50))
        before = server.client.get("/models/default/fingerprint").json()
        server.kill()
        with (server.folder / LOG).open("r+b") as file:
            file.write(bytes(100))
        assert server.start().get("/models/default/fingerprint").json() == before
        assert server.terminate() == 0
        with (server.folder / LOG).open("r+b") as file:
            file.write(bytes(100))
        assert "repair --from" in server.refusal()


def test_an_event_that_is_not_committed_is_not_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint during a commit that fails would otherwise be ahead of the log."""
    log = SqliteLog(tmp_path)
    model = log.create(Event("create", b"{}"))
    inserted, refused = threading.Event(), threading.Event()
    insert = log._insert

    def insert_slowly(*arguments: Any) -> None:
        insert(*arguments)
        inserted.set()
        refused.wait(30)
        raise StorageFailedError("refused")

    monkeypatch.setattr(log, "_insert", insert_slowly)

    def append() -> None:
        with pytest.raises(StorageError):
            log.append([Group(model, 0, [Event("learn", b"{}")] * 100)])

    thread = threading.Thread(target=append)
    thread.start()
    assert inserted.wait(30)
    assert (log.head(model), log.length) == (model, 1)
    refused.set()
    thread.join()
    assert (log.head(model), log.length) == (model, 1)
    log.close()


def test_a_power_failure_of_a_relaxed_server_does_not_stop_the_start(tmp_path: Path) -> None:
    """The disk has what was flushed; the high-water mark is on it as soon as it is written."""
    data = tmp_path / "data"
    with restartable(data, BNP_DURABILITY="relaxed") as server:
        learn(server.start(), range(20))
        server.kill()
    # The start flushes what the killed server wrote, before the mark says so.
    trace: list[str] = []
    fsync, pwrite = os.fsync, os.pwrite

    def noted_fsync(descriptor: int) -> None:
        trace.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_pwrite(descriptor: int, content: bytes, offset: int) -> int:
        trace.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        return pwrite(descriptor, content, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", noted_fsync)
        patch.setattr(os, "pwrite", noted_pwrite)
        log = SqliteLog(data, relaxed=True)
        log.append([Group(1, 0, [Event("learn", b"{}")])])
        marked = [name for name in trace if name in (MARK, WAL)]
        assert marked.index(WAL) < marked.index(MARK)
        assert marked.count(MARK) == 1  # not for the event that is not flushed
        trace.clear()
        log.close()
        assert [name for name in trace if name in (MARK, WAL)] == [WAL, MARK]


def test_models_continue_from_a_log_that_ends_between_a_checkpoint_and_the_mark(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with restartable(data) as server:
        client = server.start()
        learn(client, range(20))
        checkpoint(client)
        learn(client, range(20, 30))
        server.kill()
        copy_log(data, tmp_path / "older")
        learn(server.start(), range(30, 50))
        server.kill()
        for source in ("checkpoints", "log"):
            restored = tmp_path / source
            shutil.copytree(data, restored)
            restore_log(tmp_path / "older", restored)
            with pytest.raises(IncompleteLogError):
                open_folder(Settings(data_dir=restored))
            getattr(continuation, f"from_{source}")(Settings(data_dir=restored))
            with serving(restored) as continued:
                assert step(continued.client) == 30
                learn(continued.client, range(100, 110))
            with serving(restored) as continued:
                assert step(continued.client) == 40


def test_a_log_that_cannot_restore_a_model_is_no_way_to_continue(tmp_path: Path) -> None:
    """Its old samples are pruned, and the checkpoint that replaces them is later than its end."""
    data = tmp_path / "data"
    settings = {"BNP_KEEP_CHECKPOINTS": "1", "BNP_RETAIN_EVENTS": "0"}
    with restartable(data, **settings) as server:
        client = server.start()
        learn(client, range(20))
        checkpoint(client)
        learn(client, range(20, 30))
        server.kill()
        copy_log(data, tmp_path / "older")
        client = server.start()
        learn(client, range(30, 50))
        checkpoint(client)
        server.kill()
        restore_log(tmp_path / "older", data)
        server.refusal()
        before = sorted(path for path in data.rglob("*") if not path.name.startswith(LOG))
        with pytest.raises(IncompleteLogError, match="default"):
            continuation.from_log(Settings(data_dir=data))
        assert sorted(path for path in data.rglob("*") if not path.name.startswith(LOG)) == before
        continuation.from_checkpoints(Settings(data_dir=data))
        assert step(server.start()) == 50


def test_a_name_that_was_used_again_names_one_model(tmp_path: Path) -> None:
    """The log that was restored ends before the deletion of the earlier model."""
    data = tmp_path / "data"
    with restartable(data) as server:
        client = server.start()
        learn(client, range(10))
        server.kill()
        copy_log(data, tmp_path / "older")
        client = server.start()
        client.delete("/models/default").raise_for_status()
        client.post("/models", json={"name": "default", "hidden": [3]}).raise_for_status()
        learn(client, range(25))
        checkpoint(client)
        server.kill()
        restore_log(tmp_path / "older", data)
        server.refusal()
        continuation.from_checkpoints(Settings(data_dir=data))
        client = server.start()
        assert [(m["name"], m["step"]) for m in client.get("/models").json()["models"]] == [("default", 25)]
        learn(client, range(100, 105))
        server.kill()
        client = server.start()
        assert step(client) == 30
        client.delete("/models/default").raise_for_status()
        server.kill()
        assert server.start().get("/models").json()["models"] == []


def test_a_model_whose_events_the_log_has_keeps_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with restartable(data) as server:
        client = server.start()
        client.post("/models", json={"name": "second", "hidden": [4]}).raise_for_status()
        learn(client, range(20))
        learn(client, range(20), "second")
        server.kill()
        copy_log(data, tmp_path / "older")
        client = server.start()
        learn(client, range(20, 40), "second")
        checkpoint(client, "second")
        checkpoint(client)  # of events that the older log has
        server.kill()
        restore_log(tmp_path / "older", data)
        server.refusal()
        continuation.from_checkpoints(Settings(data_dir=data))
        client = server.start()
        assert (step(client), step(client, "second")) == (20, 40)
        client.post("/models/default/rollback", json={"step": 7}).raise_for_status()
        client.post("/models/default/forget", json={"ids": ["e3"]}).raise_for_status()


@pytest.mark.parametrize("size", [None, 0], ids=["missing", "empty"])
def test_a_write_ahead_log_without_its_file_is_not_deleted(tmp_path: Path, size: int | None) -> None:
    """A folder of an earlier version has no high-water mark, and this one no checkpoint."""
    with restartable(tmp_path / "data") as server:
        learn(server.start(), range(10))
        server.kill()
        (server.folder / MARK).unlink()
        (server.folder / LOG).unlink()
        if size is not None:
            (server.folder / LOG).touch()
        wal = (server.folder / WAL).read_bytes()
        assert "repair --from nothing" in server.refusal()
        with pytest.raises(StorageFailedError):
            SqliteLog(server.folder)
        assert (server.folder / WAL).read_bytes() == wal


def test_files_that_are_set_aside_are_never_replaced(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        learn(server.client, range(10))
    for _ in range(2):  # in the same second
        continuation.from_nothing(Settings(data_dir=data))
        SqliteLog(data).close()
    kept = list(data.glob(f"aside-*/{LOG}"))
    assert len(kept) == 2
    counts = []
    for path in kept:
        database = sqlite3.connect(path)
        counts += database.execute("SELECT ifnull(sum(count), 0) FROM event WHERE kind = 'learn'").fetchone()
        database.close()
    assert sorted(counts) == [0, 10]


def test_a_checkpoint_of_another_log_is_not_deleted_by_an_unlearning(tmp_path: Path) -> None:
    other, data = tmp_path / "other", tmp_path / "data"
    with serving(data) as server:
        learn(server.client, range(20))
        checkpoint(server.client)
    with serving(other) as server:
        learn(server.client, range(100, 150))
        server.client.post("/models/default/forget", json={"ids": ["e105"]}).raise_for_status()
    shutil.rmtree(other / "checkpoints", ignore_errors=True)  # none if the unlearning is not complete
    shutil.copytree(data / "checkpoints", other / "checkpoints")
    before = sorted((other / "checkpoints").rglob("*"))
    with pytest.raises(IncompleteLogError, match="belongs to another log"):
        open_folder(Settings(data_dir=other))
    assert sorted((other / "checkpoints").rglob("*")) == before


def test_a_folder_that_the_log_does_not_know_is_not_deleted(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        learn(server.client, range(5))
    notes = tmp_path / "data" / "checkpoints" / "77" / "notes"
    notes.parent.mkdir()
    notes.write_text("of somebody")
    with serving(tmp_path / "data"):
        assert notes.read_text() == "of somebody"


def test_a_repair_that_fails_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        learn(server.client, range(20))
        checkpoint(server.client)
    damaged = bytes(8192)
    (data / LOG).write_bytes(damaged)

    def refuse(*_: Any) -> None:
        raise StorageFullError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteLog, "restore", refuse)
        with pytest.raises(StorageFullError):
            continuation.from_checkpoints(Settings(data_dir=data))
    with pytest.raises(IncompleteLogError):
        open_folder(Settings(data_dir=data))
    continuation.from_checkpoints(Settings(data_dir=data))
    assert damaged in [path.read_bytes() for path in data.glob(f"aside-*/{LOG}")]
    with serving(data) as server:
        assert step(server.client) == 20


@pytest.mark.parametrize("repair", [continuation.from_log, continuation.from_checkpoints])
def test_a_complete_folder_is_not_repaired(tmp_path: Path, repair: Callable[[Settings], list[str]]) -> None:
    with serving(tmp_path / "data") as server:
        learn(server.client, range(20))
        checkpoint(server.client)
        learn(server.client, range(20, 30))
    with pytest.raises(IncompleteLogError, match="nothing to repair"):
        repair(Settings(data_dir=tmp_path / "data"))
    with serving(tmp_path / "data") as server:
        assert step(server.client) == 30
