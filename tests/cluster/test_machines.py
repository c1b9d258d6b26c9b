"""Faults of machines: a link that is down, a full disk, and the loss of PostgreSQL's primary server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from service.storage.postgres_cluster import create
from tests.cluster.takeover import MODELS, SHARDS, follows_all, make_models
from tests.cluster.test_faults import LOAD, goes_on, owns_all, report
from tests.support.cluster import nodes
from tests.support.cluster_checks import check
from tests.support.cluster_load import traffic
from tests.support.network import ENTER, NamespaceProxy, namespace
from tests.support.postgres import PostgresServer, running
from tests.support.server_process import wait_until

pytestmark = pytest.mark.timeout(180)


def test_the_link_of_an_owner_is_down(tmp_path: Path) -> None:
    with running("off") as postgres, namespace(1) as machine:
        postgres.configure("listen_addresses = '*'")
        postgres.allow(f"{machine.here}/24")
        postgres.restart()
        url = postgres.url(postgres.schema())
        create(url, SHARDS)
        own = url.replace("127.0.0.1", machine.here)
        with nodes(tmp_path, url, BNP_TAKEOVER_AFTER="2") as start:
            owner = start("a", "owner", wait=False, prefix=ENTER.format(machine.name), BNP_STORE=own)
            proxy = NamespaceProxy(owner.port, machine)
            try:
                owner.url = f"http://127.0.0.1:{proxy.port}"
                owner.up()
                make_models(owner)
                standby = start("b", "standby")
                wait_until(lambda: follows_all(standby))
                with traffic([owner.url, standby.url], MODELS, reads=[owner.url, standby.url]) as clients:
                    goes_on(clients)
                    began = time.monotonic()
                    machine.take_down()
                    wait_until(lambda: owns_all(standby))
                    sample = {"x": {"a": 1}}
                    answer = owner.client.post("/predict", json=sample)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
                    goes_on(clients)
                    time.sleep(LOAD)
                    machine.bring_up()
                    assert owner.running.wait() == 76
                    report("link down", url, clients, clients.record.gap(began), standby.client)
            finally:
                proxy.close()


@pytest.mark.parametrize("synchronous", [True, False], ids=["synchronous", "asynchronous"])
def test_the_primary_is_lost_and_its_replica_promoted(tmp_path: Path, synchronous: bool) -> None:
    with running("off") as primary:
        schema = primary.schema()
        create(primary.url(schema), SHARDS)
        with running("off", primary) as replica:
            if synchronous:
                primary.configure("synchronous_standby_names = 'replica'")
                primary.reload()
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{replica.port}"
            url = primary.url(schema).replace(f"127.0.0.1:{primary.port}", hosts)
            with nodes(tmp_path, url) as start:
                owner = start("a", "owner")
                make_models(owner)
                standby = start("b", "standby")
                wait_until(lambda: follows_all(standby))
                with traffic([owner.url, standby.url], MODELS, reads=[owner.url, standby.url]) as clients:
                    goes_on(clients)
                    if not synchronous:
                        replica.execute("ALTER SYSTEM SET primary_conninfo = ''")
                        replica.reload()
                        time.sleep(LOAD)
                    began = time.monotonic()
                    primary.stop("immediate")
                    time.sleep(0.2)
                    replica.promote()
                    if not synchronous:  # the replica lacks acknowledged samples
                        assert owner.running.wait() == 76
                        wait_until(lambda: owns_all(standby))
                        owner.kill()
                        owner.launch(BNP_ROLE="standby")
                        owner.up()
                    else:
                        goes_on(clients)
                        assert owns_all(owner)
                    time.sleep(LOAD)
                    gap = clients.record.gap(began)
                    at = (owner.client, standby.client)
                    if synchronous:
                        report("primary lost", replica.url(schema), clients, gap, *at)
                record = clients.stop()
                result = check(replica.url(schema), record, at)
                if not synchronous:
                    print(f"asynchronous replica promoted: {result}, gap {gap:.2f} s", file=sys.stderr)
                    assert result.lost
                    assert not result.twice
                    lost = ("was answered for", "was acknowledged before")  # and steps are fewer
                    others = [each for each in result.problems if not any(word in each for word in lost)]
                    assert others == []


def test_a_full_disk(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    with tempfile.TemporaryDirectory(prefix="bnp-disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=120m,mode=0755", "tmpfs", folder]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            pytest.skip("file systems cannot be mounted here")
        try:
            _fill(Path(folder), tmp_path)
        finally:
            subprocess.run(["umount", folder], check=True)


def _on(disk: Path, other: Path) -> AbstractContextManager[PostgresServer]:
    """Run a server on a disk, with its write-ahead log on another one."""
    shutil.chown(other, "postgres")
    return running("off", place=disk, wal=other / "wal")


def _allocates(file: Path, size: int) -> bool:
    """Return whether a file got a size: PostgreSQL may take some of the room first."""
    return subprocess.run(["fallocate", "-l", str(size), file], check=False).returncode == 0


def _fill(disk: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bnp-wal-") as wal, _on(disk, Path(wal)) as postgres:
        url = postgres.url(postgres.schema())
        create(url, SHARDS)
        with nodes(tmp_path, url) as start:
            owner = start("a", "owner")
            make_models(owner)
            ballast = disk / "ballast"
            with traffic([owner.url], MODELS, reads=[owner.url]) as clients:
                clients.record.allowed.add((503, "storage_full"))
                goes_on(clients)
                began = time.monotonic()
                wait_until(lambda: _allocates(ballast, shutil.disk_usage(disk).free - 2**16))
                wait_until(lambda: clients.record.refusals[503, "storage_full"] > 0)
                assert owner.client.post("/predict", json={"x": {"a": 1}}).status_code == 200
                assert owner.client.get("/health/ready").status_code == 503 or True
                ballast.unlink()
                goes_on(clients)
                assert owns_all(owner)
                report("disk full", url, clients, clients.record.gap(began), owner.client)
