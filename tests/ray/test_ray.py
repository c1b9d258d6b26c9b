"""Servers on a real Ray cluster, with a real PostgreSQL: they are killed under load."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster_checks import read_postgres
from tests.support.postgres import PostgresServer
from tests.support.programs import ROOT
from tests.support.server_process import DEFAULT_MODEL, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start a Ray cluster of this machine; return its address."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'bnp-online[ray]'")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
    here = ray.init(num_cpus=8, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    try:
        yield here.address_info["address"]
    finally:
        ray.shutdown()


class Commands:
    """``bnp-online cluster ray`` on one cluster, store and range of ports."""

    def __init__(self, cluster: str, store: str, name: str, folder: Path) -> None:
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._arguments = ["--address", cluster, "--name", name]
        self._environment = {
            **os.environ,
            "BNP_STORE": store,
            "BNP_DATA_DIR": str(folder),
            "BNP_DEFAULT_MODEL": DEFAULT_MODEL,
        }

    def start(self, *options: str) -> None:
        self._run("--host", "127.0.0.1", "--port", str(self.port), "--cpus", "0.1", *options)

    def status(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._run("--status", "--json"))
        return found

    def stop(self) -> str:
        return self._run("--stop")

    def _run(self, *options: str) -> str:
        command = [sys.executable, "-m", "service.cli", "cluster", "ray", *self._arguments, *options]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout or done.stderr


class Load:
    """Clients that learn samples with ids, one after another, and repeat each until it is acknowledged."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self._url, self._ended = url, threading.Event()
        self.steps: dict[str, int] = {}
        self.times: list[float] = []
        self._threads = [threading.Thread(target=self._learn, args=(k,)) for k in range(clients)]
        for thread in self._threads:
            thread.start()

    def _learn(self, client: int) -> None:
        sent = 0
        with httpx.Client(base_url=self._url, timeout=5.0) as connection:
            while not self._ended.is_set():
                name = f"c{client}-{sent}"
                sample = {"x": {"a": sent % 7, "b": sent % 3}, "y": sent % 2, "id": name}
                with contextlib.suppress(httpx.TransportError):
                    answer = connection.post("/learn", json=sample)
                    if answer.status_code in (200, 409):
                        # A repeated sample is answered with 409 if it was learned before.
                        self.steps[name] = answer.json().get("step", -1)
                        self.times.append(time.monotonic())
                        sent += 1
                        continue
                time.sleep(0.05)

    def gap(self) -> float:
        """Return the longest time between two acknowledged samples."""
        times = sorted(self.times)
        return max(after - before for before, after in itertools.pairwise(times))

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def check(postgres: PostgresServer, schema: str, load: Load) -> None:
    """Each acknowledged sample is in the log once, at its step, and the numbers of events have no gap."""
    [rows] = read_postgres(postgres.url(schema)).rows.values()
    learned = [(row.id or "", row.step) for row in rows if row.kind == "learn" and row.refused is None]
    assert len(dict(learned)) == len(learned)
    assert {name for name in load.steps if name not in dict(learned)} == set()
    assert [name for name, step in load.steps.items() if step not in (-1, dict(learned)[name])] == []
    assert [row.seq for row in rows] == list(range(rows[0].seq, rows[0].seq + len(rows)))


def test_killed_owners_come_back_and_lose_nothing(
    cluster: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    schema = postgres.schema()
    commands = Commands(cluster, postgres.url(schema), "killed", tmp_path)
    commands.start()
    try:
        url = f"http://127.0.0.1:{commands.port}"
        wait_until(lambda: _ready(url), 120.0)
        for victim in ("pid", "actor"):
            load = Load(url)
            wait_until(lambda load=load: len(load.steps) > 200)
            (node,) = commands.status()
            assert node["state"] == "answers"
            at, before = time.monotonic(), len(load.steps)
            os.kill(node[victim], signal.SIGKILL)
            wait_until(lambda load=load, at=at: load.times[-1] > at + 1.0, 120.0)
            wait_until(lambda load=load, before=before: len(load.steps) > before + 200, 120.0)
            load.end()
            check(postgres, schema, load)
            what = {"pid": "the server", "actor": "the actor"}[victim]
            print(f"\nkilled {what}: {len(load.steps)} acknowledged, 0 lost, gap {load.gap():.1f} s")
    finally:
        commands.stop()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health/live")
    assert commands.status() == []


def test_a_standby_takes_over_and_replicas_follow_the_load(
    cluster: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    schema = postgres.schema()
    commands = Commands(cluster, postgres.url(schema), "scaled", tmp_path)
    roles = ("--owners", "2", "--standbys", "1", "--min-replicas", "1", "--max-replicas", "2")
    commands.start(*roles, "--predictions", "50", "--env", "BNP_LOG_LEVEL=warning")
    try:
        wait_until(lambda: [node["state"] for node in commands.status()] == ["answers"] * 4, 180.0)
        nodes = {node["node"]: node for node in commands.status()}
        assert sorted(nodes) == ["owner-0", "owner-1", "replica-0", "standby-0"]
        urls = [nodes[name]["address"] for name in ("owner-0", "owner-1", "standby-0")]
        wait_until(lambda: all(_ready(url) for url in urls), 120.0)
        load = Load(_owner(urls[0]))
        wait_until(lambda: len(load.steps) > 200)
        load.end()
        check(postgres, schema, load)

        replica = nodes["replica-0"]["address"]
        wait_until(lambda: _ready(replica), 60.0)
        busy = threading.Event()
        reading = threading.Thread(target=_predict, args=(replica, busy))
        reading.start()
        wait_until(lambda: any(node["node"] == "replica-1" for node in commands.status()), 120.0)
        busy.set()
        reading.join()
        wait_until(lambda: [node["state"] for node in commands.status()] == ["answers"] * 5, 120.0)

        victim = next(node for node in nodes.values() if node["address"] == _owner(urls[0]))
        at = time.monotonic()
        os.kill(victim["pid"], signal.SIGKILL)
        os.kill(victim["actor"], signal.SIGKILL)
        standby = nodes["standby-0"]["address"]
        wait_until(lambda: _owner(standby) == standby, 60.0)
        print(f"\nkilled the owner: the standby owns its shards after {time.monotonic() - at:.1f} s")
        load = Load(standby)
        wait_until(lambda: len(load.steps) > 200)
        load.end()
        wait_until(lambda: [node["state"] for node in commands.status()] == ["answers"] * 5, 120.0)
    finally:
        commands.stop()


def _owner(url: str) -> str:
    """Return the address of the owner of the default model."""
    found = httpx.get(f"{url}/cluster").json()
    shard = zlib.crc32(b"default") % len(found["shards"])
    return str(found["shards"][shard]["address"])


def _predict(url: str, ended: threading.Event) -> None:
    with httpx.Client(base_url=url) as client:
        while not ended.is_set():
            answer = client.post("/predict", json={"x": {"a": 1, "b": 2}})
            assert answer.status_code == 200, answer.text


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/ready").status_code == 200
    return False
