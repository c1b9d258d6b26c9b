"""Shadows of servers that are killed, or whose log is in PostgreSQL: their state is a function of the log."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import httpx
import jiter

from tests.support.cluster import Node, nodes
from tests.support.load import Clients, Promises
from tests.support.postgres import PostgresServer
from tests.support.replay import Replica, Row, current, read_log
from tests.support.server_process import Json, restartable, wait_until

SEED = 5
LINEAR: dict[str, Any] = {"hidden": [], "lr": 0.1, "replay": 0}
WIDER: dict[str, Any] = {"hidden": [9], "replay": 1, "memory": 30}


def add(client: httpx.Client, name: str, spec: Json) -> None:
    client.post("/models/default/shadows", json={"name": name, **spec}).raise_for_status()


def promote(client: httpx.Client, name: str) -> Json:
    answer = client.post("/models/default/promote", json={"shadow": name})
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def fingerprints(client: httpx.Client) -> dict[str, str]:
    """Return the fingerprint of the champion and of each shadow, by name, once they have all events."""

    def listed() -> Any:
        return client.get("/models/default/shadows").json()

    wait_until(lambda: not any(each["behind"] for each in listed()["shadows"]))
    path, found = "/models/default/fingerprint", listed()
    names = {
        found["champion"]: path,
        **{each["name"]: f"{path}?shadow={each['name']}" for each in found["shadows"]},
    }
    return {name: client.get(path).json()["model_sha256"] for name, path in names.items()}


def replayed(rows: list[Row]) -> dict[str, str]:
    """Return the same from the log, by estimators of this process that learn it sample by sample."""
    models = {"original": Replica(jiter.from_json(rows[0].body))}
    for row in current(rows)[1:]:
        if row.kind == "shadow":
            made = jiter.from_json(row.body)
            models[made["name"]] = Replica(made["spec"])
        elif row.kind == "unshadow":
            del models[jiter.from_json(row.body)["name"]]
        for model in models.values():
            model.apply(row)
    return {name: str(model.estimator.fingerprint()) for name, model in models.items()}


def test_a_killed_server_comes_back_with_its_shadows(tmp_path: Path) -> None:
    rng, promises = random.Random(SEED), Promises()  # noqa: S311
    settings = {"BNP_CHECKPOINT_EVERY": "70", "BNP_KEEP_CHECKPOINTS": "2"}
    numbers = {"name": "numbers", "task": "regression", "hidden": [5], "replay": 0}
    with restartable(tmp_path / "data", **settings) as server:
        client = server.start()
        client.post("/models", json=numbers).raise_for_status()
        add(client, "linear", LINEAR)
        for run, name in enumerate(("linear", "wider", "original")):
            clients = Clients(str(client.base_url), promises, SEED, run)
            time.sleep(rng.uniform(0.3, 0.8))
            if run == 0:
                add(client, "wider", WIDER)
            else:
                promote(client, name)
            time.sleep(rng.uniform(0.0, 0.3))
            server.kill()
            clients.join()
            client = server.start()
            assert fingerprints(client) == replayed(read_log(server.folder).rows["default"])
        assert promises.learned
        assert promises.labelled
        before = fingerprints(client)
        assert before.keys() == {"original", "linear", "wider"}
        compared = [each["comparison"] for each in client.get("/models/default/shadows").json()["shadows"]]
        assert server.terminate() == 0
        client = server.start()
        assert fingerprints(client) == before
        again = [each["comparison"] for each in client.get("/models/default/shadows").json()["shadows"]]
        assert again == compared


def test_nodes_of_a_cluster_follow_shadows(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url(postgres.schema())

    def follows(node: Node, other: Node) -> None:
        wait_until(lambda: node.fingerprint() == other.fingerprint())
        wait_until(lambda: fingerprints(node.client) == fingerprints(other.client))

    with nodes(tmp_path, url, BNP_CHECKPOINT_EVERY="40", BNP_TAKEOVER_AFTER="2") as start:
        owner, standby = start("one", "owner"), start("two", "standby")
        owner.learn(0, 30)
        add(owner.client, "linear", LINEAR)
        owner.learn(30, 60)
        follows(standby, owner)
        lines = [json.dumps({"x": {"a": i, "b": 1}, "y": i % 2}) for i in range(100)]
        kind = {"Content-Type": "application/x-ndjson"}
        owner.client.post("/learn", content="\n".join(lines), headers=kind).raise_for_status()
        follows(standby, owner)
        other = standby.client.get("/models/default/shadows").json()
        assert other == owner.client.get("/models/default/shadows").json()
        refused = standby.client.post("/models/default/promote", json={"shadow": "linear"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (421, "wrong_node")
        promote(owner.client, "linear")
        owner.learn(100, 110)
        follows(standby, owner)
        before = fingerprints(owner.client)
        owner.kill()
        wait_until(standby.owned)
        wait_until(lambda: standby.client.post("/models/default/checkpoints").status_code == 201)
        assert fingerprints(standby.client) == before
        assert promote(standby.client, "original")["champion"] == "original"
