"""Starts of nodes with settings that do not fit their cluster: an error names the setting."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.cluster import Node, nodes
from tests.support.postgres import PostgresServer
from tests.support.server_process import wait_until


def test_a_name_belongs_to_one_node(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url(postgres.schema())
    with nodes(tmp_path, url, BNP_TAKEOVER_AFTER="1") as start:
        first = start("one", "owner")
        second = Node(tmp_path / "other", "one", "standby", BNP_STORE=url, BNP_TAKEOVER_AFTER="1")
        said = second.refusal()
        assert "set BNP_NODE to another name" in said
        assert first.url in said
        assert len(first.owned()) == 64
        first.kill()  # its name is free at once
        second.launch()
        second.up()
        wait_until(lambda: len(second.owned()) == 64)
        second.kill()
        first.launch()
        first.up()


def test_the_name_of_a_lost_machine_is_free_again(postgres: PostgresServer, tmp_path: Path) -> None:
    """Its connections stay open, and it shows no sign of life."""
    url = postgres.url(postgres.schema())
    with nodes(tmp_path, url, BNP_TAKEOVER_AFTER="60") as start:
        first = start("one", "replica")
        os.kill(first.running.process.pid, signal.SIGSTOP)
        second = Node(tmp_path / "other", "one", "owner", BNP_STORE=url, BNP_TAKEOVER_AFTER="60")
        second.launch()
        second.up()
        os.kill(first.running.process.pid, signal.SIGCONT)
        first.running.wait_for("does another one use its BNP_NODE")
        assert len(second.owned()) == 64
        second.kill()


def test_numbers_of_shards_that_the_cluster_does_not_have(postgres: PostgresServer, tmp_path: Path) -> None:
    node = Node(tmp_path, "one", "owner", BNP_STORE=postgres.url(postgres.schema()), BNP_SHARDS="3,60-64")
    said = node.refusal()
    assert "BNP_SHARDS has the number 64, and the cluster has 64 shards: use numbers from 0 to 63" in said


@pytest.mark.parametrize("scheme", ["", "local://"])
def test_checkpoints_that_cannot_be_written(postgres: PostgresServer, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "file").touch()
    place = f"{scheme}{tmp_path}/file/checkpoints"
    url = postgres.url(postgres.schema())
    node = Node(tmp_path, "one", "owner", BNP_STORE=url, BNP_CHECKPOINTS=place)
    said = node.refusal()
    assert "BNP_CHECKPOINTS" in said
    assert "cannot be" in said
    assert f"{tmp_path}/file" in said
