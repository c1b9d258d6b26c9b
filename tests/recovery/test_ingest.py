"""A server that learns from topics, killed again and again: each message counts once, in order."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.brokers import Kafka, Nats, broker
from tests.support.cluster_checks import read_postgres
from tests.support.postgres import PostgresServer
from tests.support.server_process import RestartableServer, logged, restartable, wait_until

#: Kills with the log in SQLite; with PostgreSQL half as many.
KILLS = int(os.environ.get("BNP_TEST_KILLS", "5"))
PARTITIONS, SHARE = 3, 600


def message(n: int) -> bytes:
    return json.dumps({"x": {"a": n % 7, "n": n}, "y": n % 2}).encode()


def step(client: httpx.Client) -> int:
    """Return the step of the model; -1 while the server does not own it yet."""
    return int(client.get("/models/default").json().get("step", -1))


@pytest.mark.parametrize(("kind", "store"), [("kafka", "sqlite"), ("nats", "postgres")])
def test_kills_lose_no_message_and_repeat_none(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, store: str
) -> None:
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(broker(kind))
        partitions = PARTITIONS if isinstance(there, Kafka) else 1
        if isinstance(there, Kafka):
            there.create("samples", PARTITIONS)
        else:
            there.create("samples")
        settings = {"BNP_INGEST": there.url("samples", dead="dead")}
        postgres: PostgresServer | None = None
        if store == "postgres":
            postgres = request.getfixturevalue("postgres")
            settings["BNP_STORE"] = postgres.url(schema := postgres.schema())
        server = stack.enter_context(restartable(tmp_path, **settings))
        kills = KILLS if postgres is None else KILLS // 2
        messages = kills * SHARE
        _kill_again_and_again(server, there, partitions, kills)
        client = server.start()
        wait_until(lambda: step(client) == messages)
        wait_until(lambda: [each["lag"] for each in _parts(client)] == [0] * partitions)
        assert server.terminate() == 0
        if postgres is None:
            bodies = [body for kind, _, body, _ in logged(tmp_path) if kind == "learn"]
        else:
            rows = read_postgres(postgres.url(schema)).rows["default"]
            bodies = [json.loads(row.body) for row in rows if row.kind == "learn"]
        learned = [body["x"]["n"] for body in bodies]
        assert len(learned) == messages
        for first in range(partitions):
            part = [n for n in learned if n % partitions == first]
            assert part == list(range(first, messages, partitions))


def _parts(client: httpx.Client) -> list[dict[str, Any]]:
    return list(client.get("/models/default").json()["ingest"])


def _kill_again_and_again(
    server: RestartableServer, there: Kafka | Nats, partitions: int, kills: int
) -> None:
    """Kill the server while it learns what arrives."""
    chance = random.Random(7)  # noqa: S311
    for i in range(kills):
        client = server.start()
        some = range(i * SHARE, (i + 1) * SHARE)
        for partition in range(partitions):
            messages = [message(n) for n in some if n % partitions == partition]
            if isinstance(there, Kafka):
                there.publish("samples", messages, partition)
            else:
                there.publish("samples", messages)
        begun = i * SHARE // 2
        wait_until(lambda client=client, begun=begun: step(client) > begun)
        time.sleep(chance.uniform(0.0, 0.3))
        server.kill()
