"""Servers that are killed at any moment come back with exactly what they had acknowledged."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from tests.support.load import MODELS, Clients, Promises
from tests.support.server_process import Json, RestartableServer, logged, replayed, restartable, wait_until

#: How often the server is killed; `make torture` does it fifty times.
KILLS = int(os.environ.get("BNP_TEST_KILLS", "4"))
SEED = int(os.environ.get("BNP_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


NUMBERS = {"name": "numbers", "task": "regression", "hidden": [5], "replay": 0}


def fingerprints(client: httpx.Client, models: Sequence[str] = MODELS) -> dict[str, Json]:
    return {model: client.get(f"/models/{model}/fingerprint").raise_for_status().json() for model in models}


def check(client: httpx.Client, folder: Path, promises: Promises, rng: random.Random) -> None:
    """Every promise is kept, nothing that was refused is there, and the state is that of the log."""
    found = fingerprints(client)
    assert {model: found[model]["model_sha256"] for model in MODELS} == {
        m: replayed(folder, m) for m in MODELS
    }
    in_log = {
        model: {
            (kind, identifier) for kind, identifier, _, refused in logged(folder, model) if refused is None
        }
        for model in MODELS
    }
    for model, identifier in promises.learned:
        assert ("learn", identifier) in in_log[model]
    kinds = in_log["default"]
    assert {("label", identifier) for identifier in promises.labelled} <= kinds
    assert {("predict", identifier) for identifier in promises.pending} <= kinds
    assert not {identifier for names in in_log.values() for _, identifier in names} & promises.refused
    repeated = rng.sample(sorted(promises.learned), min(25, len(promises.learned)))
    for key in repeated:
        step, body = promises.learned[key]
        answer = client.post("/learn", json=body).json()
        assert (answer["step"], answer["duplicate"]) == (step, True)
    assert fingerprints(client) == found


def test_it_is_killed_again_and_again(tmp_path: Path) -> None:
    rng, promises = random.Random(SEED), Promises()  # noqa: S311
    print(f"BNP_TEST_SEED={SEED}", file=sys.stderr)
    settings = {"BNP_CHECKPOINT_EVERY": "150", "BNP_KEEP_CHECKPOINTS": "2", "BNP_RETAIN_EVENTS": "1000000"}
    with restartable(tmp_path / "data", **settings) as server:
        client = server.start()
        client.post("/models", json=NUMBERS).raise_for_status()
        for run in range(KILLS):
            clients = Clients(str(client.base_url), promises, SEED, run)
            time.sleep(rng.uniform(0.05, 1.5))
            server.kill()
            clients.join()
            client = server.start()
            check(client, server.folder, promises, rng)
        assert server.terminate() == 0
        assert promises.learned
        assert promises.refused
        client = server.start()
        check(client, server.folder, promises, rng)


def flipping(count: int) -> list[Json]:
    """Samples whose labels are turned round after half of them."""
    rng = random.Random(7)  # noqa: S311
    drawn = [rng.gauss(0.0, 1.0) for _ in range(count)]
    return [
        {"x": {"a": a}, "y": bool((a > 0) == (i < count // 2)), "id": f"f{i}"} for i, a in enumerate(drawn)
    ]


def test_what_is_done_about_a_drift_is_done_again_at_the_same_step(tmp_path: Path) -> None:
    drift = {"action": "reset_slowest"}
    settings = {
        "BNP_DEFAULT_MODEL": json.dumps({"hidden": [6], "replay": 1, "memory": 50, "drift": drift}),
        "BNP_CHECKPOINT_EVERY": "150",
    }
    samples, ends = flipping(600), []
    for folder, kills in (("whole", ()), ("killed", (310, 345, 352, 370))):
        with restartable(tmp_path / folder, **settings) as server:
            client = server.start()
            for i, sample in enumerate(samples):
                if i in kills:
                    server.kill()
                    client = server.start()
                assert client.post("/learn", json=sample).json()["step"] == i + 1
            described = client.get("/models/default").json()["drift"]
            acted = [kind for kind, *_ in logged(server.folder) if kind == "action"]
            assert described["actions"] == len(acted) >= 1
            ends.append((described, fingerprints(client, ["default"])))
    assert ends[0] == ends[1]


def test_a_signal_under_load_drains_and_ends_well(tmp_path: Path) -> None:
    promises = Promises()
    with restartable(tmp_path / "data", BNP_SHUTDOWN_TIMEOUT="20") as server:
        client = server.start()
        client.post(
            "/models", json={"name": "numbers", "task": "regression", "hidden": [5]}
        ).raise_for_status()
        clients = Clients(str(client.base_url), promises, SEED, 0)
        wait_until(lambda: len(promises.learned) > 300)
        begun = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - begun < 25
        clients.join()
        client = server.start()
        # It ended with a checkpoint.
        recovered = [line for line in server.running.lines if "recovered: step" in line]
        assert recovered
        assert all(" 0 events replayed" in line for line in recovered)
        check(client, server.folder, promises, random.Random(SEED))  # noqa: S311


def test_a_second_server_on_the_folder_refuses_to_start(tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        server.start()
        said = RestartableServer(server.folder).refusal()
        assert f"another server (process {server.running.process.pid}) uses {server.folder}" in said


def test_a_damaged_event_stops_the_start_until_it_is_passed_over(tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        client = server.start()
        for i in range(20):
            client.post("/learn", json={"x": {"a": i}, "y": i % 3, "id": str(i)}).raise_for_status()
        server.kill()
        with sqlite3.connect(server.folder / "events.sqlite3") as database:
            (seq,) = database.execute("SELECT seq FROM event WHERE id = '7'").fetchone()
            database.execute("UPDATE event SET body = x'00' WHERE seq = ?", (seq,))
        database.close()
        command = f"repair --skip 1:{seq}"
        assert f"bnp-online {command}" in server.refusal()
        environment = {**os.environ, "BNP_DATA_DIR": str(server.folder)}
        repaired = subprocess.run(
            [sys.executable, "-m", "service.cli", *command.split()],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert str(seq) in repaired.stdout
        client = server.start()
        assert client.get("/models/default").json()["step"] == 19
        answer = client.post("/learn", json={"x": {"a": 19}, "y": 1, "id": "19"}).json()
        assert (answer["duplicate"], answer["step"]) == (True, 19)


def test_a_clock_that_jumps_back_changes_nothing(tmp_path: Path) -> None:
    """The first server runs an hour ahead of the second, in which the clock also jumps while it runs."""
    ahead = "import time; real = time.time; time.time = lambda: real() + 3600.0"
    jumps = "import time; real, begun = time.time, time.monotonic(); " + (
        "time.time = lambda: real() - 3600.0 * ((time.monotonic() - begun) % 2 > 1)"
    )
    with restartable(tmp_path / "data", ahead) as server:
        client = server.start()
        client.post("/learn", json={"x": {"a": 1}, "y": "cat"}).raise_for_status()
        client.post("/predict", json={"x": {"a": 1}, "id": "t"}).raise_for_status()
        server.kill()
    with restartable(tmp_path / "data", jumps, BNP_LABEL_TTL="3000") as server:
        client = server.start()
        for i in range(30):
            client.post("/learn", json={"x": {"a": i}, "y": "dog"}).raise_for_status()
            client.post("/predict", json={"x": {"a": 1}, "id": f"u{i}"}).raise_for_status()
            time.sleep(0.1)
        for name in ("t", "u0", "u29"):
            client.post("/label", json={"id": name, "y": "cat"}).raise_for_status()
        times = [event["time"] for event in client.get("/models/default/events?limit=1000").json()["events"]]
        assert times == sorted(times)
        assert len(times) == 1 + 1 + 1 + 60 + 3
