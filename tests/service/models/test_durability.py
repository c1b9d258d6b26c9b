"""What is acknowledged is there after a restart, to the last bit; and what is taken back is gone."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import bnp_online as bnp
from bnp_online import checkpoint
from service.errors import DamagedEventError, NotKeptError
from service.models.recovery import open_folder
from service.settings import Settings
from service.storage.data_dir import FolderInUseError
from tests.support.running import Json, Server, error, killed_copy, serving
from tests.support.server_process import wait_until
from tests.support.streaming import post_lines

SPEC = {"hidden": (6, 5), "replay": 1, "memory": 20}
SAFETENSORS = {"content-type": "application/octet-stream"}


def samples(count: int, seed: int = 0) -> Iterator[tuple[Json, Any]]:
    """Samples of three classes, with features and classes that appear later, and gaps."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        a, b = rng.normal(size=2).tolist()
        x: Json = {"a": a, "town": "Oslo" if b > 0 else "Lund", "gap": None if i % 7 == 3 else b}
        if i > count // 3:
            x[f"new{i % 2}"] = a * b
        yield (
            x,
            ["cat", "dog"][int(a > 0)] if i < count // 2 else ["cat", "dog", "cow"][int(a > 0) + int(b > 1)],
        )


def crash(server: Server, folder: Path) -> Path:
    """Return the data folder as a kill at this moment leaves it."""
    return killed_copy(server.app.state.settings.data_dir, folder)


def learned(server: Server, count: int, model: str = "default", seed: int = 0, start: int = 0) -> list[Json]:
    """Learn samples, each with an id; some by a prediction and its label."""
    answers = []
    for i, (x, y) in itertools.islice(enumerate(samples(count, seed)), start, None):
        if i % 5 == 2:
            server.predict(x, id=f"p{i}", model=model)
            answers.append(server.label(f"p{i}", y, model=model))
        else:
            answers.append(server.learn(x, y, id=f"e{i}", model=model, w=1.0 + i % 2))
    return answers


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    """Serve a data folder, by default always the same."""

    def one(folder: Path | None = None, **settings: Any) -> Any:
        return serving(folder or tmp_path / "data", default_model=spec(), **settings)

    return one


def spec(**changes: Any) -> Any:
    from service.schemas import ModelSpec

    return ModelSpec.model_validate({**SPEC, **changes})


def test_a_restart_changes_nothing(start: Callable[..., Any], tmp_path: Path) -> None:
    """Clean or not, with or without a checkpoint: every fingerprint, score, id and pending prediction."""
    with start(checkpoint_every=40) as server:
        server.create(name="numbers", task="regression", hidden=[4])
        for x, _ in samples(30):
            server.learn({"a": x["a"]}, 3.0 * x["a"], model="numbers")
        learned(server, 100)
        server.predict({"a": 1.0}, id="waiting")
        wait_for(lambda: server.get("/models/default/checkpoints")["checkpoints"])
        paths = [f"/models/{m}/{what}" for m in ("default", "numbers") for what in ("fingerprint", "metrics")]
        before = {path: server.get(path) for path in [*paths, "/models/default", "/models/numbers"]}
        killed = crash(server, tmp_path / "killed")
        shutil.rmtree(crash(server, tmp_path / "bare") / "checkpoints")
    for folder in (None, killed, tmp_path / "bare"):
        with start(folder, checkpoint_every=40) as server:
            assert {path: server.get(path) for path in before} == before
            again = server.learn(*next(samples(100)), id="e0", w=1.0)
            assert (again["step"], again["duplicate"]) == (1, True)
            assert error(server.post("/learn", x={"a": 1}, y="cat", id="e0"))[:2] == (409, "id_conflict")
            assert error(server.post("/label", id="p2", y="cat"))[:2] == (409, "already_labelled")
            labelled = server.label("waiting", "cow")
            assert labelled["step"] == 101
            later = [answer["loss"] for answer in learned(server, 130, start=100)]
            fingerprints = server.get(paths[0])
        if folder is None:
            expected = later, fingerprints
        assert (later, fingerprints) == expected


