"""Modes of the files in the data folder: no other user of the machine may read them."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx

from tests.support.server_process import restartable, wait_until

ANY_MODE = "import os; os.umask(0)"  # files get the mode that the program asks for


def work(client: httpx.Client) -> None:
    """Let a server write every kind of file."""
    samples = [{"x": {"a": i / 10}, "y": "ab"[i % 2], "id": f"s{i}"} for i in range(40)]
    for sample in samples:
        assert client.post("/learn", json=sample).status_code == 200
    client.post("/predict", json={"x": {"a": 1.0}, "id": "p1"}).raise_for_status()
    client.post("/models", json={"name": "second", "hidden": [4]}).raise_for_status()
    client.post("/models/default/checkpoints").raise_for_status()
    client.post("/models/second/checkpoints").raise_for_status()
    file = client.get("/models/default/export").content
    octets = {"content-type": "application/octet-stream"}
    client.put("/models/second/import", content=file, headers=octets).raise_for_status()
    client.post("/models/default/rollback", json={"step": 20}).raise_for_status()
    client.post("/models/default/forget", json={"ids": ["s3", "s5"]}).raise_for_status()
    client.delete("/models/second").raise_for_status()
    wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
    client.post("/models/default/checkpoints").raise_for_status()


def modes(folder: Path) -> dict[str, str]:
    """Return the modes of all files and folders in a folder that group or others may use."""
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert found
    return {str(path.relative_to(folder)): oct(mode) for path, mode in found.items() if mode & 0o077}


def test_the_files_of_a_folder_that_others_may_read_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(0o755)
    with restartable(folder, ANY_MODE, BNP_CHECKPOINT_EVERY="10") as server:
        work(server.start())
        assert {"lock", "events.sqlite3", "events.sqlite3-wal"} <= {path.name for path in folder.iterdir()}
        assert list(folder.glob("checkpoints/*/*"))
        assert modes(folder) == {}
        assert server.terminate() == 0
        assert modes(folder) == {}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_start_narrows_the_modes_of_an_earlier_version(tmp_path: Path) -> None:
    with restartable(tmp_path / "data", ANY_MODE) as server:
        work(server.start())
        server.kill()
        for path in server.folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (server.folder / "notes").touch(0o644)
        server.start()
        assert modes(server.folder) == {"notes": "0o644"}
