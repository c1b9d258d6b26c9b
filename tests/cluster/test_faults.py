"""Faults of a cluster under load: nothing acknowledged is lost or learned twice, all states are the log's.

``BNP_TEST_FAULTS`` is the number of repetitions of each fault; `make torture` takes more.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.storage.postgres_cluster import Cluster, create
from tests.cluster.takeover import MODELS, SHARDS, follows_all, make_models, measure
from tests.support.cluster import Node, nodes
from tests.support.cluster_checks import check
from tests.support.cluster_load import Traffic, traffic
from tests.support.postgres import Cut, PostgresServer, Proxy, running
from tests.support.server_process import wait_until

TIMES = int(os.environ.get("BNP_TEST_FAULTS", "1"))
#: Seconds of load before and after a fault.
LOAD = 1.0 if TIMES == 1 else 3.0

pytestmark = pytest.mark.timeout(60 + 120 * TIMES)


def learns(node: Node, model: str = "default") -> bool:
    """Return whether a node learns a model."""
    answer = node.client.post(f"/models/{model}/learn", json={"x": {"a": 1}, "y": 1, "id": "learns"})
    return answer.status_code == 200


def owns_all(node: Node) -> bool:
    return len(node.owned()) == SHARDS


def goes_on(clients: Traffic, model: str | None = None, seconds: float = 40.0) -> None:
    """Wait until a sample, of each model, is acknowledged that was sent from now on."""
    record = clients.record
    for name in MODELS if model is None else (model,):
        last = record.step_at(name, time.monotonic())
        wait_until(lambda name=name, last=last: record.step_at(name, time.monotonic()) > last, seconds)


def report(what: str, url: str, clients: Traffic, gap: float, *at: httpx.Client) -> None:
    """Stop the clients, check everything, and print what the fault cost."""
    record = clients.stop()
    result = check(url, record, at)
    refusals = {f"{status} {code}".strip(): n for (status, code), n in record.refusals.items()}
    about = f"gap {gap:.2f} s, {record.predictions} predictions, {refusals}"
    print(f"{what}: {result}, {about}", file=sys.stderr)
    result.require()


class Faulty:
    """A cluster of an owner and a standby, with an address of PostgreSQL that can be cut."""

    def __init__(self, postgres: PostgresServer, proxy: Proxy, start: Any) -> None:
        self.postgres = postgres
        self.schema = postgres.schema()
        self.url = postgres.url(self.schema)
        create(self.url, SHARDS)
        self.proxy = proxy
        self.cut_url = postgres.url(self.schema, self.proxy.port)
        self.owner: Node = start("a", "owner", BNP_STORE=self.cut_url)
        make_models(self.owner)
        self.standby: Node = start("b", "standby", BNP_STORE=self.url)
        wait_until(lambda: follows_all(self.standby))

    @property
    def urls(self) -> list[str]:
        return [self.owner.url, self.standby.url]

    def swap(self) -> None:
        self.owner, self.standby = self.standby, self.owner

    def report(self, what: str, clients: Traffic, gap: float, *at: httpx.Client) -> None:
        """See the function."""
        report(what, self.url, clients, gap, *(at or (self.owner.client, self.standby.client)))


@contextlib.contextmanager
def cluster(folder: Path, postgres: PostgresServer, **settings: str) -> Iterator[Faulty]:
    settings = {"BNP_CHECKPOINT_EVERY": "500", **settings}
    proxy = Proxy(postgres.port)
    with contextlib.closing(proxy), nodes(folder, "", **settings) as start:
        yield Faulty(postgres, proxy, start)


def test_an_owner_is_killed_behind_haproxy(postgres: PostgresServer, tmp_path: Path) -> None:
    measure(tmp_path, postgres, 2 if TIMES == 1 else 10)


def test_an_owner_hangs_and_comes_back(postgres: PostgresServer, tmp_path: Path) -> None:
    with (
        cluster(tmp_path, postgres, BNP_TAKEOVER_AFTER="2") as faulty,
        traffic([*faulty.urls[::-1]], MODELS, reads=faulty.urls) as clients,
    ):
        for _ in range(TIMES):
            goes_on(clients)
            stopped, owner = time.monotonic(), faulty.owner
            os.kill(owner.running.process.pid, signal.SIGSTOP)
            wait_until(lambda: owns_all(faulty.standby))
            time.sleep(LOAD)
            os.kill(owner.running.process.pid, signal.SIGCONT)
            assert owner.running.wait() == 76
            time.sleep(LOAD)
            gap = clients.record.gap(stopped)
            owner.kill()
            owner.launch(BNP_ROLE="standby")
            owner.up()
            wait_until(lambda owner=owner: follows_all(owner))
            faulty.swap()
        faulty.report("owner suspended", clients, gap)


@pytest.mark.parametrize("mode", ["immediate"])
def test_postgresql_crashes(tmp_path: Path, mode: str) -> None:
    with (
        running("on") as postgres,
        cluster(tmp_path, postgres) as faulty,
        traffic(faulty.urls, MODELS, reads=faulty.urls) as clients,
    ):
        gap = 0.0
        for _ in range(TIMES):
            goes_on(clients)
            crashed = time.monotonic()
            postgres.stop(mode)
            time.sleep(LOAD)
            postgres.start()
            goes_on(clients)
            gap = max(gap, clients.record.gap(crashed))
        time.sleep(LOAD)
        assert owns_all(faulty.owner)
        faulty.report("PostgreSQL crashed", clients, gap)


def test_the_answer_to_a_commit_is_lost(postgres: PostgresServer, tmp_path: Path) -> None:
    cuts = 8 * TIMES
    rng = random.Random(5)  # noqa: S311
    with (
        cluster(tmp_path, postgres) as faulty,
        traffic(faulty.urls, MODELS, reads=faulty.urls) as clients,
    ):
        goes_on(clients)
        began = time.monotonic()
        for i in range(cuts):  # before or after the commit of some samples
            cut = Cut(faulty.proxy, b'"n"', answered=i % 4 > 0)
            wait_until(lambda cut=cut: cut.done)
            time.sleep(rng.uniform(0.0, 0.2))
        goes_on(clients)
        gap = clients.record.gap(began)
        assert owns_all(faulty.owner)
        faulty.report(f"{cuts} connections cut at a commit", clients, gap)


def test_a_replica_follows_rollback_and_unlearning(postgres: PostgresServer, tmp_path: Path) -> None:
    models = MODELS[:2]
    with cluster(tmp_path, postgres) as faulty:
        client = faulty.owner.client
        with traffic(faulty.urls, models, reads=faulty.urls, rewinding=models) as clients:
            for i in range(3 * TIMES):
                for name in models:
                    time.sleep(LOAD / 2)
                    ids = sorted(sample for model, sample in clients.record.learned if model == name)[i::40][
                        :3
                    ]
                    if i % 3 == 2:
                        step = client.get(f"/models/{name}").json()["step"] - 20
                        done = client.post(f"/models/{name}/rollback", json={"step": step})
                        assert done.status_code == 200, done.text
                    elif ids:
                        done = client.post(f"/models/{name}/forget", json={"ids": ids})
                        assert done.status_code in (200, 202, 404, 409), done.text
            wait_until(lambda: all(client.get(f"/models/{m}").json()["state"] == "ready" for m in models))
            record = clients.stop()
        result = check(faulty.url, record, [client, faulty.standby.client], models)
        print(f"rollback and unlearning: {result}", file=sys.stderr)
        result.require()


def test_the_disk_of_postgresql_is_full(postgres: PostgresServer, tmp_path: Path) -> None:
    with (
        cluster(tmp_path, postgres) as faulty,
        traffic(faulty.urls, MODELS, reads=faulty.urls) as clients,
    ):
        clients.record.allowed.add((503, "storage_full"))
        goes_on(clients)
        began = time.monotonic()
        with faulty.postgres.full(faulty.schema):
            time.sleep(LOAD)
            answer = faulty.owner.client.post("/learn", json={"x": {"a": 1}, "y": 1})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_full")
            assert faulty.owner.client.post("/predict", json={"x": {"a": 1}}).status_code == 200
        goes_on(clients)
        gap = clients.record.gap(began)
        assert owns_all(faulty.owner)
        faulty.report("disk full", clients, gap)


def test_a_shard_moves(postgres: PostgresServer, tmp_path: Path) -> None:
    with (
        cluster(tmp_path, postgres) as faulty,
        contextlib.closing(Cluster(faulty.url)) as tables,
        traffic(faulty.urls, MODELS, reads=faulty.urls) as clients,
    ):
        gap = 0.0
        tables.wish({0: "nobody"})  # no node of this name is live
        for i in range(2 * TIMES):
            goes_on(clients)
            began, target = time.monotonic(), faulty.standby
            tables.wish(dict.fromkeys(range(SHARDS) if i % 2 else [i % SHARDS], target.name))
            wait_until(lambda: not tables.wishes())
            goes_on(clients)
            gap = max(gap, clients.record.gap(began))
            if owns_all(target):
                faulty.swap()
        assert faulty.owner.name == "b"
        faulty.report("shards moved", clients, gap, faulty.owner.client)
