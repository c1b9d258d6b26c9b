"""Models of earlier versions are relearned as they were; an upgrade relearns them, also through kills."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from bnp_online import BNPClassifier
from service.cli.launch import StartError
from tests.support.replay import Replayer, read_log
from tests.support.server_process import Json, logged, restartable, wait_until

SEED = int(os.environ.get("BNP_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
#: How often the server is killed in each test; `make torture` does it more often.
KILLS = int(os.environ.get("BNP_TEST_KILLS", "2"))
FIXTURES = Path(__file__).parents[1] / "fixtures" / "0.1.0"
#: Models of the fixtures that the numba engine learns, on features by name.
COMPILED = ("default", "drifting")
#: Writes of a server with a small model from a request to the checkpoint of the new model, about.
WRITES = range(12, 22)
SMALL = {"name": "m", "hidden": [5], "replay": 1, "memory": 60, "seed": 3}


def sample(i: int) -> tuple[Json, str]:
    rng = random.Random(i)  # noqa: S311
    a, b = rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)
    return {"a": a, "b": b, "c": rng.choice(["red", "green", None])}, "cat" if a * b > 0.0 else "dog"


def learn(client: httpx.Client, first: int, last: int) -> None:
    lines = []
    for i in range(first, last):
        x, y = sample(i)
        lines.append(json.dumps({"x": x, "y": y, "id": f"s{i}", "model": "m"}))
    answer = client.post(
        "/learn", content="\n".join(lines), headers={"content-type": "application/x-ndjson"}
    ).raise_for_status()
    assert all(json.loads(line)["step"] for line in answer.text.splitlines())


def described(client: httpx.Client, model: str = "m") -> Json:
    body: Json = client.get(f"/models/{model}").raise_for_status().json()
    return body


def fingerprint(client: httpx.Client, model: str = "m") -> Json:
    body: Json = client.get(f"/models/{model}/fingerprint").raise_for_status().json()
    return body


def wait_until_ready(client: httpx.Client, model: str = "m") -> Json:
    wait_until(lambda: described(client, model)["state"] == "ready", 60.0)
    return described(client, model)


def fresh(samples: list[int]) -> str:
    """Return the fingerprint of a new estimator that has learned samples."""
    options = {key: value for key, value in SMALL.items() if key != "name"}
    estimator = BNPClassifier(**options, max_features=4096, max_classes=1024)  # type: ignore[arg-type]
    for i in samples:
        estimator.learn_one(*sample(i))
    return estimator.fingerprint()


def test_a_folder_of_version_0_1_0_is_relearned_as_it_was(tmp_path: Path) -> None:
    """By a start after a kill, by unlearning and by a rollback: two copies of the folder have equal bits.

    `Replayer` compares with the estimators. The checkpoint of 0.1.0 has other last bits than a replay now.
    """
    first, second = (_through_everything(tmp_path / name) for name in ("first", "second"))
    assert len(first) == 5 * len(COMPILED)
    assert first == second


def _through_everything(folder: Path) -> list[Json]:
    """Return the fingerprints of the models after each way to relearn them."""
    shutil.copytree(FIXTURES / "killed", folder)
    found = list[Json]()
    with restartable(folder, BNP_LABEL_TTL="1e10", BNP_CHECKPOINT_EVERY="1000") as server:
        client = server.start()
        models = [each["name"] for each in client.get("/models").json()["models"]]
        assert {described(client, model)["spec"]["learner"] for model in models} == {1}

        def check() -> None:
            log, replayer = read_log(server.folder), Replayer(server.folder)
            for model in models:
                wait_until_ready(client, model)
                if model in COMPILED:
                    found.append(fingerprint(client, model))
                    replica, _ = replayer.run(log, model)
                    body = next(json.loads(row.body) for row in log.rows[model] if row.kind == "learn")
                    x = body["x"] if isinstance(body, dict) else body[0]
                    answer = client.post("/predict", json={"model": model, "x": x}).raise_for_status().json()
                    expected = {str(y): p for y, p in replica.estimator.predict_proba_one(x).items()}
                    assert answer["probabilities"] == pytest.approx(expected, rel=1e-4), model

        check()
        server.kill()
        client = server.start()
        check()
        for model in models:
            known = [row for row in read_log(server.folder).rows[model] if row.kind == "learn" and row.id]
            ids = [row.id for row in known[len(known) // 2 :: 7]][:3]
            if ids:
                client.post(f"/models/{model}/forget", json={"ids": ids}).raise_for_status()
        check()
        for model in models:
            step = described(client, model)["step"] - 3
            client.post(f"/models/{model}/rollback", json={"step": step}).raise_for_status()
        check()
        server.kill()
        client = server.start()
        check()
        assert {described(client, model)["spec"]["learner"] for model in models} == {1}
    return found


def test_an_upgrade_is_completed_after_kills(tmp_path: Path) -> None:
    """The model learns and unlearns, and the server ends meanwhile; it becomes what a new model would be."""
    rng, learned = random.Random(SEED), 900  # noqa: S311
    print(f"BNP_TEST_SEED={SEED}")
    with restartable(tmp_path / "data", BNP_CHECKPOINT_EVERY="150", BNP_KEEP_CHECKPOINTS="2") as server:
        client = server.start()
        client.post("/models", json={**SMALL, "learner": 1}).raise_for_status()
        learn(client, 0, learned)
        assert client.post("/models/m/upgrade").status_code == 202
        forgotten = set[int]()
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.0, 0.3))
            learn(client, learned, learned + 40)
            learned += 40
            some = rng.sample(sorted(set(range(learned)) - forgotten), 2)
            client.post("/models/m/forget", json={"ids": [f"s{i}" for i in some]}).raise_for_status()
            forgotten.update(some)
            time.sleep(rng.uniform(0.0, 0.3))
            if rng.random() < 0.5:
                server.kill()
            else:
                assert server.terminate() == 0
            client = server.start()
        found = wait_until_ready(client)
        samples = [i for i in range(learned) if i not in forgotten]
        assert (found["spec"]["learner"], found["step"], found["upgrade"]) == (2, len(samples), None)
        assert fingerprint(client)["model_sha256"] == fresh(samples)
        kinds = [kind for kind, *_ in logged(server.folder, "m")]
        assert (kinds.count("upgrade"), kinds.count("upgraded")) == (1, 1)
        expected = fingerprint(client)
        server.kill()
        assert fingerprint(server.start()) == expected


def test_a_kill_at_a_write_of_the_switch_loses_nothing(tmp_path: Path) -> None:
    """The server is killed at one of its writes after an upgrade was requested, in turn."""
    rng = random.Random(SEED)  # noqa: S311
    print(f"BNP_TEST_SEED={SEED}")
    original = tmp_path / "original"
    with restartable(original) as server:
        client = server.start()
        client.post("/models", json={**SMALL, "learner": 1}).raise_for_status()
        learn(client, 0, 70)
        before = fingerprint(client)
        server.kill()
    expected = fresh([*range(70)])
    for point in rng.sample(WRITES, min(KILLS, len(WRITES))):
        folder = tmp_path / str(point)
        shutil.copytree(original, folder)
        with restartable(folder) as server:
            server.launch(f"from tests.support.crash_points import install; install({point})")
            asked = False
            with contextlib.suppress(StartError, httpx.TransportError, subprocess.TimeoutExpired):
                client = server.ready()
                asked = client.post("/models/m/upgrade").status_code == 202
                server.running.process.wait(1.0)
            server.kill()
            client = server.start()
            found = wait_until_ready(client)
            assert found["spec"]["learner"] == 2 or not asked, point
            if found["spec"]["learner"] == 2:
                assert fingerprint(client)["model_sha256"] == expected, point
                client.post("/models/m/rollback", json={"step": 69}).raise_for_status()
                assert described(client)["spec"]["learner"] == 1
                x, y = sample(69)
                client.post("/learn", json={"x": x, "y": y, "model": "m"}).raise_for_status()
            assert fingerprint(client) == before, point
