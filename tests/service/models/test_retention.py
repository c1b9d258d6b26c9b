"""Retention beside operations that depend on old checkpoints and samples."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.models.hosted import HostedModel
from service.models.recovery import Recovery
from service.schemas import ModelSpec
from service.storage.checkpoints import CheckpointFiles
from service.storage.interfaces import Checkpoint
from tests.support.running import Server, error, killed_copy, serving
from tests.support.server_process import wait_until

SPEC = ModelSpec.model_validate({"hidden": (4,), "replay": 1, "memory": 10})
#: The newest checkpoint alone is kept, and nothing before it.
TIGHT = {"default_model": SPEC, "keep_checkpoints": 1, "retain_events": 0}


class Gate:
    """Point that a thread reaches, and where it waits until it may go on."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(30)


def learn(server: Server, start: int, stop: int) -> None:
    for i in range(start, stop):
        server.learn({"a": float(i)}, i % 3, id=f"e{i}")


def crashed(server: Server, folder: Path) -> None:
    """Check that a start after a kill at this moment finds the same state."""
    wait_until(lambda: server.get("/models/default")["state"] == "ready")
    killed_copy(folder / "data", folder / "crashed")
    with serving(folder / "crashed", **TIGHT) as again:
        assert again.fingerprint() == server.fingerprint()


def test_unlearning_beside_the_writing_of_a_checkpoint(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint that is being written includes the sample: it does not replace the one before."""
    gate, save = Gate(), CheckpointFiles.save

    def save_later(self: CheckpointFiles, *arguments: Any) -> Checkpoint:
        gate.pass_through()
        return save(self, *arguments)

    server = serve(**TIGHT)
    learn(server, 0, 10)
    server.client.post("/models/default/checkpoints").raise_for_status()
    learn(server, 10, 20)
    monkeypatch.setattr(CheckpointFiles, "save", save_later)
    with ThreadPoolExecutor() as threads:
        taken = threads.submit(server.client.post, "/models/default/checkpoints")
        assert gate.reached.wait(30)
        forgotten = threads.submit(server.post, "/models/default/forget", ids=["e15"])
        threading.Event().wait(0.3)
        gate.opened.set()
        assert taken.result().status_code == 201
        answer = forgotten.result()
    assert answer.status_code == 202 or error(answer)[:2] == (410, "not_kept")
    monkeypatch.undo()
    crashed(server, tmp_path)


def test_a_checkpoint_during_a_rollback(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state to return to is rebuilt while a later checkpoint is written: its events are retained."""
    gate, run = Gate(), Recovery.run

    def run_slowly(self: Recovery, *arguments: Any) -> HostedModel:
        model = run(self, *arguments)
        gate.pass_through()
        return model

    server = serve(**TIGHT)
    learn(server, 0, 10)
    server.client.post("/models/default/checkpoints").raise_for_status()
    learn(server, 10, 20)
    monkeypatch.setattr(Recovery, "run", run_slowly)
    with ThreadPoolExecutor() as threads:
        rolled_back = threads.submit(server.post, "/models/default/rollback", step=15)
        assert gate.reached.wait(30)
        server.client.post("/models/default/checkpoints").raise_for_status()
        gate.opened.set()
        assert rolled_back.result().json()["step"] == 15
    monkeypatch.undo()
    crashed(server, tmp_path)


def test_a_checkpoint_of_another_branch_is_not_counted(serve: Callable[..., Server], tmp_path: Path) -> None:
    """After a rollback the checkpoints of the branch that it left are of no use."""
    server = serve(**{**TIGHT, "keep_checkpoints": 2})
    learn(server, 0, 10)
    server.client.post("/models/default/checkpoints").raise_for_status()
    learn(server, 10, 20)
    server.client.post("/models/default/checkpoints").raise_for_status()
    server.post("/models/default/rollback", step=15).raise_for_status()
    learn(server, 20, 25)
    server.client.post("/models/default/checkpoints").raise_for_status()
    assert server.post("/models/default/rollback", step=13).status_code == 200
    crashed(server, tmp_path)


def test_unlearning_on_a_branch_that_was_left(serve: Callable[..., Server], tmp_path: Path) -> None:
    """A checkpoint of the current branch does not include the sample, and is kept."""
    server = serve(**{**TIGHT, "retain_events": 12})
    learn(server, 0, 15)
    server.post("/models/default/rollback", step=10).raise_for_status()
    learn(server, 20, 30)
    kept = server.client.post("/models/default/checkpoints").raise_for_status().json()
    assert error(server.post("/models/default/forget", ids=["e9"]))[:2] == (410, "not_kept")
    assert server.post("/models/default/forget", ids=["e13"]).status_code == 202
    listed = server.get("/models/default/checkpoints")["checkpoints"]
    assert [each["checkpoint"] for each in listed] == [kept["checkpoint"]]
    crashed(server, tmp_path)


def test_checkpoints_are_listed_while_they_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CheckpointFiles(tmp_path / "checkpoints")
    state = {"tensors": {}, "x": 1}
    kept = [files.save(1, 0, seq, seq, seq, state) for seq in (1, 2, 3)]
    stat = Path.stat

    def delete_first(path: Path, **options: Any) -> Any:
        if path.name.startswith("step2"):
            path.unlink(missing_ok=True)
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", delete_first)
        assert files.list(1) == [kept[2], kept[0]]
    files.drop(1)
    assert files.list(1) == []