def test_numbers_come_back_from_the_log_as_they_came(start: Callable[..., Any], tmp_path: Path) -> None:
    """However they were written: what is logged of a sample is the JSON that it came as."""
    written = [
        "1",
        "-0",
        "-0.0",
        "1E2",
        "0.1",
        "5e-324",
        "1e-400",
        str(2**53 + 1),
        str(2**70),
        "null",
        "true",
    ]
    lines = [
        f' {{"w": {w}, "y": "{y}", "x": {{"\\u0061": {a}, "b:": {b}}}, "id": null}}\n'
        for a, b in itertools.pairwise(written)
        for y, w in (("cat", "null"), ("dog", "2"))
    ]
    with start() as server:
        assert all("step" in answer for answer in post_lines(server, [line.encode() for line in lines]))
        before = server.fingerprint()
        killed = crash(server, tmp_path / "killed")
    shutil.rmtree(killed / "checkpoints", ignore_errors=True)
    with start(killed) as server:
        assert server.fingerprint() == before


def test_integers_beyond_64_bits_come_back_from_the_log_as_they_came(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """A decoder of JSON may return the nearest float for them: as a text, and as a label."""
    numbers = [str(number) for number in (-(2**63) - 1, -(2**63), -(2.0**63), 2**64 - 1, 2**64, 10**90, 1e90)]
    texts = [f'{{"x": {{"a": {i}, "text": {n}}}, "y": {i % 2}}}\n' for i, n in enumerate(numbers)]
    labels = [f'{{"x": {{"a": {i}}}, "y": {n}}}\n' for i, n in enumerate([*numbers, *numbers])]
    with start() as server:
        for name, lines in (("texts", texts), ("labels", labels)):
            made = server.client.post("/models", json={"name": name, "text": ["text"], "hidden": [4]})
            assert made.status_code == 201
            answers = post_lines(server, [line.encode() for line in lines], path=f"/models/{name}/learn")
            found = [answer.get("step", answer.get("error", {}).get("code")) for answer in answers]
            if name == "texts":
                assert found == [*range(1, 8)]
            else:  # only -(2**63) is a label
                assert [each for each in found if each != "invalid_label"] == [1, 2]
        before = [server.fingerprint(name) for name in ("texts", "labels")]
        killed = crash(server, tmp_path / "killed")
    shutil.rmtree(killed / "checkpoints", ignore_errors=True)
    with start(killed) as server:
        assert [server.fingerprint(name) for name in ("texts", "labels")] == before


def kept(server: Server) -> list[int]:
    return [kept["step"] for kept in server.get("/models/default/checkpoints")["checkpoints"]]


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_deleted_models_stay_deleted(start: Callable[..., Any], tmp_path: Path) -> None:
    with start() as server:
        server.learn({"secret": "Secret-Content"}, "cat")
        server.client.post("/models/default/checkpoints").raise_for_status()
        server.client.delete("/models/default").raise_for_status()
        server.create(name="other")
        killed = crash(server, tmp_path / "killed")
    for folder in (None, killed):
        with start(folder) as server:
            assert [model["name"] for model in server.get("/models")["models"]] == ["other"]
        assert b"Secret-Content" not in contents(folder or tmp_path / "data")


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_model_made_again_begins_anew(start: Callable[..., Any]) -> None:
    with start() as server:
        fresh = server.fingerprint()
        learned(server, 10)
        server.client.delete("/models/default").raise_for_status()
        server.create(**spec().model_dump(mode="json", exclude_none=True))
        assert server.fingerprint() == fresh
        assert server.learn({"a": 1}, "cat", id="e0")["duplicate"] is False


def test_pending_predictions_expire_over_a_restart(start: Callable[..., Any]) -> None:
    with start() as server:
        server.predict({"a": 1.0}, id="t")
    time.sleep(0.3)
    with start(label_ttl=0.2) as server:
        server.predict({"a": 1.0}, id="u")
        time.sleep(0.3)
        assert error(server.post("/label", id="u", y="cat"))[:2] == (404, "unknown_id")
        assert server.label("t", "cat")["step"] == 1  # it was promised a day


def test_a_rollback_is_exact_and_starts_a_branch(start: Callable[..., Any], tmp_path: Path) -> None:
    with start(checkpoint_every=20) as server:
        learned(server, 30)
        at_30 = server.fingerprint()
        taken = server.client.post("/models/default/checkpoints").json()
        assert (taken["step"], taken["current"]) == (30, True)
        learned(server, 45, start=30)
        at_45 = server.fingerprint()
        learned(server, 60, start=45)
        answer = server.client.post("/models/default/rollback", json={"step": 45}).json()
        assert answer == {"model": "default", "step": 45, "branch": 1}
        assert server.fingerprint() == at_45
        assert server.get("/models/default/metrics")["n"] == 44
        # An id that was rolled back is free again, one from before is not.
        assert server.learn({"a": 9.0}, "cat", id="e46")["duplicate"] is False
        assert error(server.post("/learn", x={"a": 9.0}, y="cat", id="e31"))[1] == "id_conflict"
        other_46 = server.fingerprint()
        assert error(server.client.post("/models/default/rollback", json={"step": 50}))[:2] == (
            404,
            "unknown_checkpoint",
        )
        name = {"checkpoint": taken["checkpoint"]}
        assert server.client.post("/models/default/rollback", json=name).json()["branch"] == 2
        assert server.fingerprint() == at_30
        branches = server.get("/models/default/branches")["branches"]
        assert [(b["number"], b["parent"]) for b in branches] == [(0, None), (1, 0), (2, 0)]
        left = server.client.get("/models/default/events", params={"branch": 0, "after": branches[1]["fork"]})
        assert [event["step"] for event in left.json()["events"] if event["kind"] == "learn"][-1] == 60
        counted = server.get("/models/default/events?limit=1000")["events"]
        assert [e["step"] for e in counted if e["kind"] in ("learn", "label")] == list(range(1, 31))
        listed = server.get("/models/default/checkpoints")["checkpoints"]
        current = {c["step"]: c["current"] for c in listed}
        assert current[30]
        assert all(usable == (step <= 30) for step, usable in current.items())
        learned(server, 45, start=30)
        assert server.fingerprint()["model_sha256"] == at_45["model_sha256"]
        killed = crash(server, tmp_path / "killed")
        final = server.fingerprint()
        assert other_46["step"] == 46
    for folder in (None, killed):
        with start(folder) as server:
            assert server.fingerprint() == final
            assert server.client.post("/models/default/rollback", json={"step": 0}).json()["step"] == 0
            learned(server, 30)
            assert server.fingerprint() == at_30


def test_going_back_needs_a_step_or_a_checkpoint(start: Callable[..., Any]) -> None:
    with start() as server:
        for body in ({}, {"step": 1, "checkpoint": "x"}, {"step": -1}, {"step": "1"}, {"steps": 1}):
            answer = server.client.post("/models/default/rollback", json=body)
            assert answer.status_code == 422, body
        for name in ("../../secret", "step0-branch0-event1-head1", ""):
            answer = server.client.post("/models/default/rollback", json={"checkpoint": name})
            assert error(answer)[:2] == (404, "unknown_checkpoint")
        answer = server.client.post("/models/nobody/rollback", json={"step": 0})
        assert error(answer)[:2] == (404, "unknown_model")


def forget(server: Server, *ids: str) -> Json:
    answer = server.client.post("/models/default/forget", json={"ids": ids})
    assert answer.status_code == 202, answer.text
    body: Json = answer.json()
    wait_for(lambda: server.get("/models/default")["state"] == "ready")
    return body


def test_unlearning_leaves_the_model_of_a_server_that_never_saw_the_samples(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    gone = {"e3", "e21", "e24", "e90", "p12"}
    town = "Secret-Town"

    def each(server: Server, leave_out: set[str]) -> None:
        for i, (x, y) in enumerate(samples(110)):
            name = f"p{i}" if i % 5 == 2 else f"e{i}"
            if name in leave_out:
                continue
            x = {**x, "town": town} if name in gone else x
            if name.startswith("p"):
                server.predict(x, id=name)
                server.label(name, y)
            else:
                server.learn(x, y, id=name)

    with start(tmp_path / "never", checkpoint_every=15) as server:
        each(server, gone)
        expected = server.fingerprint()["model_sha256"]
    with start(checkpoint_every=15) as server:
        each(server, set())
        assert town.encode() in contents(tmp_path / "data")
        assert server.fingerprint()["model_sha256"] != expected
        before = server.get("/models/default")["step"]
        body = forget(server, *gone)
        assert (body["model"], body["forgotten"]) == (
            "default",
            6,
        )  # a prediction and its label are two events
        assert server.fingerprint()["model_sha256"] == expected
        assert server.get("/models/default")["step"] == before - 5
        assert town.encode() not in contents(tmp_path / "data")
        listed = server.get("/models/default/checkpoints")["checkpoints"]
        assert all(c["step"] <= 3 or c["step"] == before - 5 for c in listed)  # before, or after the rebuild
        counted = server.get("/models/default/events?limit=1000")["events"]
        assert [e["step"] for e in counted if e["step"]] == list(range(1, 106))
        assert error(server.post("/learn", x={"a": 1}, y="cat", id="e21"))[:2] == (409, "id_forgotten")
        assert forget(server, "e21")["forgotten"] == 0
        answer = server.client.post("/models/default/forget", json={"ids": ["e25", "nobody"]})
        assert error(answer) == (404, "unknown_id", "ids")
        again = server.learn({"a": 1.0}, "cat", id="after")
        assert again["step"] == 106
        killed = crash(server, tmp_path / "killed")
        final = server.fingerprint()
    for folder in (None, killed):
        with start(folder) as server:
            assert server.fingerprint() == final
            assert error(server.post("/learn", x={"a": 1}, y="cat", id="e21"))[:2] == (409, "id_forgotten")


def never(recovery: object, upto: int | None, go_on: Callable[[int], None]) -> None:
    """A replay that takes longer than the server lives."""
    while True:
        time.sleep(0.01)
        go_on(0)


def test_a_server_that_is_killed_while_it_unlearns_starts_without_the_samples(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(tmp_path / "never") as server:
        for i, (x, y) in enumerate(samples(50)):
            if i != 9:
                server.learn(x, y)
        expected = server.fingerprint()["model_sha256"]
    with start(checkpoint_every=25) as server:
        for i, (x, y) in enumerate(samples(50)):
            server.learn({**x, "a": 77.5} if i == 9 else x, y, id=f"e{i}")
        with monkeypatch.context() as patch:
            patch.setattr("service.models.recovery.Recovery.run", never)
            server.client.post("/models/default/forget", json={"ids": ["e9"]}).raise_for_status()
            assert server.get("/models/default")["state"] == "rebuilding"
            assert server.predict({"a": 1.0})["step"] == 50
            answer = server.client.post("/models/default/checkpoints")
            assert error(answer)[:2] == (409, "rebuilding")
            killed = crash(server, tmp_path / "killed")
    with start(killed) as server:
        assert server.get("/models/default")["step"] == 49
        assert server.fingerprint()["model_sha256"] == expected
        assert b"77.5" not in contents(killed)


def test_unlearning_goes_on_while_the_model_learns(start: Callable[..., Any]) -> None:
    with start() as server:
        for i, (x, y) in enumerate(samples(400)):
            server.learn(x, y, id=f"e{i}")
        answer = server.client.post("/models/default/forget", json={"ids": ["e5"]})
        assert answer.json()["rebuilding"] is True
        steps = [server.learn({"a": 1.0, "b": float(i)}, "cat", id=f"m{i}")["step"] for i in range(50)]
        server.client.post("/models/default/forget", json={"ids": ["m7", "e6"]}).raise_for_status()
        wait_for(lambda: server.get("/models/default")["state"] == "ready")
        assert steps[0] in (400, 401)
        assert server.get("/models/default")["step"] == 447
        server.client.post("/models/default/rollback", json={"step": 447}).raise_for_status()
        assert server.get("/models/default")["step"] == 447


def test_what_the_log_no_longer_reaches_cannot_be_forgotten_or_gone_back_to(
    start: Callable[..., Any],
) -> None:
    with start(checkpoint_every=50, keep_checkpoints=2, retain_events=20) as server:
        for i, (x, y) in enumerate(samples(210)):
            server.learn(x, y, id=f"e{i}")
        wait_for(
            lambda: (
                [c["step"] for c in server.get("/models/default/checkpoints")["checkpoints"]] == [200, 150]
            )
        )
        size = len(server.get("/models/default/events?limit=1000")["events"])
        assert 60 + 20 <= size <= 60 + 25
        for ids in (["e3"], ["e140"]):
            answer = server.client.post("/models/default/forget", json={"ids": ids})
            assert error(answer)[:2] == (410, "not_kept")
        for step in (0, 140):
            answer = server.client.post("/models/default/rollback", json={"step": step})
            assert error(answer)[:2] == (410, "not_kept")
        answer = server.client.post("/models/default/rollback", json={"step": 10**6})
        assert error(answer)[:2] == (404, "unknown_checkpoint")
        assert server.learn({"a": 1.0}, "cat", id="e3")["duplicate"] is False  # its event is gone
        assert forget(server, "e160")["forgotten"] == 1
        assert server.client.post("/models/default/rollback", json={"step": 155}).status_code == 200


def test_imports_alone_do_not_fill_the_log(start: Callable[..., Any], tmp_path: Path) -> None:
    bnp.BNPClassifier(hidden=(64,), seed=3).save(tmp_path / "local")
    body = (tmp_path / "local").read_bytes()
    with start(keep_checkpoints=1, retain_bytes=len(body)) as server:
        for _ in range(20):
            server.client.put("/models/default/import", content=body, headers=SAFETENSORS).raise_for_status()
        wait_for(lambda: len(server.get("/models/default/events?limit=1000")["events"]) <= 3)
        log = server.app.state.settings.data_dir / "events.sqlite3"
        wait_for(lambda: log.stat().st_size < 4 * len(body) + 100_000)


def test_an_import_is_pruned_as_samples_are(start: Callable[..., Any], tmp_path: Path) -> None:
    """The body of its event is the whole file. What follows is exact, and what came before is gone."""
    local = bnp.BNPClassifier(hidden=(4,), seed=3)
    for x, y in samples(20):
        local.learn_one(x, y)
    local.save(tmp_path / "local")
    with start(checkpoint_every=10, keep_checkpoints=1, retain_events=5) as server:
        learned(server, 15)
        for _ in range(10):
            body = (tmp_path / "local").read_bytes()
            server.client.put("/models/default/import", content=body, headers=SAFETENSORS).raise_for_status()
        for i, (x, y) in enumerate(samples(47, seed=5)):
            server.learn(x, y, id=f"i{i}")
            local.learn_one(x, y)
        server.client.post("/models/default/checkpoints").raise_for_status()
        kinds = [event["kind"] for event in server.get("/models/default/events?limit=1000")["events"]]
        assert kinds == ["create", *["learn"] * 5]
        for step in (10, 20, 30):
            answer = server.client.post("/models/default/rollback", json={"step": step})
            assert error(answer)[:2] == (410, "not_kept")
        answer = server.client.post("/models/default/forget", json={"ids": ["i3"]})
        assert error(answer)[:2] == (410, "not_kept")
        killed = crash(server, tmp_path / "killed")
    for folder in (None, killed):
        with start(folder, checkpoint_every=1000, keep_checkpoints=1, retain_events=5) as server:
            assert server.fingerprint()["model_sha256"] == local.fingerprint()
            for i, (x, y) in enumerate(samples(20, seed=6)):
                server.learn(x, y, id=f"j{i}")
            assert forget(server, "j4")["forgotten"] == 1
            answer = server.client.post("/models/default/rollback", json={"step": 77})
            assert answer.status_code == 200
            twin = bnp.load(tmp_path / "local")
            for seed, count in ((5, 47), (6, 11)):
                for i, (x, y) in enumerate(samples(47 if seed == 5 else 20, seed=seed)):
                    if i < count and (seed, i) != (6, 4):
                        twin.learn_one(x, y)
            assert server.fingerprint()["model_sha256"] == twin.fingerprint()


@pytest.mark.parametrize("harm", ["cut", "altered", "all"])
def test_a_harmed_checkpoint_is_passed_over(
    start: Callable[..., Any], tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    with start() as server:
        learned(server, 20)
        server.client.post("/models/default/checkpoints").raise_for_status()
        learned(server, 40, start=20)
        expected = server.fingerprint()
    files = sorted(
        (tmp_path / "data" / "checkpoints").rglob("*.safetensors"), key=lambda p: p.stat().st_mtime
    )
    assert len(files) == 2
    for path in files if harm == "all" else files[1:]:
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(
            data[:middle] if harm == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        )
    with start() as server:
        assert server.fingerprint() == expected
    assert f"skipping checkpoint {files[1].stem}" in caplog.text


def test_a_damaged_event_stops_the_start_until_it_is_passed_over(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    with start() as server:
        learned(server, 20)
        seq = server.get("/models/default/events?limit=1000")["events"][10]["sequence"]
    folder = tmp_path / "data"
    shutil.rmtree(folder / "checkpoints")
    database = sqlite3.connect(folder / "events.sqlite3")
    database.execute("UPDATE event SET body = replace(body, '.', '1') WHERE seq = ?", (seq,))
    database.commit()
    database.close()
    with pytest.raises(DamagedEventError, match=f"--skip 1:{seq}"):
        open_folder(Settings(data_dir=folder, device="cpu"))
    with pytest.raises(DamagedEventError):  # nothing has changed, and nothing is locked
        open_folder(Settings(data_dir=folder, device="cpu"))


def test_a_log_without_its_beginning_needs_a_checkpoint(start: Callable[..., Any], tmp_path: Path) -> None:
    with start(checkpoint_every=10, keep_checkpoints=1, retain_events=0) as server:
        for x, y in samples(25):
            server.learn(x, y)
    shutil.rmtree(tmp_path / "data" / "checkpoints")
    with pytest.raises(NotKeptError, match=r"no earlier checkpoint .*checkpoints/1\..*repair --from nothing"):
        open_folder(Settings(data_dir=tmp_path / "data", device="cpu"))


def test_a_folder_is_for_one_server(start: Callable[..., Any], tmp_path: Path) -> None:
    with start(), pytest.raises(FolderInUseError, match="BNP_DATA_DIR"):
        open_folder(Settings(data_dir=tmp_path / "data", device="cpu"))


def test_a_model_goes_out_and_comes_back_in(start: Callable[..., Any], tmp_path: Path) -> None:
    local = bnp.BNPClassifier(hidden=(4,), seed=3)
    for x, y in samples(30):
        local.learn_one(x, y)
    local.save(tmp_path / "local")
    with start() as server:
        learned(server, 20)
        data = server.client.get("/models/default/export")
        assert data.headers["content-disposition"] == 'attachment; filename="default.safetensors"'
        (tmp_path / "exported").write_bytes(data.content)
        exported = bnp.load(tmp_path / "exported")
        assert exported.fingerprint() == server.fingerprint()["model_sha256"]

        body = (tmp_path / "local").read_bytes()
        answer = server.client.put("/models/default/import", content=body, headers=SAFETENSORS)
        assert (answer.status_code, answer.json()["step"], answer.json()["spec"]["hidden"]) == (200, 30, [4])
        assert server.fingerprint()["model_sha256"] == local.fingerprint()
        assert server.get("/models/default/metrics")["n"] == 0
        for x, y in samples(10, seed=5):
            server.learn(x, y)
            local.learn_one(x, y)
        killed = crash(server, tmp_path / "killed")
    for folder in (None, killed):
        with start(folder) as server:
            assert server.fingerprint()["model_sha256"] == local.fingerprint()
            server.client.post("/models/default/rollback", json={"step": 20}).raise_for_status()
            assert server.fingerprint()["model_sha256"] == exported.fingerprint()


@pytest.mark.parametrize("harm", ["empty", "cut", "altered", "foreign", "module", "hostile", "text", "name"])
def test_a_file_that_is_no_model_is_not_imported(
    start: Callable[..., Any], tmp_path: Path, harm: str
) -> None:

    model: Any = bnp.BNPClassifier(hidden=(4,))
    if harm == "module":
        model = bnp.BNPClassifier(network=torch.nn.Flatten(), input_shape=(3,), lr=0.1)
    model.save(tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    learned_text = bnp.BNPClassifier(hidden=(4,))
    learned_text.learn_one({"\ud800": 1.0}, "\udc00")
    state = learned_text.state_dict()
    data = {
        "empty": b"",
        "cut": data[:-9],
        "altered": data[:-1] + b"?",
        "foreign": b"\x80\x04N." * 50,
        "hostile": checkpoint.dumps({"estimator": ["BNPClassifier"], "parameters": {}, "tensors": {}}),
        "text": checkpoint.dumps(state),
        "name": checkpoint.dumps({**model.state_dict(), "parameters": {**state["parameters"], "\ud800": 1}}),
    }.get(harm, data)
    with start() as server:
        learned(server, 5)
        before = server.fingerprint()
        answer = server.client.put("/models/default/import", content=data, headers=SAFETENSORS)
        assert answer.status_code == 422, answer.text
        assert error(answer)[1] in ("invalid_checkpoint", "invalid_state", "invalid_spec")
        assert server.fingerprint() == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[" + "[]," * 3_000_000 + "[]]", "bytes; the limit is"),
        ('"' + "a" * 5_000_000 + '"', "bytes; the limit is"),
        ("[" + "[]," * 1_000_000 + "[]]", "values; the limit is"),
        ("[" + "9" * 4000 + "]", "more than 1000 digits"),
    ],
    ids=["lists", "string", "short lists", "digits"],
)
def test_a_file_with_an_excessive_header_is_not_imported(
    start: Callable[..., Any], content: str, problem: str
) -> None:
    """The header is refused before it is parsed: one call would parse it, while nothing else can run."""
    envelope = f'{{"format":1,"sha256":"{"0" * 64}","state":{{"estimator":{content}}}}}'
    body = safetensors.torch.save({"a": torch.zeros(1)}, {"bnp_online": envelope})
    with start() as server:
        learned(server, 5)
        before = server.fingerprint()
        answer = server.client.put("/models/default/import", content=body, headers=SAFETENSORS)
        assert error(answer)[:2] == (422, "invalid_checkpoint")
        assert problem in answer.json()["error"]["message"]
        assert server.fingerprint() == before


def test_limits_change_while_a_model_lives(start: Callable[..., Any], tmp_path: Path) -> None:
    with start() as server:
        server.create(name="narrow", max_features=2, max_classes=2, hidden=[4])
        server.learn({"a": 1, "b": 2, "c": 3}, "cat", model="narrow")
        server.learn({"a": 2}, "dog", model="narrow")
        assert error(server.post("/learn", x={"a": 1}, y="cow", model="narrow"))[1] == "too_many_classes"
        for body, field in (
            ({"max_features": 1}, "max_features"),
            ({"max_classes": 10**6}, "max_classes"),
            ({"max_features": 3, "max_classes": 10**6}, "max_classes"),
            ({"hidden": [3]}, "hidden"),
        ):
            assert error(server.client.patch("/models/narrow", json=body))[::2] == (422, field)
        assert server.get("/models/narrow")["spec"]["max_features"] == 2
        answer = server.client.patch("/models/narrow", json={"max_features": 3, "max_classes": 3})
        assert (answer.status_code, answer.json()["spec"]["max_features"]) == (200, 3)
        assert error(server.client.patch("/models/default", json={"max_classes": 1}))[0] == 422
        server.learn({"a": 1, "b": 2, "c": 3}, "cow", model="narrow")
        described, fingerprint = server.get("/models/narrow"), server.fingerprint("narrow")
        assert described["features"] == ["a", "b", "c"]
        killed = crash(server, tmp_path / "killed")
    for folder in (None, killed):
        with start(folder) as server:
            assert server.get("/models/narrow") == described
            assert server.fingerprint("narrow") == fingerprint


def test_no_model_grows_beyond_the_number_of_weights_that_the_server_takes(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """Whichever way it comes: made, changed, or imported."""
    bnp.BNPClassifier(hidden=(50,), max_features=90, lr=0.1).save(tmp_path / "large")
    limits = {"max_features": 90, "max_classes": 20}
    with start(**limits) as server:
        server.create(name="small", hidden=[4], lr=0.1, max_features=10, max_classes=2)
    with start(**limits, max_parameters=400) as server:
        before = server.fingerprint("small")
        for method, path, body in (
            ("POST", "/models", b'{"name": "other", "hidden": [10], "lr": 0.1}'),
            ("PATCH", "/models/small", b'{"max_features": 90, "max_classes": 20}'),
            ("PUT", "/models/small/import", (tmp_path / "large").read_bytes()),
        ):
            kind = "application/octet-stream" if method == "PUT" else "application/json"
            answer = server.client.request(method, path, content=body, headers={"content-type": kind})
            assert error(answer)[:2] == (422, "invalid_spec"), path
        assert server.fingerprint("small") == before
        for changes in ({"max_features": 60}, {"max_classes": 20}):
            assert server.client.patch("/models/small", json=changes).status_code == 200
        assert server.learn({"a": 1}, "cat")["step"] == 1  # what was there before goes on


def test_a_state_of_another_format_names_who_wrote_it(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with start() as server:
        learned(server, 5)
        expected = server.fingerprint()
        monkeypatch.setattr("service.models.snapshot.FORMAT", 99)
    with start() as server:
        assert server.fingerprint() == expected
    monkeypatch.undo()
    with start() as server:
        assert server.fingerprint() == expected


def test_a_stream_that_poisons_a_model_is_refused_sample_by_sample(
    start: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At a rate of 1e11 a legal sample leaves weights after which nothing could be predicted any more."""
    with start() as server:
        server.create(name="wild", hidden=[4], lr=1e11)
        codes = []
        for i, (x, y) in enumerate(samples(120)):
            answer = server.post("/learn", x=x, y=y, model="wild", id=f"e{i}")
            codes.append(answer.status_code if answer.status_code == 200 else error(answer)[1])
            assert server.post("/predict", x=x, model="wild").status_code == 200
            assert server.client.get("/health/ready").status_code == 200
        assert set(codes) == {200, "non_finite_state"}
        assert "diverged" in caplog.text
        step = server.get("/models/wild")["step"]
        assert step == codes.count(200)
        refused = codes.index("non_finite_state")
        listed = server.get("/models/wild/events?limit=1000")["events"]
        assert [event["refused"] for event in listed if event["id"] == f"e{refused}"] == ["non_finite_state"]
        x, y = next(samples(120))
        assert server.learn(x, y, model="wild", id="e0")["duplicate"] is True
        lines = "".join(f'{{"x": {{"a": {i}.5}}, "y": "cat", "model": "wild"}}\n' for i in range(200))
        headers = {"content-type": "application/x-ndjson"}
        answers = server.client.post("/learn", content=lines, headers=headers).text.splitlines()
        assert len(answers) == 200
        assert server.get("/models/wild")["step"] == step + sum('"step"' in line for line in answers)
        before = server.fingerprint("wild")
        shutil.rmtree(crash(server, tmp_path / "killed") / "checkpoints", ignore_errors=True)
    for folder in (None, tmp_path / "killed"):
        with start(folder) as server:
            assert server.fingerprint("wild") == before


def test_a_number_of_a_pruned_event_is_not_used_again(start: Callable[..., Any]) -> None:
    """A start must not count from an event before the last one: a checkpoint covers the number."""
    limits = {"checkpoint_every": 10, "keep_checkpoints": 1, "retain_events": 0}
    with start(**limits) as server:
        for x, y in samples(10):
            server.learn(x, y)
        wait_until(lambda: server.get("/models/default/events")["events"][1:] == [])
        before = server.get("/models/default")["sequence"]
    for _ in range(3):
        with start(**{**limits, "checkpoint_every": 1000}) as server:
            assert server.get("/models/default")["sequence"] == before
            server.learn({"a": 1.0}, "cat")
            before += 1
            assert server.get("/models/default")["sequence"] == before
