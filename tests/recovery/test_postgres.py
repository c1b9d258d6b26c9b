"""A server with its log in PostgreSQL."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import NotOwnerError
from service.storage.postgres import PostgresLog
from tests.support.postgres import Cut, PostgresServer, Proxy
from tests.support.server_process import RestartableServer, restartable, wait_until


def learn(client: httpx.Client, first: int, last: int) -> None:
    for i in range(first, last):
        sample = {"x": {"a": i % 7, "b": i % 3}, "y": i % 2, "id": f"s{i}"}
        answer = client.post("/learn", json=sample)
        assert answer.status_code == 200, answer.text
        assert answer.json()["step"] == i + 1


def started(server: RestartableServer) -> httpx.Client:
    """Start a server, and wait until it owns its shards."""
    client = server.start()
    wait_until(lambda: client.get("/health/ready").status_code == 200)
    return client


def fingerprint(client: httpx.Client) -> Any:
    return client.get("/models/default/fingerprint").json()


@pytest.mark.parametrize("place", ["beside the log", "in a shared folder"])
def test_a_server_continues_after_a_kill(postgres: PostgresServer, tmp_path: Path, place: str) -> None:
    settings = {"BNP_STORE": postgres.url(postgres.schema()), "BNP_CHECKPOINT_EVERY": "20"}
    if place == "in a shared folder":
        settings["BNP_CHECKPOINTS"] = str(tmp_path / "shared")
    with restartable(tmp_path / "data", **settings) as server:
        client = started(server)
        learn(client, 0, 50)
        before = fingerprint(client)
        server.kill()
        client = started(server)
        assert fingerprint(client) == before
        assert client.post("/learn", json={"x": {"a": 1}, "y": 0, "id": "s7"}).status_code == 409
        learn(client, 50, 60)
        assert client.post("/models/default/forget", json={"ids": ["s55"]}).status_code == 202
        wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        assert client.get("/health/ready").status_code == 200
        assert "bnp_log_unerased 0.0" in client.get("/metrics").text
        before = fingerprint(client)
        assert server.terminate() == 0
        client = started(server)
        assert fingerprint(client) == before
    assert not (tmp_path / "data" / "events.sqlite3").exists()


def test_a_fenced_server_ends(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url(postgres.schema())
    with restartable(tmp_path / "data", BNP_STORE=url) as server:
        learn(started(server), 0, 3)
        with pytest.raises(NotOwnerError, match="belongs to another server"):
            PostgresLog(url, wait=0.0)
        _take(server, url)
        assert server.running.wait() == 76
        assert any("another server has claimed" in line for line in server.running.lines)


def _take(server: RestartableServer, url: str) -> None:
    with contextlib.closing(PostgresLog(url, [])) as log:
        for shard in range(log.shards):
            log.claim(shard, force=True)
        wait_until(lambda: server.running.process.poll() is not None)


#: A server that waits for one second instead of 30.
IMPATIENT = """
from functools import partial
from service.storage import postgres
postgres.PostgresLog = partial(postgres.PostgresLog, patience=1.0)
"""


@pytest.mark.parametrize("committed", [False, True])
def test_a_sample_with_an_unknown_outcome_is_learned_once(
    postgres: PostgresServer, tmp_path: Path, committed: bool
) -> None:
    sample = {"x": {"a": 1.2345, "b": 2}, "y": 1, "id": "last"}
    with contextlib.closing(Proxy(postgres.port)) as proxy:
        url = postgres.url(postgres.schema(), proxy.port)
        with restartable(tmp_path / "data", IMPATIENT, BNP_STORE=url, BNP_TAKEOVER_AFTER="5") as server:
            client = started(server)
            learn(client, 0, 3)
            Cut(proxy, b"1.2345", answered=committed, refuse=True)
            answer = client.post("/learn", json=sample)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "outcome_unknown")
            assert client.post("/predict", json={"x": sample["x"]}).status_code == 200
            proxy.refusing = False
            if committed:
                assert server.running.wait() == 76
                client.close()
                client = started(server)
            answer = client.post("/learn", json=sample)
            assert (answer.status_code, answer.json()["step"]) == (200, 4)
            assert client.get("/models/default").json()["step"] == 4
            learn(client, 4, 6)
