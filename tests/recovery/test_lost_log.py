"""Data folders whose log lost events: no start uses them silently, or deletes what is intact."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server_process import RestartableServer, restartable, wait_until

LOG, WAL, SHM = "events.sqlite3", "events.sqlite3-wal", "events.sqlite3-shm"


def learn(client: httpx.Client, numbers: range, model: str = "default") -> None:
    for i in numbers:
        body = {"x": {"a": float(i % 7), "b": i % 3}, "y": i % 2, "id": f"e{i}", "model": model}
        client.post("/learn", json=body).raise_for_status()


def fingerprint(client: httpx.Client, model: str = "default") -> Any:
    return client.get(f"/models/{model}/fingerprint").json()


def step(client: httpx.Client, model: str = "default") -> int:
    return int(client.get(f"/models/{model}").json()["step"])


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name, except those of SQLite's readers and the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (SHM, "lock")
    }


def repair(folder: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "service.cli", "repair", *arguments]
    environment = {**os.environ, "BNP_DATA_DIR": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def lose_everything(folder: Path, _: Path) -> None:
    for name in (LOG, WAL, SHM):
        (folder / name).unlink(missing_ok=True)


def lose_content(folder: Path, _: Path) -> None:
    lose_everything(folder, _)
    (folder / LOG).touch()


def lose_wal(folder: Path, _: Path) -> None:
    (folder / WAL).unlink()


def empty_wal(folder: Path, _: Path) -> None:
    os.truncate(folder / WAL, 0)


def shorten_wal(folder: Path, _: Path) -> None:
    os.truncate(folder / WAL, (folder / WAL).stat().st_size // 2)


def overwrite(folder: Path, _: Path) -> None:
    lose_everything(folder, _)
    (folder / LOG).write_bytes(b"\0" * 8192)


def restore_older(folder: Path, older: Path) -> None:
    lose_everything(folder, older)
    for path in older.glob("events.sqlite3*"):
        shutil.copy(path, folder)


LOSSES: list[Callable[[Path, Path], None]] = [
    lose_everything,
    lose_content,
    lose_wal,
    empty_wal,
    shorten_wal,
    overwrite,
    restore_older,
]


def killed(server: RestartableServer, older: Path, *, checkpoints: bool) -> None:
    """Let a server learn with two models, copy its log in between, and kill it."""
    client = server.start()
    client.post("/models", json={"name": "second", "hidden": [4]}).raise_for_status()
    learn(client, range(20))
    learn(client, range(20), "second")
    server.kill()
    shutil.copytree(server.folder, older)
    client = server.start()
    learn(client, range(20, 60))
    if checkpoints:
        client.post("/models/default/rollback", json={"step": 50}).raise_for_status()
        for model in ("default", "second"):
            client.post(f"/models/{model}/checkpoints").raise_for_status()
    learn(client, range(60, 75))
    server.kill()


@pytest.mark.parametrize("checkpoints", [True, False], ids=["with checkpoints", "without checkpoints"])
@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_log_that_lost_events_is_refused_and_nothing_changes(
    lose: Callable[[Path, Path], None], checkpoints: bool, tmp_path: Path
) -> None:
    with restartable(tmp_path / "data") as server:
        killed(server, tmp_path / "older", checkpoints=checkpoints)
        lose(server.folder, tmp_path / "older")
        before = files(server.folder)
        for _ in range(2):
            said = server.refusal()
            for command in ("checkpoints", "log", "nothing"):
                assert f"bnp-online repair --from {command}" in said
        kept = {name for name in before if name.startswith("checkpoints")}
        assert bool(kept) == checkpoints
        after = files(server.folder)
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_models_continue_from_their_checkpoints(lose: Callable[[Path, Path], None], tmp_path: Path) -> None:
    with restartable(tmp_path / "data", BNP_KEEP_CHECKPOINTS="9") as server:
        killed(server, tmp_path / "older", checkpoints=True)
        lose(server.folder, tmp_path / "older")
        said = repair(server.folder, "--from", "checkpoints")
        assert "default continues from step 50" in said
        client = server.start()
        assert (step(client), step(client, "second")) == (50, 20)
        twin = fingerprint(client)
        learn(client, range(100, 110))
        for _ in range(2):  # the events after the checkpoint have new numbers, and are replayed
            before = fingerprint(client), fingerprint(client, "second")
            server.kill()
            client = server.start()
            assert (fingerprint(client), fingerprint(client, "second")) == before
        client.post("/models/default/rollback", json={"step": 50}).raise_for_status()
        assert fingerprint(client)["model_sha256"] == twin["model_sha256"]
        assert client.post("/models/default/rollback", json={"step": 10}).status_code in (404, 410)
        learn(client, range(200, 210))
        client.post("/models/default/checkpoints").raise_for_status()
        client.post("/models/default/forget", json={"ids": ["e205"]}).raise_for_status()
        wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        assert step(client) == 59
        server.kill()
        client = server.start()
        assert step(client) == 59
        assert client.delete("/models/second").status_code == 204
        server.kill()
        names = [model["name"] for model in server.start().get("/models").json()["models"]]
        assert names == ["default"]


@pytest.mark.parametrize("lose", [lose_wal, shorten_wal, restore_older], ids=lambda lose: lose.__name__)
def test_models_continue_from_the_log(lose: Callable[[Path, Path], None], tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        killed(server, tmp_path / "older", checkpoints=True)
        older = {name for name in files(server.folder) if name.startswith("checkpoints")}
        lose(server.folder, tmp_path / "older")
        said = repair(server.folder, "--from", "log")
        client = server.start()
        assert step(client) <= 60
        learn(client, range(100, 110))
        before = fingerprint(client)
        server.kill()
        assert fingerprint(server.start()) == before
        (aside,) = server.folder.glob("aside-*")
        assert str(aside) in said
        assert older <= {str(path.relative_to(aside)) for path in aside.rglob("*")} | set(
            files(server.folder)
        )


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_new_start_sets_everything_aside(lose: Callable[[Path, Path], None], tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        killed(server, tmp_path / "older", checkpoints=True)
        lose(server.folder, tmp_path / "older")
        before = files(server.folder)
        repair(server.folder, "--from", "nothing")
        client = server.start()
        assert [(m["name"], m["step"]) for m in client.get("/models").json()["models"]] == [("default", 0)]
        learn(client, range(5))
        (aside,) = server.folder.glob("aside-*")
        assert files(aside) == before


def test_checkpoints_of_another_log_are_not_used(tmp_path: Path) -> None:
    """An older log that learned other samples reaches the number of a checkpoint, but is another history."""
    with restartable(tmp_path / "other") as other, restartable(tmp_path / "data") as server:
        client = other.start()
        learn(client, range(100, 200))
        other.kill()
        client = server.start()
        learn(client, range(50))
        client.post("/models/default/checkpoints").raise_for_status()
        server.kill()
        shutil.rmtree(other.folder / "checkpoints", ignore_errors=True)
        shutil.copytree(server.folder / "checkpoints", other.folder / "checkpoints")
        assert "belongs to another log" in other.refusal()
        repair(other.folder, "--from", "log")
        assert step(other.start()) == 100


def test_a_repair_that_cannot_help_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert "start the server" in repair(folder, "--from", "nothing", code=1)
    assert "no readable log" in repair(folder, "--from", "log", code=1)
    assert "no intact checkpoint" in repair(folder, "--from", "checkpoints", code=1)
    assert "either --skip SEQ or --from" in repair(folder, code=2)
    assert "either --skip SEQ or --from" in repair(folder, "--skip", "1", "--from", "log", code=2)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian's package)")
def test_a_relaxed_log_is_on_the_disk_before_a_checkpoint(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with restartable(tmp_path / "data", BNP_DURABILITY="relaxed") as server:
        client = server.start()
        learn(client, range(10))
        calls = "trace=fsync,fdatasync,rename,renameat,renameat2"
        tracing = ["strace", "-f", "-y", "-e", calls, "-o", str(trace), "-p", str(server.running.process.pid)]
        with subprocess.Popen(tracing, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            tracer.stderr.readline()  # attached
            client.post("/models/default/checkpoints").raise_for_status()
            tracer.terminate()
    told = re.findall(r"sync\(\d+<[^>]*(events\.sqlite3-wal)>|rename\w*\(.*?(step10)", trace.read_text())
    assert [wal or renamed for wal, renamed in told][:2] == [WAL, "step10"]


def replayed(server: RestartableServer) -> int:
    """Return the number of events that the latest start replayed."""
    (found,) = re.findall(r"recovered: step .*?(\d+) events replayed", "".join(server.running.lines))
    return int(found)


def test_a_crash_loop_replays_a_bounded_number_of_events(tmp_path: Path) -> None:
    with restartable(tmp_path / "data", BNP_CHECKPOINT_EVERY="30") as server:
        for run in range(6):
            client = server.start()
            assert run == 0 or replayed(server) < 30 + 25
            learn(client, range(100 * run, 100 * run + 25))
            wait_until(lambda: not list(server.folder.glob("checkpoints/*/.*")))
            server.kill()


def test_unlearning_again_and_again_leaves_a_bounded_number_of_events(tmp_path: Path) -> None:
    with restartable(tmp_path / "data", BNP_CHECKPOINT_EVERY="30") as server:
        client = server.start()
        for run in range(6):
            learn(client, range(100 * run, 100 * run + 25))
            forgotten = client.post("/models/default/forget", json={"ids": [f"e{100 * run + 24}"]})
            forgotten.raise_for_status()
            wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        wait_until(lambda: not list(server.folder.glob("checkpoints/*/.*")))
        server.kill()
        server.start()
        assert replayed(server) < 30 + 25


def test_predictions_with_an_id_make_a_checkpoint_due(tmp_path: Path) -> None:
    with restartable(tmp_path / "data", BNP_CHECKPOINT_EVERY="30", BNP_CHECKPOINT_BYTES="20000") as server:
        client = server.start()
        learn(client, range(3))
        for i in range(70):
            client.post("/predict", json={"x": {"a": i}, "id": f"p{i}"}).raise_for_status()
        server.kill()
        client = server.start()
        assert replayed(server) < 60
        for i in range(12):  # 3 kB each
            x = {f"{'name' * 50}{j}": float(j) for j in range(15)}
            client.post("/predict", json={"x": x, "id": f"q{i}"}).raise_for_status()
        wait_until(lambda: len(list(server.folder.glob("checkpoints/*/step*"))) > 1)
        server.kill()
        server.start()
        assert replayed(server) < 12


def test_a_checkpoint_that_cannot_be_written_stays_due(tmp_path: Path) -> None:
    with restartable(tmp_path / "data", BNP_CHECKPOINT_EVERY="10") as server:
        client = server.start()
        checkpoints = server.folder / "checkpoints"
        checkpoints.write_bytes(b"")  # a file in place of the folder
        learn(client, range(25))
        checkpoints.unlink()
        assert sum("cannot write a checkpoint" in line for line in server.running.lines) == 1
        assert server.terminate() == 0  # counts the events of the failed checkpoint
        server.start()
        assert replayed(server) == 0
