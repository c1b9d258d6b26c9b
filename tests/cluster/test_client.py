"""The Python client with real nodes: it reads its own writes from a standby, which then takes over."""

from __future__ import annotations

from pathlib import Path

from bnp_online.client import Client
from tests.support.cluster import Node, nodes
from tests.support.postgres import PostgresServer

X = {"a": 1.0}


def predictions(node: Node) -> int:
    """Return the number of predictions that a node made."""
    return int(node.client.get("/api/stats/?model=default").json()["predict"]["n_calls"])


def test_a_client_follows_its_model(postgres: PostgresServer, tmp_path: Path) -> None:
    with nodes(tmp_path, postgres.url(postgres.schema())) as start:
        owner, standby = start("one", "owner"), start("two", "standby")
        urls = [standby.url, owner.url]
        with Client(urls, patience=60, read_from="replicas", consistent=True) as client:
            assert client.learn_one(X, "a").step == 1  # the standby names the owner
            roles = {node.node: node.role for node in client.cluster().nodes}
            assert roles == {"one": "owner", "two": "standby"}
            before = predictions(standby)
            for step in range(2, 12):
                assert client.learn_one(X, "ab"[step % 2]).step == step
                assert client.predict_one(X).step == step
            assert predictions(standby) == before + 10

            owner.kill()
            assert client.learn_many([(X, "a")] * 20, size=5).step == 31
            assert client.learn_one(X, "b").step == 32
            assert client.predict_one(X).step == 32
