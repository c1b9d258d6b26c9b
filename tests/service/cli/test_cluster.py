"""``cluster``: the tables of a cluster, its status, and moves of shards."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from service.errors import NotOwnerError
from service.storage.interfaces import Event
from service.storage.postgres import PostgresLog
from service.storage.postgres_cluster import Cluster, Membership, Shard, spread
from service.storage.postgres_tables import shard_of
from tests.support.commands import Done, command
from tests.support.postgres import PostgresServer

SHARDS = 6
NAMES = {shard_of(name, SHARDS): name for name in map(str, range(50))}

Run = Callable[..., Done]


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.url(postgres.schema())


@pytest.fixture
def run(url: str) -> Run:
    return lambda *arguments: command("cluster", *arguments, BNP_STORE=url)


class ActingNode:
    """Node that claims the shards that should go to it, and releases those that should go elsewhere."""

    def __init__(self, url: str, name: str, shards: list[int], role: str = "owner") -> None:
        self.log = PostgresLog(url, shards, of=SHARDS, owner=name, address=f"http://{name}", wait=0.0)
        self.acting = True
        self._name = name
        self.node = Membership(
            url, self.log, name=name, role=role, address=f"http://{name}", beaten=self._act
        )

    def _act(self, wishes: Mapping[int, str]) -> None:
        for shard, node in wishes.items() if self.acting else ():
            if node == self._name and shard not in self.log.epochs:
                with contextlib.suppress(NotOwnerError):  # its owner has not released it yet
                    self.log.claim(shard)
            elif node != self._name and shard in self.log.epochs:
                self.log.release(shard)

    def close(self) -> None:
        self.node.close()
        self.log.close()


@pytest.fixture
def start(url: str) -> Iterator[Callable[..., ActingNode]]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: object) -> ActingNode:
            return stack.enter_context(contextlib.closing(ActingNode(url, *arguments)))  # type: ignore[arg-type]

        yield start


def test_init_creates_the_tables_once(run: Run) -> None:
    missing = run("status")
    assert (missing.code, missing.out) == (1, "")
    assert "bnp-online cluster init" in missing.err
    done = run("init", "--shards", 5, "--json")
    assert (done.code, json.loads(done.out), done.err) == (0, {"shards": 5}, "")
    again = run("init")
    assert (again.code, again.out) == (1, "")
    assert "a cluster already, with 5 shards and 0 models" in again.err
    status = json.loads(run("status", "--json").out)
    assert status["nodes"] == []
    assert [each["owner"] for each in status["shards"]] == [None] * 5
    assert "Node a is not in the cluster: no server runs" in run("move", 1, "a").err


def test_the_store_must_be_set_and_answer() -> None:
    for words in (["init"], ["status"], ["move", "0", "a"], ["drain", "a"]):
        unset = command("cluster", *words)
        assert (unset.code, unset.out) == (2, "")
        assert "BNP_STORE is not set" in unset.err
    gone = command("cluster", "init", BNP_STORE="postgresql://postgres@127.0.0.1:1/postgres")
    assert gone.code == 1
    assert "cannot be re" in gone.err
    assert command("cluster", "init", "--shards", "0").code == 2


def test_the_doctor_tests_the_rights_in_the_store(postgres: PostgresServer, url: str, run: Run) -> None:
    def log(store: str) -> tuple[str, list[str]]:
        found = json.loads(command("doctor", "--json", BNP_STORE=store).out)
        return found["log"], found["problems"]

    def problem(place: str) -> tuple[str, list[str]]:
        return "cannot be written", [
            f"the log cannot be written: the user in BNP_STORE may not write to {place}"
        ]

    name = url.partition("%3D")[2]
    postgres.execute(f"CREATE USER reader_{name}; GRANT USAGE ON SCHEMA {name} TO reader_{name}")
    reader = url.replace("postgres@", f"reader_{name}@")
    new = "can be written; it has no tables yet: `bnp-online cluster init`"
    assert log(url) == (new, [])
    assert log(reader) == problem(f"the schema {name}")
    refused = command("cluster", "init", BNP_STORE=reader)
    assert refused.err.splitlines() == [
        f"the event log cannot be read or written: permission denied for schema {name}"
    ]
    assert run("init").code == 0
    assert log(url) == ("can be written", [])
    assert log(reader) == problem("the tables")
    assert log(f"{url}_missing") == problem("a schema that does not exist")
    assert log("postgresql://postgres@127.0.0.1:1/postgres")[0] == "cannot be reached"


def test_status_shows_nodes_shards_and_wishes(run: Run, url: str, start: Callable[..., ActingNode]) -> None:
    node = start("a", [0, 1, 2])
    node.acting = False
    node.log.create(Event("create", b"{}"), NAMES[1])
    start("s", [], "standby")
    with contextlib.closing(Cluster(url)) as cluster:
        cluster.wish({2: "s"})
    status = json.loads(run("status", "--json").out)
    assert [(each["node"], each["role"], each["owned"]) for each in status["nodes"]] == [
        ("a", "owner", [0, 1, 2]),
        ("s", "standby", []),
    ]
    first = status["shards"][1]
    assert (first["owner"], first["address"], first["epoch"], first["models"]) == ("a", "http://a", 1, 1)
    assert 0 < first["lease_seconds"] <= 10
    assert [each["moving_to"] for each in status["shards"]] == [None, None, "s", None, None, None]
    shown = run("status")
    assert shown.code == 0
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert any(line.startswith("a owner http://a ") and line.endswith("s ago 0-2") for line in lines)
    assert any(line.startswith("0-1 a 1 1 ") for line in lines)
    assert any(line.startswith("2 a → s 1 0 ") for line in lines)
    assert "3-5 – 0 0 –" in lines


def test_move_waits_until_the_node_owns_the_shard(run: Run, start: Callable[..., ActingNode]) -> None:
    first, second = start("a", [0, 1, 2, 3, 4, 5]), start("b", [], "standby")
    done = run("move", 3, "b", "--json")
    assert (done.code, done.err, json.loads(done.out)) == (0, "", {"shard": 3, "node": "b"})
    assert 3 in second.log.epochs
    assert 3 not in first.log.epochs
    again = run("move", 3, "b")
    assert again.code == 0
    assert run("move", 3, "a").code == 0
    assert 3 in first.log.epochs


def test_a_move_that_cannot_be_done_says_why_and_is_canceled(
    run: Run, url: str, start: Callable[..., ActingNode]
) -> None:
    first, second = start("a", [0, 1]), start("b", [])
    start("r", [], "replica")
    first.acting = False
    late = run("move", 1, "b", "--timeout", 0.5)
    assert (late.code, late.out) == (1, "")
    assert "1 of 1 shards are not moved: a has not released shard 1" in late.err
    with contextlib.closing(Cluster(url)) as cluster:
        assert cluster.wishes() == {}
    second.acting = False
    assert "b has not claimed shard 5" in run("move", 5, "b", "--timeout", 0.5).err
    assert "Node r is a replica, which owns no shards: choose from a, b" in run("move", 1, "r").err
    assert "Node x is not in the cluster: choose from a, b" in run("move", 1, "x").err
    wrong = run("move", 6, "b")
    assert (wrong.code, wrong.out) == (2, "")
    assert "the last one is 5" in wrong.err


def test_drain_moves_all_shards_to_the_others(run: Run, start: Callable[..., ActingNode]) -> None:
    first = start("a", [0, 1, 2, 3])
    second, third = start("b", [4]), start("c", [5], "standby")
    start("r", [], "replica")
    for shard in (0, 1):
        first.log.create(Event("create", b"{}"), NAMES[shard])
    done = run("drain", "a", "--json")
    assert (done.code, done.err) == (0, "")
    moved = json.loads(done.out)["moved"]
    assert sorted(moved["b"] + moved["c"]) == [0, 1, 2, 3]
    assert first.log.epochs == {}
    assert sorted(second.log.epochs) == sorted([4, *moved["b"]])
    assert sorted(third.log.epochs) == sorted([5, *moved["c"]])
    assert len(moved["b"]) == len(moved["c"]) == 2
    assert {0, 1} & {*moved["b"]} != {0, 1}
    assert run("drain", "a").code == 0
    assert "Node x is not in the cluster: choose from a, b, c, r" in run("drain", "x").err


def test_a_node_without_another_one_is_not_drained(run: Run, start: Callable[..., ActingNode]) -> None:
    start("a", [0])
    alone = run("drain", "a")
    assert (alone.code, alone.out) == (1, "")
    assert "No other owner or standby runs" in alone.err


def test_shards_are_spread_by_models() -> None:
    shards = [Shard(i, 1, "abc"[i % 3], "", True, 5.0, i) for i in range(9)]
    moves = spread(shards, ["b", "c"], "a")
    loads = {node: sum(i for i in range(9) if moves.get(i, "abc"[i % 3]) == node) for node in "bc"}
    assert sorted(moves) == [0, 3, 6]
    assert abs(loads["b"] - loads["c"]) <= 3


def test_an_interrupted_move_is_canceled(
    url: str, start: Callable[..., ActingNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    start("a", [0]).acting = False
    start("b", [])
    slept = threading.Event()

    def interrupt(_: float) -> None:
        slept.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "service.cli.cluster.time", type("Time", (), {"sleep": interrupt, "monotonic": time.monotonic})
    )
    assert command("cluster", "move", "0", "b", BNP_STORE=url).code == 1
    assert slept.is_set()
    with contextlib.closing(Cluster(url)) as cluster:
        assert cluster.wishes() == {}
