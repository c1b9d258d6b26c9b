"""Clients of several nodes: two real servers, of which one follows the other's model by a patched worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bnp_online.client import ServerError, calls, errors
from bnp_online.client.exchange import Reply, Request, Steps, exchange
from bnp_online.client.nodes import Nodes
from service.errors import NotOwnerError, RequestError, WrongNodeError
from service.models.cluster import SingleNode
from service.settings import Settings
from tests.support.running import Json, Server, serving

from .test_client import connect

__all__ = ["connect"]

X = {"a": 1.0}
MODEL = "shared"
Connect = Callable[..., Any]


class TwoNodes(SingleNode):
    """Cluster of an owner and a replica."""

    def __init__(self, owner: Server, replica: Server) -> None:
        super().__init__(Settings())
        self.described: Json = {
            "node": "a",
            "role": "owner",
            "shards": [
                {"shard": 0, "epoch": 1, "owner": "a", "address": owner.url, "models": 1, "lag_ms": None}
            ],
            "nodes": [_node("a", "owner", owner, [0]), _node("b", "replica", replica, [])],
        }

    async def description(self) -> Json:
        return self.described


def _node(name: str, role: str, server: Server, owned: list[int]) -> Json:
    return {
        "node": name,
        "role": role,
        "address": server.url,
        "seen_seconds": 0.1,
        "owned": owned,
        "staleness_ms": None,
    }


class Pair:
    """Owner of a model, and a replica that has learned one sample of it."""

    def __init__(self, owner: Server, replica: Server) -> None:
        self.owner, self.replica = owner, replica
        for server in (owner, replica):
            server.create(name=MODEL, hidden=[4], replay=0)
            server.learn(X, "a", model=MODEL)
            server.app.state.cluster = TwoNodes(owner, replica)
        self.follow(lambda: WrongNodeError(MODEL, "a", owner.url))

    def follow(self, refusal: Callable[[], RequestError]) -> None:
        worker = self.replica.registry.get(MODEL)
        worker.follow(refusal)
        worker.staleness = lambda: 0.05

    def take_over(self) -> None:
        """Let the replica become the owner."""
        worker = self.replica.registry.get(MODEL)
        worker.lead()
        worker.staleness = None

    def refusals(self, status: int = 421) -> int:
        """Number of requests that the replica refused."""
        lines = self.replica.client.get("/metrics").text.splitlines()
        wanted = [
            line for line in lines if line.startswith("bnp_http_requests_total") and f'"{status}"' in line
        ]
        return sum(int(float(line.split()[-1])) for line in wanted)

    def predictions(self, server: Server) -> int:
        """Number of predictions that a server made."""
        return server.registry.get(MODEL).predict_latency.calls


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(*(stack.enter_context(serving(tmp_path / name)) for name in ("a", "b")))


def test_a_node_names_the_owner_and_the_client_remembers_it(connect: Connect, pair: Pair) -> None:
    client = connect(pair.replica.url)
    assert client.learn_one(X, "b", model=MODEL).step == 2
    assert client.learn_one(X, "a", model=MODEL).step == 3
    assert client.learn_many([(X, "b"), (X, "a")], model=MODEL).step == 5
    assert client.describe(MODEL).step == 5
    assert client.checkpoint(MODEL).step == 5
    assert pair.refusals() == 1
    assert pair.replica.get(f"/models/{MODEL}")["step"] == 1


def test_many_samples_go_to_the_owner(connect: Connect, pair: Pair) -> None:
    summary = connect(pair.replica.url).learn_many([(X, "b")] * 3, model=MODEL, size=2)
    assert (summary.learned, summary.duplicates, summary.refused, summary.step) == (3, 0, 0, 4)
    assert pair.refusals() == 1


def test_the_map_of_the_cluster_replaces_a_missing_address(connect: Connect, pair: Pair) -> None:
    pair.follow(lambda: WrongNodeError(MODEL, "a", None))
    client = connect(pair.replica.url)
    assert client.learn_one(X, "b", model=MODEL).step == 2
    assert [node.node for node in client.cluster().nodes] == ["a", "b"]


def test_an_unknown_owner_is_an_error(connect: Connect, pair: Pair) -> None:
    pair.follow(lambda: WrongNodeError(MODEL, "c", None))
    pair.replica.app.state.cluster.described |= {"shards": []}
    with pytest.raises(errors.WrongNodeError, match="BNP_ADDRESS") as refused:
        connect(pair.replica.url, patience=0).learn_one(X, "b", model=MODEL)
    assert (refused.value.status, refused.value.code) == (421, "wrong_node")


def test_samples_go_on_when_the_owner_ends(connect: Connect, pair: Pair) -> None:
    client = connect([pair.owner.url, pair.replica.url])
    assert client.learn_one(X, "b", model=MODEL).step == 2
    pair.follow(lambda: NotOwnerError("no node owns the shard"))
    pair.owner.stop()
    refused, before = [0], pair.replica.registry.get(MODEL)

    def refuse() -> RequestError:
        refused[0] += 1
        if refused[0] == 2:
            pair.take_over()
        return NotOwnerError("no node owns the shard")

    before.follow(refuse)
    assert client.learn_one(X, "b", model=MODEL, id="e-1").step == 2
    assert client.learn_one(X, "b", model=MODEL, id="e-1").duplicate
    assert client.learn_many([(X, "a")] * 3, model=MODEL).step == 5
    assert client.predict_one(X, model=MODEL).step == 5


def test_predictions_come_from_replicas_on_request(connect: Connect, pair: Pair) -> None:
    client = connect(pair.owner.url, read_from="replicas")
    before = pair.predictions(pair.owner)
    assert client.predict_one(X, model=MODEL).step == 1
    assert [answer.step for answer in client.predict_many([X, X], model=MODEL)] == [1, 1]
    assert pair.predictions(pair.replica) >= 3
    assert pair.predictions(pair.owner) == before
    assert client.predict_one(X, model=MODEL, id="t-1").id == "t-1"  # by the owner, which keeps it
    assert client.label("t-1", "b", model=MODEL).step == 2
    pair.replica.stop()
    assert client.predict_one(X, model=MODEL).step == 2


def test_a_prediction_sees_what_its_client_learned(connect: Connect, pair: Pair) -> None:
    client = connect(pair.owner.url, read_from="replicas", consistent=True)
    assert client.predict_one(X, model=MODEL).step == 1
    assert client.learn_one(X, "b", model=MODEL).step == 2
    assert client.predict_one(X, model=MODEL).step == 2  # the replica is not there: the owner answers
    pair.take_over()
    pair.replica.learn(X, "b", model=MODEL)
    pair.follow(lambda: WrongNodeError(MODEL, "a", pair.owner.url))
    before = pair.predictions(pair.replica)
    assert client.predict_one(X, model=MODEL).step == 2
    assert pair.predictions(pair.replica) == before + 1
    assert client.rollback(MODEL, step=1).step == 1
    assert client.predict_one(X, model=MODEL).step in (1, 2)


def test_a_prediction_may_require_a_step(connect: Connect, pair: Pair) -> None:
    client = connect(pair.owner.url, patience=0)
    assert client.predict_one(X, model=MODEL, min_step=1).step == 1
    with pytest.raises(errors.UnavailableError) as refused:
        client.predict_one(X, model=MODEL, min_step=2)
    assert refused.value.code == "not_there_yet"
    with pytest.raises(errors.UnavailableError):
        list(client.predict_many([X], model=MODEL, min_step=2))


# Without I/O: what the client would send, and to which node.


def play(steps: Steps[Any], replies: list[Reply]) -> list[Request]:
    """Return the requests of a call that gets these replies, until it ends or no reply is left."""
    sent: list[Request] = []
    reply: Reply | None = None
    try:
        while True:
            step = steps.send(reply)
            reply = None
            if isinstance(step, Request):
                sent.append(step)
                if not replies:
                    return sent
                reply = replies.pop(0)
    except (StopIteration, ServerError):
        return sent


def refusal(status: int, code: str, owner: str | None = None) -> Reply:
    body = json.dumps({"error": {"code": code, "message": "no", "field": None}}).encode()
    return Reply(status, body, owner=owner)


def test_a_key_is_not_sent_to_an_unencrypted_address() -> None:
    nodes = Nodes(["https://a"], "owner", False)
    call = exchange(calls.learn_one(X, 1), 0)
    sent = play(nodes.run(call), [refusal(421, "wrong_node", "http://b"), Reply(0, broken="end")])
    assert [request.base for request in sent] == ["https://a"]


def test_two_nodes_that_name_each_other_do_not_loop() -> None:
    nodes = Nodes(["http://a"], "owner", False)
    replies = [refusal(421, "wrong_node", "http://b"), refusal(421, "wrong_node", "http://a")]
    sent = play(nodes.run(exchange(calls.learn_one(X, 1), 0)), replies)
    assert [request.base for request in sent] == ["http://a", "http://b"]


@pytest.mark.parametrize(("code", "attempts"), [("outcome_unknown", 1), ("not_owner", 2)])
def test_what_must_not_run_twice_is_not_repeated_if_its_outcome_is_unknown(code: str, attempts: int) -> None:
    nodes = Nodes(["http://a", "http://b"], "owner", False)
    sent = play(nodes.run(exchange(calls.create("m"), 60)), [refusal(503, code)])
    assert len(sent) == attempts


def test_a_lost_response_is_not_sent_to_another_node_unless_it_may_be_repeated() -> None:
    nodes = Nodes(["http://a", "http://b"], "owner", False)
    with pytest.raises(errors.NoAnswerError):
        play(nodes.run(exchange(calls.create("m"), 60)), [Reply(0, broken="lost")])
    learn = exchange(calls.learn_one(X, 1, id="e-1"), 60)
    sent = play(nodes.run(learn), [Reply(0, broken="lost")])
    assert [request.base for request in sent] == ["http://b", "http://a"]
    assert sent[0].content == sent[1].content


@pytest.mark.parametrize(
    "options", [{"urls": [], "read_from": "owner"}, {"urls": ["http://a"], "read_from": "all"}]
)
def test_wrong_options_are_refused(options: Json) -> None:
    with pytest.raises(ValueError, match=r"URL|read_from"):
        Nodes(consistent=False, **options)
