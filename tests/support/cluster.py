"""Nodes of a cluster in processes of their own, on one PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.support.postgres import free_port
from tests.support.server_process import RestartableServer, wait_until

Json = dict[str, Any]


class Node(RestartableServer):
    """Node of a cluster with a name and a port that it keeps.

    Parameters
    ----------
    folder : path
        Its data folder, which has no log.
    name, role : str
        Name and role.
    prefix : str
        Python code that the process runs first.
    **environment
        Settings.
    """

    def __init__(self, folder: Path, name: str, role: str, prefix: str = "", **environment: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"BNP_NODE": name, "BNP_ROLE": role, "BNP_PORT": str(self.port), "BNP_ADDRESS": self.url}
        super().__init__(folder / name, prefix, **{**own, **environment})

    def ready(self) -> httpx.Client:
        """Wait until the node serves, and return a client of it."""
        super().ready().close()
        self.client = httpx.Client(base_url=self.url, timeout=30.0)
        return self.client

    def up(self) -> httpx.Client:
        """Wait until the node is ready, and return a client of it."""
        client = self.ready()
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        return client

    def owned(self) -> list[int]:
        """Return the shards that the node serves as their owner.

        The node says so itself. ``/cluster`` names an owner before its models are loaded, and none while a
        new connection to PostgreSQL leases the shards again.
        """
        shards = [each["shard"] for each in self.client.get("/cluster").json()["shards"]]
        return [shard for shard in shards if self.client.get(f"/health/owner/{shard}").status_code == 200]

    def fingerprint(self, model: str = "default") -> Json:
        """Return the fingerprint of a model."""
        answer = self.client.get(f"/models/{model}/fingerprint")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def learn(self, first: int, last: int, model: str = "default") -> None:
        """Learn samples with ids, each of which must be acknowledged with the next step."""
        for i in range(first, last):
            sample = {"x": {"a": i % 7, "b": i % 3}, "y": i % 2, "id": f"s{i}", "model": model}
            answer = self.client.post("/learn", json=sample)
            assert answer.status_code == 200, answer.text


@contextlib.contextmanager
def nodes(folder: Path, url: str, **environment: str) -> Iterator[Callable[..., Node]]:
    """Yield a function of name, role and settings that starts a node; all are killed in the end."""
    started: list[Node] = []

    def start(name: str, role: str, *, wait: bool = True, **more: str) -> Node:
        node = Node(folder, name, role, **{"BNP_STORE": url, **environment, **more})
        started.append(node)
        node.launch()
        if wait:
            node.up()
        return node

    try:
        yield start
    finally:
        for node in started:
            if hasattr(node, "running"):
                node.kill()
