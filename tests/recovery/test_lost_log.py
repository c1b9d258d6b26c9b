"""Data folders whose log lost events: no start uses them silently, or deletes what is intact."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from service.errors import IncompleteLogError
from service.models import continuation
from service.models.recovery import open_folder
from service.settings import Settings
from tests.support.commands import command
from tests.support.running import Server, serving
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
    done = command("repair", *arguments, BNP_DATA_DIR=str(folder))
    assert done.code == code, done.err
    return done.out + done.err


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


Loss: TypeAlias = Callable[[Path, Path], None]
LOSSES: list[Loss] = [
    lose_everything,
    lose_content,
    lose_wal,
    empty_wal,
    shorten_wal,
    overwrite,
    restore_older,
]


def killed(folder: Path, *, checkpoints: bool) -> None:
    """Let a server learn with two models, copy its log in between, and kill it."""
    with restartable(folder / "data", BNP_KEEP_CHECKPOINTS="9") as server:
        client = server.start()
        client.post("/models", json={"name": "second", "hidden": [4]}).raise_for_status()
        learn(client, range(20))
        learn(client, range(20), "second")
        server.kill()
        shutil.copytree(server.folder, folder / "older")
        client = server.start()
        learn(client, range(20, 60))
        if checkpoints:
            client.post("/models/default/rollback", json={"step": 50}).raise_for_status()
            for model in ("default", "second"):
                client.post(f"/models/{model}/checkpoints").raise_for_status()
        learn(client, range(60, 75))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Return a folder of a killed server, with and without checkpoints: its data, and an older copy."""
    made = {}
    for checkpoints in (True, False):
        made[checkpoints] = tmp_path_factory.mktemp("killed")
        killed(made[checkpoints], checkpoints=checkpoints)
    return made


@pytest.fixture
def data(scenes: dict[bool, Path], tmp_path: Path) -> Path:
    """Return a copy of the data folder with checkpoints; the older copy is beside it."""
    shutil.copytree(scenes[True], tmp_path / "scene")
    return tmp_path / "scene" / "data"


def running(folder: Path) -> AbstractContextManager[Server]:
    return serving(folder, keep_checkpoints=9)


@pytest.mark.parametrize("checkpoints", [True, False], ids=["with checkpoints", "without checkpoints"])
@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_log_that_lost_events_is_refused_and_nothing_changes(
    lose: Loss, checkpoints: bool, scenes: dict[bool, Path], tmp_path: Path
) -> None:
    shutil.copytree(scenes[checkpoints], tmp_path / "scene")
    data = tmp_path / "scene" / "data"
    lose(data, tmp_path / "scene" / "older")
    before = {name: content for name, content in files(data).items() if not name.startswith(LOG)}
    assert any(name.startswith("checkpoints") for name in before) == checkpoints
    for _ in range(2):
        with pytest.raises(IncompleteLogError) as refused:
            open_folder(Settings(data_dir=data))
        for source in ("checkpoints", "log", "nothing"):
            assert f"bnp-online repair --from {source}" in str(refused.value)
    assert {name: content for name, content in files(data).items() if not name.startswith(LOG)} == before


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_models_continue_from_their_checkpoints(lose: Loss, data: Path) -> None:
    lose(data, data.parent / "older")
    said = continuation.from_checkpoints(Settings(data_dir=data))
    assert any("default continues from step 50" in line for line in said)
    with running(data) as server:
        assert (step(server.client), step(server.client, "second")) == (50, 20)
        twin = fingerprint(server.client)
        learn(server.client, range(100, 110))
        before = fingerprint(server.client), fingerprint(server.client, "second")
        for path in (data / "checkpoints").glob("*/step60*"):
            path.unlink()
    with running(data) as server:
        client = server.client
        assert (fingerprint(client), fingerprint(client, "second")) == before
        client.post("/models/default/rollback", json={"step": 50}).raise_for_status()
        assert fingerprint(client)["model_sha256"] == twin["model_sha256"]
        assert client.post("/models/default/rollback", json={"step": 10}).status_code in (404, 410)
        learn(client, range(200, 210))
        client.post("/models/default/checkpoints").raise_for_status()
        client.post("/models/default/forget", json={"ids": ["e205"]}).raise_for_status()
        wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        assert step(client) == 59
    with running(data) as server:
        assert step(server.client) == 59
        assert server.client.delete("/models/second").status_code == 204
    with running(data) as server:
        assert [model["name"] for model in server.get("/models")["models"]] == ["default"]


@pytest.mark.parametrize("lose", [shorten_wal, restore_older], ids=lambda lose: lose.__name__)
def test_models_continue_from_the_log(lose: Loss, data: Path) -> None:
    older = {name for name in files(data) if name.startswith("checkpoints")}
    lose(data, data.parent / "older")
    said = continuation.from_log(Settings(data_dir=data))
    with running(data) as server:
        assert step(server.client) <= 60
        learn(server.client, range(100, 110))
        before = fingerprint(server.client)
    with running(data) as server:
        assert fingerprint(server.client) == before
    (aside,) = data.glob("aside-*")
    assert str(aside) in "".join(said)
    assert older <= files(aside).keys() | files(data).keys()


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_new_start_sets_everything_aside(lose: Loss, data: Path) -> None:
    lose(data, data.parent / "older")
    before = files(data)
    continuation.from_nothing(Settings(data_dir=data))
    with running(data) as server:
        assert [(m["name"], m["step"]) for m in server.get("/models")["models"]] == [("default", 0)]
        learn(server.client, range(5))
    (aside,) = data.glob("aside-*")
    assert files(aside) == before


def test_the_command_and_the_process(data: Path) -> None:
    lose_wal(data, data)
    with restartable(data) as server:
        assert "bnp-online repair --from checkpoints" in server.refusal()
        assert "default continues from step 50" in repair(data, "--from", "checkpoints")
        client = server.start()
        learn(client, range(100, 110))
        before = fingerprint(client)
        server.kill()
        assert fingerprint(server.start()) == before
        assert step(server.client) == 60


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
        assert re.search(r"(?s)belongs to another log.*repair --from log", other.refusal())
        repair(other.folder, "--from", "log")
        assert step(other.start()) == 100


def test_a_repair_that_cannot_help_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert "start the server" in repair(folder, "--from", "nothing", code=1)
    assert "no readable log" in repair(folder, "--from", "log", code=1)
    assert "no intact checkpoint" in repair(folder, "--from", "checkpoints", code=1)
    assert "either --skip MODEL:EVENT or --from" in repair(folder, code=2)
    assert "either --skip MODEL:EVENT or --from" in repair(folder, "--skip", "1", "--from", "log", code=2)


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
        before = {*server.folder.glob("checkpoints/*/step*")}
        for i in range(12):  # 3 kB each
            x = {f"{'name' * 50}{j}": float(j) for j in range(15)}
            client.post("/predict", json={"x": x, "id": f"q{i}"}).raise_for_status()
        wait_until(lambda: {*server.folder.glob("checkpoints/*/step*")} - before)
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
        wait_until(lambda: sum("cannot write a checkpoint" in line for line in server.running.lines) == 1)
        assert server.terminate() == 0  # counts the events of the failed checkpoint
        server.start()
        assert replayed(server) == 0
