"""Removed data is in no file, also after a kill at any moment, on a full disk, and beside another reader."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx

from tests.support.server_process import RestartableServer, logged, restartable, wait_until

SEED = int(os.environ.get("BNP_TEST_REMOVALS_SEED", "0"))
KILLS = int(os.environ.get("BNP_TEST_REMOVALS_KILLS", "3"))
MARKER = re.compile(rb"#[0-9a-f]{12}#")


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def erased(client: httpx.Client) -> bool:
    return "bnp_log_unerased 0.0" in client.get("/metrics").text.splitlines()


def largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.glob("events.sqlite3*"))


def test_a_model_deleted_on_a_nearly_full_disk_is_gone_and_erased_with_room(tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        client = server.start()
        for kill in (False, True):
            client.post("/models", json={"name": "m", "hidden": [4]}).raise_for_status()
            lines = [
                b'{"x": {"a": %d}, "y": "cat", "id": "Secret-%d", "model": "m"}' % (i, i) for i in range(3000)
            ]
            headers = {"content-type": "application/x-ndjson"}
            client.post("/learn", content=b"\n".join(lines), headers=headers).raise_for_status()
            server.limit_files(largest(server.folder) + 30_000)
            answer = client.delete("/models/m")
            assert (answer.status_code, answer.json()) == (202, {"model": "m", "erased": False})
            assert [m["name"] for m in client.get("/models").json()["models"]] == ["default"]
            assert client.post("/learn", json={"x": {}, "y": 1, "model": "m"}).status_code == 404
            assert not erased(client)
            wait_until(lambda: any("cannot erase removed data now" in line for line in server.running.lines))
            if kill:
                server.kill()
                client = server.start()
            else:
                server.limit_files(None)
                wait_until(lambda: any("all removed data is erased" in line for line in server.running.lines))
            assert erased(client)
            assert b"Secret" not in contents(server.folder)


def test_a_deletion_refused_by_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        client = server.start()
        for i in range(20):
            client.post("/learn", json={"x": {"a": i}, "y": "cat", "id": f"e{i}"}).raise_for_status()
        server.limit_files(1)
        assert client.delete("/models/default").status_code == 503
        server.limit_files(None)
        assert client.post("/models/default/rollback", json={"step": 10}).json()["step"] == 10
        assert client.post("/models/default/forget", json={"ids": ["e5"]}).status_code == 202
        wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        assert client.get("/models/default").json()["step"] == 9
        assert client.post("/models/default/checkpoints").status_code == 201
        assert [kind for kind, *_ in logged(server.folder)].count("delete") == 0


def test_unlearning_beside_another_reader_is_completed_after_it(tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        client = server.start()
        for i in range(20):
            client.post("/learn", json={"x": {"a": i}, "y": "cat", "id": f"Secret-{i}-"}).raise_for_status()
        with closing(sqlite3.connect(server.folder / "events.sqlite3", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM event").fetchone()
            answer = client.post("/models/default/forget", json={"ids": ["Secret-5-"]})
            assert answer.status_code == 202
            wait_until(lambda: any("another process" in line for line in server.running.lines))
            assert client.get("/models/default").json()["state"] == "rebuilding"
            wait_until(lambda: client.get("/models/default").json()["step"] == 19)
            assert client.post("/learn", json={"x": {"a": 1}, "y": "cat"}).status_code == 200
        wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        assert b"Secret-5-" not in contents(server.folder)
        assert b"Secret-6-" in contents(server.folder)


class Removing:
    """Client that learns, predicts, labels, unlearns, rolls back and deletes at random, until a kill.

    Attributes
    ----------
    removed : set of bytes
        Values that the server has acknowledged as removed. They occur once.
    """

    def __init__(self, client: httpx.Client, seed: int, models: dict[str, dict[str, list[bytes]]]) -> None:
        self._client = client
        self._random = random.Random(seed)  # noqa: S311 (reproducible)
        self._models = models
        self.removed: set[bytes] = set()

    def marker(self) -> bytes:
        return b"#%012x#" % self._random.getrandbits(48)

    def run(self) -> None:
        try:
            while True:
                operation = self._random.choices(
                    [self.learn, self.forget, self.change, self.delete], [8, 8, 2, 1]
                )
                operation[0]()
        except httpx.TransportError:
            return  # the server was killed

    def learn(self) -> None:
        model, lines = self._random.choice([*self._models]), []
        for _ in range(self._random.randrange(1, 60)):
            identifier, value = self.marker(), self.marker()
            x = {"a": self._random.random(), "t": value.decode(), "z": "z" * self._random.randrange(200)}
            body = {"x": x, "id": identifier.decode(), "model": model}
            if self._random.random() < 0.05:
                self._client.post("/predict", json=body)
                if self._random.random() < 0.5:
                    self._client.post("/label", json={"id": body["id"], "y": "cat", "model": model})
            else:
                lines.append(json.dumps({**body, "y": "cat"}))
            self._models[model][identifier.decode()] = [identifier, value]
        self._client.post(
            "/learn", content="\n".join(lines), headers={"content-type": "application/x-ndjson"}
        )

    def forget(self) -> None:
        model = self._random.choice([*self._models])
        rows = self._models[model]
        ids = self._random.sample([*rows], min(len(rows), self._random.randrange(1, 40)))
        if ids and self._client.post(f"/models/{model}/forget", json={"ids": ids}).status_code == 202:
            for identifier in ids:
                self.removed |= {*rows.pop(identifier)}

    def change(self) -> None:
        model = self._random.choice([*self._models])
        if self._random.random() < 0.5:
            self._client.post(f"/models/{model}/checkpoints")
        else:
            step = self._client.get(f"/models/{model}").json()["step"]
            self._client.post(f"/models/{model}/rollback", json={"step": max(0, step - 20)})

    def delete(self) -> None:
        model = self._random.choice([*self._models])
        if self._client.delete(f"/models/{model}").status_code in (202, 204):
            for values in self._models[model].values():
                self.removed |= {*values}
            self._models[model] = {}
            self._client.post("/models", json={"name": model, "hidden": [3]})


def left(server: RestartableServer, removed: set[bytes]) -> dict[bytes, list[str]]:
    """Return the removed values that are still in files, with the names of the files."""
    found: dict[bytes, list[str]] = {}
    for path in server.folder.rglob("*"):
        if path.is_file():
            for marker in removed & set(MARKER.findall(path.read_bytes())):
                found.setdefault(marker, []).append(path.name)
    return found


def test_nothing_removed_is_in_a_file_after_kills_at_random_moments(tmp_path: Path) -> None:
    draw, removed = random.Random(SEED), set[bytes]()  # noqa: S311 (reproducible)
    models: dict[str, dict[str, list[bytes]]] = {"default": {}, "b": {}}
    with restartable(tmp_path / "data", BNP_CHECKPOINT_EVERY="40") as server:
        client = server.start()
        client.post("/models", json={"name": "b", "hidden": [3]}).raise_for_status()
        for kill in range(KILLS):
            working = Removing(client, SEED * 1000 + kill, models)
            thread = threading.Thread(target=working.run)
            thread.start()
            thread.join(draw.uniform(1.0, 2.5))
            server.kill()
            thread.join()
            removed |= working.removed
            client = server.start()
            assert erased(client)
            assert left(server, removed) == {}
            for name in models:
                if client.get(f"/models/{name}").status_code == 404:  # deleted, and not created again
                    client.post("/models", json={"name": name, "hidden": [3]}).raise_for_status()
        for name, rows in models.items():  # and once more without a kill
            ids = [*rows][::2]
            client.post(f"/models/{name}/checkpoints")
            answer = client.post(f"/models/{name}/forget", json={"ids": ids}) if ids else None
            if answer is not None and answer.status_code == 202:
                removed |= {value for identifier in ids for value in rows[identifier]}
        wait_until(lambda: {m["state"] for m in client.get("/models").json()["models"]} == {"ready"})
        assert len(removed) > 100 * KILLS
        assert left(server, removed) == {}
