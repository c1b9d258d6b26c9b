"""Nodes, shards, wishes and announcements of a cluster in PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.errors import NotOwnerError, StorageFailedError
from service.storage.interfaces import LAST, Event, Group, Segment
from service.storage.postgres import PostgresLog
from service.storage.postgres_announcements import Announcer, Follower, News
from service.storage.postgres_checkpoints import PostgresCheckpoints
from service.storage.postgres_cluster import Cluster, Membership
from service.storage.postgres_tables import shard_of
from tests.support.postgres import PostgresServer, Proxy
from tests.support.programs import ROOT

SHARDS = 4
CREATE = Event("create", b"{}", step=0)
#: A name of a model in each shard.
NAMES = {shard_of(name, SHARDS): name for name in map(str, range(20))}


@pytest.fixture
def schema(postgres: PostgresServer) -> str:
    return postgres.schema()


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(postgres.port)) as proxy:
        yield proxy


class Nodes:
    """Nodes of one cluster, which are closed at the end."""

    def __init__(self, postgres: PostgresServer, schema: str, stack: contextlib.ExitStack) -> None:
        self._postgres, self._schema, self._stack = postgres, schema, stack

    def log(self, name: str, shards: Any = (), port: int | None = None, **options: Any) -> PostgresLog:
        url = self._postgres.url(self._schema, port)
        log = PostgresLog(url, shards, of=SHARDS, owner=name, address=f"http://{name}", wait=0.5, **options)
        self._stack.callback(log.close)
        return log

    def join(self, log: PostgresLog, name: str, port: int | None = None, **options: Any) -> Membership:
        url = self._postgres.url(self._schema, port)
        role = "standby" if options.get("follow") else "owner"
        node = Membership(url, log, name=name, role=role, address=f"http://{name}", **options)
        self._stack.callback(node.close)
        return node

    def cluster(self) -> Cluster:
        cluster = Cluster(self._postgres.url(self._schema))
        self._stack.callback(cluster.close)
        return cluster


@pytest.fixture
def nodes(postgres: PostgresServer, schema: str) -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        yield Nodes(postgres, schema, stack)


def until(met: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.005)


def append(log: PostgresLog, model: int, *bodies: bytes) -> int:
    [last] = log.append([Group(model, 0, [Event("learn", body) for body in bodies])])
    return last


# A log that owns nothing.


def test_a_log_without_shards_reads_all_models_and_writes_nothing(
    postgres: PostgresServer, schema: str, nodes: Nodes
) -> None:
    owner = nodes.log("a", None)
    models = [owner.create(CREATE, NAMES[shard]) for shard in range(SHARDS)]
    for model in models:
        append(owner, model, b"0", b"1")
    PostgresCheckpoints(owner).save(models[0], 0, models[0] + 2, 2, models[0] + 2, {"step": 2, "tensors": {}})
    reader = nodes.log("b")
    before = postgres.contents(schema)
    assert reader.models() == []
    assert [record.model for record in reader.models_of(range(SHARDS))] == models
    for model in models:
        read = [record.event.body for record in reader.read(model, [Segment(0, model, LAST)])]
        assert read == [b"0", b"1"]
        assert reader.head(model) == model + 2
        reader.correct(model, {model + 1: "refused"}, {model + 2: 7})
        with pytest.raises(NotOwnerError):
            append(reader, model, b"2")
    [kept] = PostgresCheckpoints(reader).list(models[0])
    assert PostgresCheckpoints(reader).load(kept)["step"] == 2
    for name in ("new", None):
        with pytest.raises(NotOwnerError):
            reader.create(CREATE, name)
    assert postgres.contents(schema) == before
    owner.correct(models[0], {models[0] + 1: "refused"}, {})
    assert [each.refused for each in reader.headers(models[0], [Segment(0, models[0], LAST)], 9)] == [
        "refused",
        None,
    ]


def test_a_reader_that_claims_a_shard_continues_its_models(nodes: Nodes) -> None:
    owner, reader = nodes.log("a", None), nodes.log("b")
    model = owner.create(CREATE, NAMES[2])
    append(owner, model, b"0")
    assert reader.head(model) == model + 1
    append(owner, model, b"1")
    owner.release(2)
    reader.claim(2)
    assert append(reader, model, b"2") == model + 3
    assert owner.head(model) == model + 3


# Nodes, shards and wishes.


def test_nodes_tell_about_themselves_and_are_removed_when_they_close(nodes: Nodes) -> None:
    log = nodes.log("a", [0, 1])
    node = nodes.join(log, "a", detail=lambda: {"staleness_ms": 1.5})
    other = nodes.join(nodes.log("b"), "b", follow=True)
    cluster = nodes.cluster()
    first, second = cluster.nodes()
    assert (first.name, first.role, first.address) == ("a", "owner", "http://a")
    assert first.detail == {"staleness_ms": 1.5}
    assert (second.name, second.role, second.live) == ("b", "standby", True)
    other.role = "owner"
    until(lambda: cluster.nodes()[1].role == "owner")
    assert max(each.seen_seconds for each in cluster.nodes()) < 3
    node.close()
    assert [each.name for each in cluster.nodes()] == ["b"]


def test_a_killed_node_is_not_live(postgres: PostgresServer, schema: str, nodes: Nodes) -> None:
    nodes.join(nodes.log("a"), "a")
    postgres.execute("INSERT INTO node VALUES ('k', 'owner', '', now() - interval '9 s', '{}')", schema)
    cluster = nodes.cluster()
    assert [node.name for node in cluster.nodes()] == ["a", "k"]
    assert [node.name for node in cluster.nodes(live=True)] == ["a"]
    postgres.execute("UPDATE node SET seen = now() - interval '2 h' WHERE name = 'k'", schema)
    nodes.join(nodes.log("b"), "b")
    assert [node.name for node in cluster.nodes()] == ["a", "b"]


def test_shards_tell_who_can_claim_them(postgres: PostgresServer, schema: str, nodes: Nodes) -> None:
    log = nodes.log("a", [0, 1, 2])
    log.create(CREATE, NAMES[1])
    log.drop(log.create(CREATE, NAMES[2]))
    log.release(2)
    cluster = nodes.cluster()
    shards = cluster.shards()
    assert [each.shard for each in shards] == [0, 1, 2, 3]
    assert [each.owner for each in shards] == ["a", "a", None, None]
    assert [each.address for each in shards] == ["http://a", "http://a", None, None]
    assert [each.epoch for each in shards] == [1, 1, 1, 0]
    assert [each.models for each in shards] == [0, 1, 0, 0]
    assert [each.free for each in shards] == [False, False, True, True]
    assert [each.expired for each in shards] == [False] * 4
    assert shards[0].lease_seconds is not None
    assert 0 < shards[0].lease_seconds <= 10
    assert log.epochs == {0: 1, 1: 1}
    assert time.monotonic() - log.confirmed < 10
    postgres.execute("UPDATE shard SET expires = now() - interval '1 s' WHERE shard = 1", schema)
    assert [each.expired for each in cluster.shards()] == [False, True, False, False]
    log.close()
    until(lambda: all(each.free for each in cluster.shards()))
    assert [each.owner for each in cluster.shards()] == [None] * 4


def test_a_claim_fulfills_a_wish(nodes: Nodes) -> None:
    log, other = nodes.log("a", [0, 1]), nodes.log("b")
    seen: list[dict[int, str]] = []
    node = nodes.join(log, "a", beaten=lambda wishes: seen.append(dict(wishes)))
    cluster = nodes.cluster()
    cluster.wish({0: "c", 1: "b", 2: "a"})
    cluster.wish({0: "b"})
    until(lambda: node.wished == {0: "b", 1: "b", 2: "a"})
    assert seen[-1] == node.wished
    cluster.withdraw([2])
    log.release(0)
    other.claim(0)
    assert cluster.wishes() == {1: "b"}
    log.release(1)
    log.claim(1)
    assert cluster.wishes() == {1: "b"}


def test_an_owner_whose_session_ended_has_its_lock_again(postgres: PostgresServer, nodes: Nodes) -> None:
    log = nodes.log("a", None, lease=600.0)
    cluster = nodes.cluster()
    epochs = [each.epoch for each in cluster.shards()]
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bnp-online lease'"
    )
    until(lambda: not any(each.free for each in cluster.shards()))
    assert [each.epoch for each in cluster.shards()] == epochs
    assert log.create(CREATE, "m")


def test_a_store_without_tables_is_not_changed(postgres: PostgresServer, schema: str) -> None:
    with pytest.raises(StorageFailedError, match="bnp-online cluster init"):
        Cluster(postgres.url(schema))
    assert postgres.contents(schema) == b""


# Announcements.


def test_a_follower_hears_of_each_commit_soon(nodes: Nodes) -> None:
    log = nodes.log("a", [0, 1])
    model = log.create(CREATE, NAMES[0])
    append(log, model, b"0")
    nodes.join(log, "a")
    heard = threading.Event()
    changes: list[dict[int, int]] = []

    def changed(heads: dict[int, int]) -> None:
        changes.append(heads)
        heard.set()

    node = nodes.join(nodes.log("b"), "b", follow=True, changed=changed)
    assert node.follower is not None
    heads = node.follower.heads
    assert heads == {model: model + 1}
    for i in range(5):
        heard.clear()
        last = append(log, model, b"%d" % i)
        assert heard.wait(10)
        until(lambda last=last: heads[model] == last)  # type: ignore[misc]
    second = log.create(CREATE, NAMES[1])
    until(lambda: heads.get(second) == second)
    assert changes[-1] == {second: second}


def test_a_silent_follower_learns_that_nothing_was_committed(nodes: Nodes) -> None:
    log = nodes.log("a", [0, 1])
    nodes.join(log, "a")
    node = nodes.join(nodes.log("b"), "b", follow=True)
    assert node.follower is not None
    heard = node.follower.heard
    for _ in range(3):
        before = dict(heard)
        until(lambda before=before: all(heard[shard] > before[shard] for shard in range(SHARDS)))  # type: ignore[misc]


def test_a_follower_reads_the_tables_of_an_owner_that_does_not_announce(nodes: Nodes) -> None:
    log = nodes.log("a", None)  # no node
    node = nodes.join(nodes.log("b"), "b", follow=True)
    follower = node.follower
    assert follower is not None
    model = log.create(CREATE, "m")
    until(lambda: follower.heads == {model: model})
    append(log, model, b"0", b"1")
    until(lambda: follower.heads == {model: model + 2})
    log.drop(model)
    until(lambda: follower.heads == {})


def test_a_follower_misses_nothing_while_its_connection_is_lost(nodes: Nodes, proxy: Proxy) -> None:
    log = nodes.log("a", None)
    nodes.join(log, "a")
    model = log.create(CREATE, "m")
    node = nodes.join(nodes.log("b"), "b", proxy.port, follow=True)
    follower = node.follower
    assert follower is not None
    connected = follower.connected
    proxy.refusing = True
    proxy.cut()
    last = append(log, model, b"0")
    time.sleep(0.1)
    assert follower.heads[model] == model
    proxy.refusing = False
    until(lambda: follower.heads[model] == last)
    assert follower.connected > connected
    last = append(log, model, b"1")
    until(lambda: follower.heads[model] == last)


def test_an_owner_announces_what_it_could_not_announce_before(nodes: Nodes, proxy: Proxy) -> None:
    log = nodes.log("a", None)
    owner = nodes.join(log, "a", proxy.port)
    model = log.create(CREATE, "m")
    node = nodes.join(nodes.log("b"), "b", follow=True)
    follower = node.follower
    assert follower is not None
    proxy.refusing = True
    proxy.cut()
    last = append(log, model, b"0")
    beat = owner.beat
    proxy.refusing = False
    until(lambda: follower.heads.get(model) == last)
    until(lambda: owner.beat > beat)


def test_a_former_owner_does_not_make_a_shard_current(nodes: Nodes) -> None:
    log = nodes.log("a", [0], lease=600.0)
    announcer = Announcer("a", log)
    other = nodes.log("b", [])
    other.claim(0, force=True)
    follower = Follower(lambda: pytest.fail("no connection"), nodes.log("c"))
    assert log.epochs[0] < other.epochs[0]
    follower._receive({"node": "b", "time": 1.0, "shards": {"0": other.epochs[0]}})
    before = follower.heard[0]
    for payload in announcer._payloads(log.epochs, 2.0):
        follower._receive(json.loads(payload))
    assert follower.heard[0] == before


def test_announcements_of_many_models_are_short_and_complete(nodes: Nodes) -> None:
    log = nodes.log("a", [0])
    log.news.add({2**62 + i: 2**62 + i for i in range(5000)})
    node = nodes.join(nodes.log("b"), "b", follow=True)
    nodes.join(log, "a" * 250)
    follower = node.follower
    assert follower is not None
    until(lambda: len(follower.heads) == 5000)
    assert all(model == head for model, head in follower.heads.items())


def test_news_are_taken_once() -> None:
    news = News()
    news.add({1: 5, 2: 6})
    news.add({1: 7})
    assert news.arrived.is_set()
    assert news.take() == {1: 7, 2: 6}
    assert not news.arrived.is_set()
    assert news.take() == {}


def test_two_clusters_in_one_database_do_not_hear_each_other(postgres: PostgresServer, nodes: Nodes) -> None:
    with contextlib.ExitStack() as stack:
        others = Nodes(postgres, postgres.schema(), stack)
        log = others.log("a", None)
        others.join(log, "a")
        node = nodes.join(nodes.log("b"), "b", follow=True)
        neighbour = others.join(others.log("c"), "c", follow=True)
        assert node.follower is not None
        assert neighbour.follower is not None
        model = log.create(CREATE, "m")
        until(lambda: neighbour.follower and neighbour.follower.heads == {model: model})
        assert node.follower.heads == {}


def test_the_node_of_a_killed_process_stays_and_its_shards_are_free(
    postgres: PostgresServer, schema: str, nodes: Nodes
) -> None:
    code = f"""
