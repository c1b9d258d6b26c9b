"""Copies of stores between a data folder and PostgreSQL, by the command ``store copy``."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bnp_online.lines import Lines
from service.errors import StorageFailedError
from service.storage import sqlite_copying
from service.storage.copying import Row
from service.storage.interfaces import LAST, Advance, Event, Form, Group, Position, Run, Segment
from service.storage.postgres import PostgresLog
from service.storage.postgres_cluster import Cluster
from service.storage.sqlite import COPYING, FILE, SqliteLog
from tests.support.commands import command
from tests.support.postgres import PostgresServer
from tests.support.programs import ROOT
from tests.support.running import Json, Server, serving
from tests.support.server_process import wait_until

SPEC: dict[str, Any] = {"hidden": [4], "replay": 1, "memory": 20}
#: Few samples are kept before the oldest of two checkpoints.
SETTINGS: dict[str, Any] = {"checkpoint_every": 40, "keep_checkpoints": 2, "retain_events": 100}
MODELS = ("default", "m", "other", "imported", "pruned")
TABLES = {
    "event": "model, seq, branch, kind, time, id, digest, body, checksum, refused, step, count",
    "forgotten": "model, id",
    "pruned": "model, before",
    "measured": "model, upto, events, bytes",
    "source": "model, topic, partition, next",
    "named": "model, seq, id, digest",
    "numbering": "shared",
}


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.url(postgres.schema())


def sample(i: int) -> Json:
    return {"a": i % 7, "b": float(i % 3)}


def fill(server: Server) -> None:
    """Make models with everything that a log has."""
    for name in ("m", "other", "gone", "pruned"):
        server.create(name=name, **SPEC)
    server.post("/models/other/shadows", name="linear", hidden=[], lr=0.1).raise_for_status()
    for i in range(50):
        server.learn(sample(i), ["cat", "dog"][i % 2], model="m", id=f"sample {i} ü")
        server.learn(sample(i), i % 3, model="other", w=0.5)
        server.learn(sample(i), "x", model="gone", id=f"{i}")
        server.learn(sample(i), ["cat", "dog"][i % 2])
    server.client.post("/models/m/rollback", json={"step": 30}).raise_for_status()
    for i in range(5):
        server.learn(sample(i), "cow", model="m")
    server.client.post("/models/m/forget", json={"ids": ["sample 3 ü", "sample 8 ü"]}).raise_for_status()
    for i in range(4):
        server.predict(sample(i), model="m", id=f"waiting {i}")
    server.label("waiting 0", "cat", model="m")
    file = server.client.get("/models/m/export").content
    octets = {"content-type": "application/octet-stream"}
    server.client.put("/models/imported/import", content=file, headers=octets).raise_for_status()
    server.learn(sample(1), "dog", model="imported")
    for i in range(400):
        server.learn(sample(i), i % 2, model="pruned")
    for name in ("m", "pruned"):
        server.client.post(f"/models/{name}/checkpoints").raise_for_status()
    server.client.delete("/models/gone").raise_for_status()


def states(server: Server) -> dict[str, Any]:
    """Return the state of each model."""
    found: dict[str, Any] = {}
    for name in MODELS:
        described = server.get(f"/models/{name}")
        found[name] = (server.fingerprint(name), described["step"], described.get("pending"))
    wait_until(lambda: server.get("/models/other/shadows")["shadows"][0]["behind"] == 0)
    found["shadow"] = (
        server.get("/models/other/fingerprint?shadow=linear"),
        server.get("/models/other/shadows"),
    )
    return found


def histories(server: Server) -> dict[str, Json]:
    """Return the history of each model; a server that ends takes and removes checkpoints."""
    found = {name: server.get(f"/models/{name}/history") for name in MODELS}
    for history in found.values():
        history["marks"] = [mark for mark in history["marks"] if mark["kind"] != "checkpoint"]
    return found


def content(folder: Path) -> dict[str, Any]:
    """Return all rows of a data folder, and its checkpoints."""
    with closing(sqlite3.connect(folder / FILE)) as connection:
        rows: dict[str, Any] = {
            table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608
            if table != "numbering"
            else connection.execute("SELECT shared FROM numbering").fetchall()
            for table, columns in TABLES.items()
        }
    files = sorted((folder / "checkpoints").glob("*/*"))
    rows["checkpoints"] = [
        (str(each.relative_to(folder)), each.read_bytes(), round(each.stat().st_mtime, 3)) for each in files
    ]
    return rows


def copied(source: object, target: object, *more: object) -> Json:
    done = command("store", "copy", source, target, "--json", *more)
    assert done.code == 0, done.err
    result: Json = json.loads(done.out)
    return result


def learn(server: Server) -> None:
    """Learn as the server of the other store does, with the same bits."""
    for name in MODELS:
        for i in range(10):
            server.learn(sample(i), 1 if name in ("other", "pruned") else "cat", model=name, id=f"later {i}")
    server.label("waiting 1", "dog", model="m")


@contextlib.contextmanager
def owning(folder: Path, **settings: Any) -> Iterator[Server]:
    """Run a server with PostgreSQL, and wait until it owns its shards."""
    with serving(folder / "unused", **settings) as server:
        wait_until(lambda: server.client.get("/health/ready").status_code == 200)
        yield server


def refuse_forgotten(server: Server) -> None:
    body = {"x": sample(3), "y": "cat", "model": "m", "id": "sample 3 ü"}
    answer = server.client.post("/learn", json=body)
    assert answer.json()["error"]["code"] == "id_forgotten"


def test_a_copy_to_postgres_and_back_is_equal(tmp_path: Path, url: str) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    with serving(first, **SETTINGS) as server:
        fill(server)
        before, past = states(server), histories(server)
    assert {mark["kind"] for each in past.values() for mark in each["marks"]} == {
        "rollback",
        "unlearning",
        "import",
    }
    assert past["m"]["step"]
    assert past["m"]["experts"]["step"]
    folder = content(first)
    assert {kind for _, _, _, kind, *_ in folder["event"]} >= {
        "rollback",
        "forget",
        "import",
        "delete",
        "label",
    }
    assert folder["pruned"]
    assert folder["forgotten"]
    numbers = copied(f"sqlite:{first}", url)
    assert numbers == {
        "models": len(MODELS),
        "events": len(folder["event"]),
        "checkpoints": len(folder["checkpoints"]),
    }
    back = command("store", "copy", "BNP_STORE", f"sqlite:{last}", "--json", BNP_STORE=url)
    assert (back.err, json.loads(back.out)) == ("", numbers)
    assert content(first) == folder
    assert content(last) == folder

    with serving(last, **SETTINGS) as server:
        assert states(server) == before
        assert histories(server) == past
        refuse_forgotten(server)
        learn(server)
        after = states(server)
        server.client.post("/models/m/rollback", json={"step": 20}).raise_for_status()
        rolled = server.fingerprint("m")
        made = server.create(name="new", **SPEC)
    with owning(tmp_path, store=SecretStr(url), **SETTINGS) as server:
        assert states(server) == before
        assert histories(server) == past
        refuse_forgotten(server)
        learn(server)
        assert states(server) == after
        server.client.post("/models/m/rollback", json={"step": 20}).raise_for_status()
        assert server.fingerprint("m") == rolled
        assert server.create(name="new", **SPEC)["step"] == made["step"] == 0


def test_checkpoints_outside_of_the_database_are_copied(tmp_path: Path, url: str) -> None:
    folder, shared = tmp_path / "data", tmp_path / "shared"
    with serving(folder, **SETTINGS) as server:
        for i in range(50):
            server.learn(sample(i), i % 2)
        before = server.fingerprint()
    copied(f"sqlite:{folder}", url, "--checkpoints", shared, "--shards", 3)
    with owning(tmp_path, store=SecretStr(url), checkpoints=str(shared), **SETTINGS) as server:
        assert server.fingerprint() == before
    copied(url, f"sqlite:{tmp_path / 'back'}", "--checkpoints", shared)
    assert content(tmp_path / "back")["event"] == content(folder)["event"]
    assert len(content(tmp_path / "back")["checkpoints"]) >= 1


# Logs without a server.


def create(log: Any, name: str) -> int:
    body = json.dumps({"name": name, "task": "classification"}).encode()
    model: int = log.create(Event("create", body, step=0), name)
    return model


def fill_log(folder: Path, count: int = 20, size: int = 10) -> int:
    folder.mkdir(exist_ok=True)
    with closing(SqliteLog(folder)) as log:
        model = create(log, "m")
        for i in range(count):
            run = Run(Lines.of([b"x" * (size // 3)] * 3), {0: (f"{i}\0", b"d")}, 3 * i + 3, Form.OBJECTS)
            log.append([Group(model, 0, [run], [Advance("kafka:t", 2, i or None, i + 1)])])
    return model


def test_numbers_continue_after_the_last_one_of_format_1(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "data"
    model = fill_log(folder)
    with closing(sqlite3.connect(folder / FILE)) as connection:
        connection.execute("UPDATE numbering SET shared = 500")
        connection.commit()
    copied(f"sqlite:{folder}", url)
    with closing(PostgresLog(url, wait=5.0)) as log:
        assert [record.seq for record in log.read(model, [Segment(0, model, LAST)])][-1] == model + 60
        assert log.head(model) == 500
        assert log.positions(model) == [Position("kafka:t", 2, 20)]
        assert log.append([Group(model, 0, [Event("learn", b"")])]) == [501]
        assert create(log, "other") == 501
        assert log.heads_of(log.shard(501)) == {501: 501} | (
            {model: 501} if log.shard(model) == log.shard(501) else {}
        )
    copied(url, f"sqlite:{tmp_path / 'back'}")
    with closing(SqliteLog(tmp_path / "back")) as log:
        assert log.head(model) == 501
        assert create(log, "third") == 502


def test_pages_are_limited_in_bytes(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    fill_log(tmp_path / "data", 40, 10**6)
    copied(f"sqlite:{tmp_path / 'data'}", url)
    monkeypatch.setattr("service.storage.sqlite_copying._BYTES", 3 * 10**6)
    slices = sqlite_copying._slices

    def seen(rows: Iterable[Row]) -> Iterator[list[Row]]:
        for some in slices(rows):
            if len(some[0]) > 4:  # events, not ids
                sizes.append(len(some))
            yield some

    monkeypatch.setattr(sqlite_copying, "_slices", seen)
    copied(url, f"sqlite:{tmp_path / 'back'}")
    assert max(sizes) == 4  # with the creation, which is small
    assert content(tmp_path / "back") == content(tmp_path / "data")


def test_a_target_with_models_is_refused_and_unchanged(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "data"
    fill_log(folder)
    copied(f"sqlite:{folder}", url)
    with closing(PostgresLog(url, wait=5.0)) as log:
        before = [record.event for record in log.models_of(range(log.shards))]
    again = command("store", "copy", f"sqlite:{folder}", url)
    assert (again.code, again.out) == (1, "")
    assert "has models already" in again.err
    other = tmp_path / "other"
    fill_log(other)
    rows = content(other)
    refused = command("store", "copy", url, f"sqlite:{other}")
    assert refused.code == 1
    assert f"the folder {other} has models already" in refused.err
    assert content(other) == rows
    with closing(PostgresLog(url, wait=5.0)) as log:
        assert [record.event for record in log.models_of(range(log.shards))] == before


def test_a_store_in_use_is_refused(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "data"
    with serving(folder):
        used = command("store", "copy", f"sqlite:{folder}", url)
        assert (used.code, used.out) == (1, "")
        assert "another server" in used.err
    with closing(PostgresLog(url, owner="a", of=2)) as log:
        create(log, "m")
        for pair in ((url, f"sqlite:{tmp_path / 'new'}"), (f"sqlite:{folder}", url)):
            used = command("store", "copy", *pair)
            assert used.code == 1
            assert "shard 0 belongs to another server (a)" in used.err
    assert not (tmp_path / "new" / FILE).exists()


def test_wrong_places_are_explained(tmp_path: Path, url: str) -> None:
    wrong = {
        ("data", url): (2, "data is no store: give sqlite:FOLDER, a URL postgresql://..., or BNP_STORE"),
        ("sqlite:a", "sqlite:b"): (2, "stop the server, and copy the folder"),
        ("BNP_STORE", "sqlite:b"): (2, "BNP_STORE is not set"),
        (f"sqlite:{tmp_path / 'none'}", url): (1, "There is no folder"),
        (url, f"sqlite:{tmp_path / 'new'}"): (1, "bnp-online cluster init"),
    }
    for places, (code, text) in wrong.items():
        done = command("store", "copy", *places)
        assert (done.code, done.out) == (code, "")
        assert text in done.err


def test_a_damaged_event_ends_the_copy(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "data"
    model = fill_log(folder)
    with closing(sqlite3.connect(folder / FILE)) as connection:
        connection.execute("UPDATE event SET body = 'y' WHERE seq = ?", (model + 9,))
        connection.commit()
    done = command("store", "copy", f"sqlite:{folder}", url)
    assert done.code == 1
    assert f"--skip {model}:{model + 9}" in done.err
    with closing(SqliteLog(folder)) as log:
        log.correct(model, {model + 9: "damaged"}, {})
    assert copied(f"sqlite:{folder}", url)["events"] == 61


PROGRAM = """
import os, signal, sys
from service.storage import copying
to_records, left = copying.to_records, [{rows}]
def counted(row):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return to_records(row)
copying.to_records = counted
sys.argv = ["bnp-online", "store", "copy", {source!r}, {target!r}]
from service.cli.application import run
sys.exit(run())
"""


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_a_killed_copy_is_refused_and_begins_anew(
    postgres: PostgresServer, tmp_path: Path, url: str, kind: str
) -> None:
    folder, back = tmp_path / "data", tmp_path / "back"
    fill_log(folder, 200, 100_000)
    source, target = f"sqlite:{folder}", url
    if kind == "sqlite":
        copied(source, url)
        source, target = url, f"sqlite:{back}"
    code = PROGRAM.format(rows=190, source=source, target=target)
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if kind == "sqlite":
        assert (back / COPYING).exists()
        with pytest.raises(StorageFailedError, match="incomplete copy of a store in PostgreSQL"):
            SqliteLog(back)
    else:
        for opened in (PostgresLog, Cluster):
            with pytest.raises(StorageFailedError, match=f"incomplete copy of sqlite:{folder}"):
                opened(url)
    copied(source, target)
    if kind == "postgres":
        copied(url, f"sqlite:{back}")
    assert not (back / COPYING).exists()
    assert content(back) == content(folder)
    with contextlib.closing(SqliteLog(back)) as log:
        assert log.length == 601
