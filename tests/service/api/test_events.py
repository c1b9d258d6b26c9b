"""Server-Sent Events over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service.api import sse
from service.auth.keys import digest_of
from service.models import feed
from tests.support.running import Json, Server, error
from tests.support.streaming import post_lines

KEYS = "all learn,read,admin {0};mine read,learn {1} models=mine"
ALL, MINE = "all-".ljust(40, "x"), "mine-".ljust(40, "x")


class Events:
    """A client that listens."""

    def __init__(self, server: Server, path: str, headers: dict[str, str], buffer: int | None) -> None:
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        self._connection.sock = self.socket = socket.socket()
        self.socket.settimeout(60)
        if buffer is not None:  # before it connects: the window follows from it
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect((server.host, server.port))
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()
        assert self.response.status == 200
        assert self.block() == ["retry: 1000"]  # from here on it listens

    def block(self) -> list[str]:
        """Read up to an empty line; nothing at the end."""
        lines: list[str] = []
        while (line := self.response.readline().decode()) not in ("\n", ""):
            lines.append(line.rstrip("\n"))
        return lines

    def __iter__(self) -> Iterator[tuple[str, Json]]:
        """Read events as (kind, data); ``data["id"]`` is the id."""
        while block := self.block():
            fields = dict(line.split(": ", 1) for line in block)
            if "data" in fields:
                yield fields["event"], {**json.loads(fields["data"]), "id": fields.get("id")}

    def next(self, *kinds: str) -> Json:
        """Return the next event of some kinds."""
        return next(data for kind, data in self if kind in kinds)

    def learned(self, step: int) -> list[Json]:
        """Read until a model has learned so many samples; return what was told of that."""
        told = []
        for kind, data in self:
            if kind == "learn":
                told.append(data)
                if data["step"] == step:
                    break
        return told

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@contextmanager
def listening(
    server: Server, path: str = "/events", buffer: int | None = None, **headers: str
) -> Iterator[Events]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    events = Events(server, path, {**dict(server.client.headers), **named}, buffer)
    try:
        yield events
    finally:
        events.close()


def wait_for(condition: Callable[[], Any]) -> None:
    while not condition():
        threading.Event().wait(0.005)


def listeners(server: Server) -> set[Any]:
    return server.registry.feed._listeners


def test_what_is_learned_is_told_with_its_mean_loss(serve: Callable[..., Server]) -> None:
    server = serve()
    server.learn({"a": 1}, "cat")  # before anybody listened
    with listening(server) as events:
        answers = post_lines(server, [{"x": {"a": i}, "y": "cat"} for i in range(300)])
        told = events.learned(301)
    assert sum(event["count"] for event in told) == 300
    total = sum(event["loss"] * event["count"] for event in told)
    assert total == pytest.approx(sum(answer["loss"] for answer in answers))
    assert told[-1]["latest"] == {"y": "cat", "prediction": answers[-1]["prediction"]}
    assert {event["model"] for event in told} == {"default"}


def test_the_server_samples(serve: Callable[..., Server]) -> None:
    """However much is learned, a model's `learn` comes once a period at most."""
    server = serve()
    with listening(server) as events:
        post_lines(server, [{"x": {"a": i}, "y": "cat"} for i in range(2000)])
        told = events.learned(2000)
    assert sum(event["count"] for event in told) == 2000
    assert len(told) < 1000


def test_predictions_and_labels_are_told(serve: Callable[..., Server]) -> None:
    server = serve()
    server.learn({"a": 1}, "cat")
    with listening(server) as events:
        server.predict({"a": 1}, id="t")
        assert events.next("predict")["count"] == 1
        server.label("t", "dog")
        assert events.next("label") | {"id": 0} == {"model": "default", "step": 2, "count": 1, "id": 0}


def test_checkpoints_and_rollbacks_are_told(serve: Callable[..., Server]) -> None:
    server = serve()
    server.learn({"a": 1}, "cat")
    with listening(server) as events:
        kept = server.client.post("/models/default/checkpoints").json()
        told = events.next("checkpoint")
        assert (told["checkpoint"], told["step"]) == (kept["checkpoint"], 1)
        server.learn({"a": 2}, "cat")
        assert events.next("learn")["step"] == 2
        server.post("/models/default/rollback", step=1)
        told = events.next("rollback")
        assert (told["step"], told["branch"]) == (1, 1)
        server.learn({"a": 3}, "cat")  # the counters went back, and go on
        assert events.next("learn")["step"] == 2


def test_every_mark_of_the_history_is_told(serve: Callable[..., Server]) -> None:
    """Drifts, actions, unlearnings and imports; an import is not learned samples."""
    drift = {"action": "reset_slowest", "detector": "page_hinkley", "threshold": 5.0}
    server = serve()
    server.create(name="m", drift=drift, hidden=[4])
    with listening(server) as events:
        post_lines(server, [{"x": {"a": i % 2}, "y": i % 2, "model": "m"} for i in range(200)])
        flipped = [{"x": {"a": i % 2}, "y": 1 - i % 2, "model": "m", "id": f"{i}"} for i in range(200)]
        post_lines(server, flipped)
        drifted, acted = events.next("drift"), events.next("action")
        assert (drifted["detector"], acted["action"]) == ("page_hinkley", "reset_slowest")
        file = server.client.get("/models/m/export").content
        server.post("/models/m/forget", ids=["7", "9"])
        unlearned = events.next("unlearning")
        assert (unlearned["step"], unlearned["events"]) == (400, 2)
        octets = {"content-type": "application/octet-stream"}
        server.client.put("/models/new/import", content=file, headers=octets).raise_for_status()
        assert events.next("import")["step"] == 400
        server.learn({"a": 1}, 1, model="new")
        told = events.next("learn")
        while told["model"] == "m":  # a late notice of its samples: there is one a period at most
            told = events.next("learn")
        assert (told["model"], told["step"], told["count"]) == ("new", 401, 1)
    marks = {name: server.get(f"/models/{name}/history")["marks"] for name in ("m", "new")}
    told = {mark["kind"]: mark["step"] for mark in marks["m"][::-1]}
    assert (told["drift"], told["action"]) == (drifted["step"], acted["step"])
    assert told.keys() >= {"unlearning"}
    assert [mark["step"] for mark in marks["new"] if mark["kind"] == "import"] == [400]


