"""Roles of the nodes of a cluster: owners learn, standbys and replicas follow, standbys take over."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.brokers import broker
from tests.support.cluster import Node, nodes
from tests.support.commands import command
from tests.support.exposition import OF_CLUSTER, names, samples
from tests.support.postgres import PostgresServer, Proxy
from tests.support.server_process import wait_until

FILE, LINES = {"Content-Type": "application/octet-stream"}, {"Content-Type": "application/x-ndjson"}
SAMPLE: dict[str, Any] = {"x": {"a": 1, "b": 2}}


def follows(node: Node, other: Node, model: str = "default") -> None:
    """Wait until a node has the state of another one."""
    wait_until(lambda: node.fingerprint(model) == other.fingerprint(model))


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_replica_follows_every_kind_of_event(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url(postgres.schema())
    with nodes(tmp_path, url, BNP_CHECKPOINT_EVERY="40") as start:
        owner, replica = start("one", "owner"), start("two", "replica")
        owner.learn(0, 100)
        follows(replica, owner)
        answer = replica.client.post("/predict", json=SAMPLE)
        assert answer.json() == owner.client.post("/predict", json=SAMPLE).json()
        assert answer.json()["step"] == 100

        learning = replica.client.post("/learn", json={**SAMPLE, "y": 1})
        assert refused(learning) == (421, "wrong_node")
        assert learning.headers["BNP-Owner"] == owner.url
        assert refused(replica.client.post("/predict", json={**SAMPLE, "id": "p"})) == (421, "wrong_node")
        assert refused(replica.client.post("/models/default/checkpoints")) == (421, "wrong_node")
        assert refused(replica.client.post("/models", json={"name": "x"})) == (421, "wrong_node")

        client = owner.client
        rows = [{"x": {"a": i / 7, "b": 2}, "y": i % 2, "id": f"r{i}"} for i in range(300)]
        assert client.post("/learn", content="\n".join(map(json.dumps, rows)), headers=LINES).is_success
        follows(replica, owner)  # stored as runs
        assert client.post("/models/default/forget", json={"ids": ["r150", "r151"]}).status_code == 202
        wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        assert client.post("/models/default/rollback", json={"step": 333}).status_code == 200
        follows(replica, owner)
        assert client.post("/models/default/rollback", json={"step": 100}).status_code == 200
        follows(replica, owner)
        assert client.post("/predict", json={**SAMPLE, "id": "p"}).status_code == 200
        assert client.post("/label", json={"id": "p", "y": 0}).status_code == 200
        follows(replica, owner)
        assert client.post("/models/default/forget", json={"ids": ["s7", "s99"]}).status_code == 202
        wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        follows(replica, owner)
        assert replica.client.get("/models/default").json()["step"] == 99
        assert client.post("/models/default/rollback", json={"step": 60}).status_code == 200
        owner.learn(200, 210)
        follows(replica, owner)
        assert client.patch("/models/default", json={"max_features": 50}).status_code == 200
        created = client.post("/models", json={"name": "new", "hidden": [4]})
        assert created.status_code == 201, created.text
        owner.learn(0, 5, "new")
        wait_until(lambda: replica.client.get("/models/new").status_code == 200)
        follows(replica, owner, "new")
        file = client.get("/models/default/export").content
        assert client.put("/models/new/import", content=file, headers=FILE).status_code == 200
        owner.learn(5, 10, "new")
        follows(replica, owner, "new")
        follows(replica, owner)
        assert client.delete("/models/new").status_code == 204
        wait_until(lambda: replica.client.get("/models/new").status_code != 200)


def test_metrics_of_the_nodes(postgres: PostgresServer, tmp_path: Path) -> None:
    def metric(node: Node, name: str, **labels: str) -> float | None:
        return samples(node.client.get("/metrics").text).get((name, frozenset(labels.items())))

    schema = postgres.schema()
    with (
        contextlib.closing(Proxy(postgres.port)) as proxy,
        nodes(tmp_path, postgres.url(schema), BNP_MAX_STALENESS="2") as start,
    ):
        owner = start("one", "owner")
        replica = start("two", "replica", BNP_STORE=postgres.url(schema, proxy.port))
        wait_until(lambda: metric(replica, "bnp_cluster_shards", state="free") == 0)
        for node, owned in ((owner, 64), (replica, 0)):
            assert metric(node, "bnp_cluster_shards", state="owned") == owned
            assert metric(node, "bnp_cluster_shards", state="free") == 0
            assert metric(node, "bnp_cluster_up") == 1
        assert metric(owner, "bnp_cluster_staleness_seconds") is None
        of_cluster = {name for name in names(replica.client.get("/metrics").text) if "_cluster_" in name}
        assert of_cluster == OF_CLUSTER
        owner.kill()
        wait_until(lambda: metric(replica, "bnp_cluster_shards", state="free") == 64)
        described = replica.client.get("/cluster").json()
        assert {each["owner"] for each in described["shards"]} == {None}
        assert [(each["node"], each["owned"]) for each in described["nodes"]] == [("one", []), ("two", [])]
        proxy.refusing = True
        proxy.cut()
        wait_until(lambda: metric(replica, "bnp_cluster_up") == 0)
        assert (metric(replica, "bnp_cluster_staleness_seconds") or 0) > 2
        away = names(replica.client.get("/metrics").text)
        assert "bnp_model_step" in away
        assert not away & {"bnp_model_unsaved_steps", "bnp_model_checkpoints", "bnp_log_size_bytes"}


def test_only_the_owner_has_the_metrics_of_topics(postgres: PostgresServer, tmp_path: Path) -> None:
    def up(node: Node) -> list[float]:
        found = samples(node.client.get("/metrics").text)
        return [value for (name, _), value in found.items() if name == "bnp_ingest_up"]

    url = postgres.url(postgres.schema())
    with broker("nats") as nats, nodes(tmp_path, url, BNP_INGEST=nats.url("samples")) as start:
        nats.create("samples")
        owner, standby = start("one", "owner"), start("two", "standby")
        wait_until(lambda: (up(owner), up(standby)) == ([1.0], []))
        assert command("cluster", "drain", "one", BNP_STORE=url).code == 0
        wait_until(lambda: (up(owner), up(standby)) == ([], [1.0]))


def test_a_standby_takes_over(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url(postgres.schema())
    with nodes(tmp_path, url) as start:
        owner, standby = start("one", "owner"), start("two", "standby")
        owner.learn(0, 60)
        before = owner.fingerprint()
        owner.kill()
        killed = time.monotonic()
        wait_until(
            lambda: standby.client.post("/learn", json={**SAMPLE, "y": 1, "id": "s3"}).status_code < 421
        )
        print("taken over after", round(time.monotonic() - killed, 3), "s")
        assert refused(standby.client.post("/learn", json={**SAMPLE, "y": 1, "id": "s3"})) == (
            409,
            "id_conflict",
        )
        assert standby.fingerprint() == before
        wait_until(lambda: len(standby.owned()) == 64)
        standby.learn(60, 80)
        owner.launch()
        owner.up()
        wait_until(lambda: len(owner.owned()) == 64)  # the standby gives them back
        follows(standby, owner)
        assert refused(standby.client.post("/learn", json={**SAMPLE, "y": 1})) == (421, "wrong_node")
        owner.learn(80, 90)
        assert owner.terminate() == 0
        wait_until(lambda: len(standby.owned()) == 64)
        assert standby.client.get("/models/default").json()["step"] == 90