from service.storage.postgres import PostgresLog
from service.storage.postgres_cluster import Membership
log = PostgresLog({postgres.url(schema)!r}, [0, 1], of={SHARDS}, owner="k", address="http://k")
Membership({postgres.url(schema)!r}, log, name="k", role="owner", address="http://k")
print("ready", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    cluster = nodes.cluster()
    assert [each.free for each in cluster.shards()] == [False, False, True, True]
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()
    until(lambda: all(each.free for each in cluster.shards()))
    assert [node.name for node in cluster.nodes()] == ["k"]


# Claims that fail, and names of nodes.


def test_a_claim_that_is_refused_leaves_no_lock(postgres: PostgresServer, schema: str, nodes: Nodes) -> None:
    log, other = nodes.log("a", [0]), nodes.log("b")
    postgres.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$; "
        "CREATE TRIGGER refuse BEFORE UPDATE ON shard FOR EACH ROW WHEN (NEW.shard = 1) "
        "EXECUTE FUNCTION refuse()",
        schema,
    )
    with pytest.raises(StorageFailedError, match="refused"):
        log.claim(1)
    assert log.owned == [0]
    postgres.execute("DROP TRIGGER refuse ON shard", schema)
    other.claim(1)
    assert other.owned == [1]


def test_another_call_completes_a_claim(postgres: PostgresServer, schema: str, nodes: Nodes) -> None:
    owner, log = nodes.log("a", [2]), nodes.log("b", [0])
    model = owner.create(CREATE, NAMES[2])
    append(owner, model, b"0")
    owner.close()
    postgres.execute("ALTER TABLE event_2 RENAME TO hidden", schema)
    with pytest.raises(StorageFailedError, match="event_2"):
        log.claim(2)
    epochs = log.epochs
    postgres.execute("ALTER TABLE hidden RENAME TO event_2", schema)
    log.claim(2)
    assert log.epochs == epochs == {0: 1, 2: 2}
    assert append(log, model, b"1") == model + 2
    log.release(2)
    nodes.log("c", [2])


def test_a_claim_in_a_new_session_takes_the_other_locks_again(postgres: PostgresServer, nodes: Nodes) -> None:
    log, cluster = nodes.log("a", [0, 1], lease=600.0), nodes.cluster()
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bnp-online lease'"
    )
    with contextlib.suppress(StorageFailedError):  # the first query of a session that has ended
        log.claim(2)
    log.claim(2)
    assert [each.held for each in cluster.shards()] == [True, True, True, False]


def test_a_name_has_one_process(postgres: PostgresServer, schema: str, nodes: Nodes) -> None:
    first, second = nodes.log("n"), nodes.log("n")
    first.reserve("n", 0.0)
    nodes.join(first, "n")
    with pytest.raises(StorageFailedError, match="set BNP_NODE to another name"):
        second.reserve("n", 0.2)
    second.reserve("m", 0.0)
    first.close()
    nodes.log("n").reserve("n", 5.0)