def test_who_comes_back_hears_what_was_missed(serve: Callable[..., Server]) -> None:
    server = serve()
    with listening(server) as events:
        server.learn({"a": 1}, "cat")
        last = events.next("learn")["id"]
    wait_for(lambda: server.registry.feed._sampling is None)
    for i in range(5):
        server.learn({"a": i}, "cat")
    server.client.post("/models/default/checkpoints")
    with listening(server, last_event_id=last) as events:
        assert events.next("checkpoint", "notice")["step"] == 6
        assert sum(event["count"] for event in events.learned(6)) == 5


@pytest.mark.parametrize("identifier", ["elsewhere-3", "-", "²", "1", "{run}-999999", "{run}-x"])
def test_who_comes_back_too_late_is_told(serve: Callable[..., Server], identifier: str) -> None:
    server = serve()
    found = identifier.replace("{run}", server.registry.feed._run)
    with listening(server, last_event_id=found.encode().decode("latin-1")) as events:
        assert events.next("learn", "notice")["reason"] == "missed"
        server.learn({"a": 1}, "cat")
        assert events.next("learn")["step"] == 1


def test_what_is_kept_is_bounded(serve: Callable[..., Server]) -> None:
    server = serve()
    with listening(server) as events:
        server.client.post("/models/default/checkpoints")
        last = events.next("checkpoint")["id"]
    for _ in range(feed.RING + 1):
        server.registry.feed.publish("drift", "default")
    wait_for(lambda: server.registry.feed._number == feed.RING + 2)
    with listening(server, last_event_id=last) as events:
        assert events.next("drift", "notice")["reason"] == "missed"


def test_one_model_or_all(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="other")
    with listening(server, "/events?model=other") as one, listening(server) as both:
        server.learn({"a": 1}, "cat")
        assert both.next("learn")["model"] == "default"
        server.learn({"a": 1}, 1, model="other")
        assert one.next("learn")["model"] == both.next("learn")["model"] == "other"
    assert error(server.client.get("/events?model=nobody"))[:2] == (404, "unknown_model")


def test_a_key_for_some_models_hears_of_no_other(serve: Callable[..., Server]) -> None:
    server = serve(api_keys=KEYS.format(ALL, MINE))
    server.client.headers["authorization"] = f"Bearer {ALL}"
    server.create(name="mine")
    with listening(server, authorization=f"Bearer {MINE}") as events:
        server.learn({"a": 1}, "cat")
        server.client.post("/models/default/checkpoints")
        server.learn({"a": 1}, "cat", model="mine")
        assert next(iter(events))[1]["model"] == "mine"
    other = {"authorization": f"Bearer {MINE}"}
    assert error(server.client.get("/events?model=default", headers=other))[:2] == (403, "forbidden")


def test_a_key_that_is_taken_away_hears_no_more(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.02)

    def written(secret: str) -> str:
        return f"a read sha256:{digest_of(secret.encode()).hex()}\n"

    keys = tmp_path / "keys"
    keys.write_text(written(ALL))
    server = serve(keys_file=keys)
    with listening(server, authorization=f"Bearer {ALL}") as events:
        assert events.block() == [": alive"]
        keys.write_text(written(MINE))
        server.app.state.keyring.reload()
        assert events.next("notice")["reason"] == "refused"
        assert events.block() == []


def test_who_does_not_read_is_dropped_and_told(serve: Callable[..., Server]) -> None:
    server = serve()
    with listening(server, buffer=4096) as events:
        wait_for(lambda: listeners(server))
        [listener] = listeners(server)
        text = "x" * 10_000
        while not listener.slow:
            server.registry.feed.publish("drift", "default", text=text)
        *_, (kind, data) = events
        assert (kind, data["reason"]) == ("notice", "slow")
        wait_for(lambda: not listeners(server))


def test_who_never_reads_is_disconnected(serve: Callable[..., Server]) -> None:
    server = serve(stream_timeout=0.2)
    before = len(server.connections)
    with listening(server, buffer=4096):
        wait_for(lambda: listeners(server))
        [listener] = listeners(server)
        while not listener.slow and listener in listeners(server):  # dropped here, or disconnected already
            server.registry.feed.publish("drift", "default", text="x" * 10_000)
        wait_for(lambda: len(server.connections) == before and not listeners(server))


def test_when_nobody_listens_nothing_is_done(serve: Callable[..., Server]) -> None:
    server = serve()
    with listening(server):
        assert server.registry.feed._sampling is not None
    wait_for(lambda: server.registry.feed._sampling is None)
    assert not listeners(server)


def test_stopping_ends_it(serve: Callable[..., Server]) -> None:
    server = serve()
    with listening(server) as events:
        server.ask_to_stop()
        assert events.next("notice")["reason"] == "shutting_down"
        assert events.block() == []
        server.join()
