"""Models on demand: a limit of the models in memory, beyond which the least recently used ones are stored."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.models import recovery
from service.storage.checkpoints import CheckpointFiles
from service.storage.interfaces import Kind, Record
from service.storage.sqlite import SqliteLog
from tests.support.running import Json, Server, error, serving
from tests.support.server_process import wait_until
from tests.support.streaming import post_lines

SPEC: Json = {"hidden": [4], "replay": 0}


def states(server: Server) -> dict[str, str]:
    return {each["name"]: each["state"] for each in server.get("/models")["models"]}


def in_memory(server: Server) -> list[str]:
    return [name for name, state in states(server).items() if state != "stored"]


def some(server: Server, count: int) -> list[str]:
    names = [f"m{i}" for i in range(count)]
    for name in names:
        server.create(name=name, **SPEC)
    return names


def sample(i: int) -> tuple[Json, int]:
    return {"a": i % 5, "b": str(i % 3)}, i % 2


def test_the_least_recently_used_model_makes_room(serve: Callable[..., Server]) -> None:
    server = serve(models_in_memory=3)
    names = some(server, 4)
    assert in_memory(server) == ["m1", "m2", "m3"]
    for i in range(20):
        server.learn(*sample(i), model="m1")
    before = server.fingerprint("m1")
    server.predict({"a": 1}, model="m2")
    server.predict({"a": 1}, model="m3")
    server.predict({"a": 1}, model="m0")  # loaded again
    assert in_memory(server) == ["m0", "m2", "m3"]
    [listed] = [each for each in server.get("/models")["models"] if each["name"] == "m1"]
    assert listed == {"name": "m1", "task": "classification", "step": 20, "state": "stored"}
    assert server.fingerprint("m1") == before
    assert server.learn(*sample(20), model="m1")["step"] == 21
    assert server.client.delete("/models/m2").status_code == 204
    assert list(states(server)) == ["default", *(name for name in names if name != "m2")]


def test_the_bits_are_those_of_models_that_stay(tmp_path: Path) -> None:
    prints = []
    for limit in (None, 1):
        with serving(tmp_path / str(limit), models_in_memory=limit) as server:
            names = some(server, 3)
            for i in range(60):
                server.learn(*sample(i), model=names[i % 3], id=f"s{i}")
                if i % 4 == 0:
                    server.predict({"a": 1}, model=names[i % 2], id=f"p{i}")
                    server.label(f"p{i}", 1, model=names[i % 2])
            assert server.post("/models/m0/forget", ids=["s3"]).status_code == 202
            assert server.post("/models/m1/rollback", step=7).status_code == 200
            while server.get("/models/m0")["state"] != "ready":
                threading.Event().wait(0.01)
            prints.append([server.fingerprint(name) for name in names])
    assert prints[0] == prints[1]


def test_requests_to_more_models_than_fit_are_all_answered(serve: Callable[..., Server]) -> None:
    server = serve(models_in_memory=2)
    names = some(server, 6)

    def learn(name: str) -> list[int]:
        return [server.learn(*sample(i), model=name)["step"] for i in range(15)]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(learn, names)) == [[*range(1, 16)]] * 6
    wait_until(lambda: len(in_memory(server)) <= 2)
    lines = [{"x": sample(i)[0], "y": i % 2, "model": names[i % 6]} for i in range(300)]
    answers = post_lines(server, lines)
    assert [answer["model"] for answer in answers] == [line["model"] for line in lines]
    assert sorted(answer["step"] for answer in answers) == sorted([*range(16, 66)] * 6)


def test_a_model_in_use_stays(serve: Callable[..., Server]) -> None:
    server = serve(models_in_memory=1)
    some(server, 2)
    server.predict({}, model="m0")
    with server.held("m0"):
        server.predict({}, model="m1")
        assert in_memory(server) == ["m0", "m1"]
    server.predict({}, model="default")
    assert in_memory(server) == ["default"]


def test_a_load_reads_each_kind_of_change_once(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(models_in_memory=1, keep_checkpoints=3)
    some(server, 2)
    for i in range(6):  # each time the other model gets a checkpoint
        server.learn(*sample(i), model=f"m{i % 2}", id=f"s{i}")
    assert server.post("/models/m0/forget", ids=["s2"]).status_code == 202
    wait_until(lambda: server.get("/models/m0")["state"] == "ready")
    server.learn(*sample(6), model="m1")
    read: Counter[str] = Counter()
    changes, first_kept = SqliteLog.changes, SqliteLog.first_kept

    def count(log: SqliteLog, model: int, kind: Kind) -> list[Record]:
        read[kind] += 1
        return changes(log, model, kind)

    def count_first(log: SqliteLog, model: int) -> int:
        read["first_kept"] += 1
        return first_kept(log, model)

    monkeypatch.setattr(SqliteLog, "changes", count)
    monkeypatch.setattr(SqliteLog, "first_kept", count_first)
    assert server.predict({"a": 1}, model="m0")["step"] == 2
    # The other model gets a checkpoint and is removed from memory: it has read them already.
    assert {kind: read[kind] for kind in ("rollback", "upgrade", "forget")} == {
        "rollback": 1,
        "upgrade": 1,
        "forget": 1,
    }
    assert read["first_kept"] <= 5


def test_a_start_loads_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, models_in_memory=2) as server:
        for name in some(server, 3):
            server.learn({"a": 1}, "yes", model=name)
    loaded: list[int] = []
    real = recovery.recover

    def recover(log: Any, number: int, *more: Any, **options: Any) -> Any:
        loaded.append(number)
        return real(log, number, *more, **options)

    monkeypatch.setattr("service.models.registry.recover", recover)
    monkeypatch.setattr(recovery, "recover", recover)
    with serving(tmp_path, models_in_memory=2) as server:
        assert set(states(server).values()) == {"stored"}
        assert loaded == []
        assert {each["step"] for each in server.get("/models")["models"]} == {None}
        assert server.get("/models/m1")["step"] == 1
        assert len(loaded) == 1
        text = server.client.get("/metrics").text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert {sample.labels["model"] for sample in families["bnp_model_step"].samples} == {"m1"}
        assert {s.labels["state"]: s.value for s in families["bnp_models"].samples} == {
            "memory": 1, "stored": 3,
        }  # fmt: skip


def test_a_start_completes_what_was_unlearned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointFiles, "delete", lambda self, kept: None)  # as if killed before
    with serving(tmp_path, models_in_memory=1) as server:
        server.learn({"secret": 1}, "yes", id="s")
        assert server.client.post("/models/default/checkpoints").status_code == 201
        assert server.post("/models/default/forget", ids=["s"]).status_code == 202
    monkeypatch.undo()
    with serving(tmp_path, models_in_memory=1):
        for file in (tmp_path / "checkpoints").rglob("*.safetensors"):
            assert b"secret" not in file.read_bytes()


def test_a_model_that_cannot_be_restored_fails_alone(tmp_path: Path) -> None:
    with serving(tmp_path, models_in_memory=1, checkpoint_every=1, retain_events=0) as server:
        for name in some(server, 2):
            for i in range(4):
                server.learn(*sample(i), model=name)
        numbers = {record.model: record for record in server.registry._log.models()}
    kept = list((tmp_path / "checkpoints").rglob("*.safetensors"))
    damaged = max(numbers)
    for file in kept:
        if file.parent.name == str(damaged):
            file.write_bytes(b"damaged")
    with serving(tmp_path, models_in_memory=1) as server:
        assert error(server.post("/predict", x={}, model="m1"))[:2] == (503, "model_failed")
        assert server.predict({"a": 1}, model="m0")["step"] == 4
        assert server.client.delete("/models/m1").status_code == 204
        assert list(states(server)) == ["default", "m0"]
