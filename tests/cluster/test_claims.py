"""Claims that an error or the end of a process interrupts: another attempt completes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from service.storage.postgres_cluster import Cluster, create
from service.storage.postgres_tables import shard_of
from tests.cluster.takeover import MODELS, SHARDS, follows_all, make_models
from tests.support.cluster import Node, nodes
from tests.support.postgres import PostgresServer
from tests.support.server_process import wait_until

SHARD = shard_of("default", SHARDS)
#: A process that ends after it got the lock and the epoch of a shard, and before it serves the models.
DIES = """
import os
from service.storage.postgres import PostgresLog
claim = PostgresLog.claim
def die(*arguments, **options):
    claim(*arguments, **options)
    os._exit(9)
PostgresLog.claim = die
"""
#: A server with an unexpected error, from the time when its data folder has a file `fail`.
FAILS = """
import os, pathlib
from service.storage.postgres_cluster import Cluster
shards = Cluster.shards
def fail(self):
    if pathlib.Path(os.environ["BNP_DATA_DIR"], "fail").exists():
        raise KeyError("fail")
    return shards(self)
Cluster.shards = fail
"""
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON shard FOR EACH ROW
"""
#: What breaks a claim of the shard, before and after its epoch is raised, and what mends it.
FAULTS = {
    "epoch": (
        f"{REFUSE} WHEN (NEW.shard = {SHARD} AND NEW.epoch > OLD.epoch) EXECUTE FUNCTION refuse()",
        "DROP TRIGGER refuse ON shard",
    ),
    "events": (f"ALTER TABLE event_{SHARD} RENAME TO hidden", f"ALTER TABLE hidden RENAME TO event_{SHARD}"),
    "models": ("ALTER TABLE pruned RENAME TO hidden", "ALTER TABLE hidden RENAME TO pruned"),
}


def learning(node: Node) -> Callable[[str], bool]:
    """Return a function that returns whether a node learns a sample of a model."""
    return lambda model: node.client.post(f"/models/{model}/learn", json={"x": {"a": 1}, "y": 1}).is_success


@pytest.mark.parametrize("fault", FAULTS)
def test_a_claim_that_fails_is_completed(postgres: PostgresServer, tmp_path: Path, fault: str) -> None:
    schema = postgres.schema()
    url = postgres.url(schema)
    create(url, SHARDS)
    breaking, mending = FAULTS[fault]
    others = [model for model in MODELS if shard_of(model, SHARDS) != SHARD]
    with nodes(tmp_path, url) as start, contextlib.closing(Cluster(url)) as cluster:
        owner, standby = start("a", "owner"), start("b", "standby")
        make_models(owner)
        wait_until(lambda: follows_all(standby))
        postgres.execute(breaking, schema)
        owner.kill()
        standby.running.wait_for(f"shard {SHARD} cannot be claimed now")
        if fault != "models":  # the other shards are not affected
            wait_until(lambda: all(map(learning(standby), others)))
        assert not learning(standby)("default")
        postgres.execute(mending, schema)
        wait_until(lambda: all(map(learning(standby), MODELS)))
        assert sum(f"shard {SHARD} cannot be claimed" in line for line in standby.running.lines) == 1

        owner.launch(BNP_ROLE="standby")
        owner.up()
        cluster.wish(dict.fromkeys(range(SHARDS), "a"))  # nothing holds a shard that was released
        wait_until(lambda: all(map(learning(owner), MODELS)))
        assert len(owner.owned()) == SHARDS


def test_a_node_ends_while_it_claims(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url(postgres.schema())
    create(url, SHARDS)
    with nodes(tmp_path, url) as start:
        first = start("first", "owner", wait=False, prefix=DIES)
        assert first.running.wait() == 9
        owner = start("a", "owner")
        make_models(owner)
        assert all(map(learning(owner), MODELS))
        dying = start("b", "standby", prefix=DIES)
        standby = start("c", "standby", BNP_TAKEOVER_AFTER="3")
        wait_until(lambda: follows_all(dying) and follows_all(standby))
        owner.kill()
        wait_until(lambda: len(standby.owned()) == SHARDS)
        assert all(map(learning(standby), MODELS))


def test_a_node_that_fails_to_look_at_the_shards_ends(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url(postgres.schema())
    create(url, SHARDS)
    with nodes(tmp_path, url) as start:
        owner = start("a", "owner", prefix=FAILS)
        standby = start("b", "standby")
        owner.folder.mkdir(exist_ok=True)
        (owner.folder / "fail").touch()
        assert owner.running.wait() == 76
        wait_until(lambda: len(standby.owned()) == SHARDS)


def test_one_line_for_all_claims(postgres: PostgresServer, tmp_path: Path) -> None:
    with nodes(tmp_path, postgres.url(postgres.schema())) as start:
        owner = start("one", "owner")
        assert len(owner.owned()) == 64
        claims = [line for line in owner.running.lines if "claimed:" in line]
        assert len(claims) == 1
        assert "shards 0-63 claimed: 0 models" in claims[0]
