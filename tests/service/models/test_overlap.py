"""While a group is written to the log, the next one is checked: as if the first were learned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import StorageFullError
from service.storage.interfaces import Group
from tests.support.running import Server, serving


class Gate:
    """Stands before the log of a server: each commit waits until it may go on, or is refused."""

    def __init__(self, server: Server) -> None:
        self._log = server.registry.get().history.log
        self._append = self._log.append
        self._access = threading.Semaphore(0)
        self._refused: set[int] = set()
        self.arrived = 0
        self.sizes: list[int] = []
        self._log.append = self._wait  # type: ignore[method-assign]

    def _wait(self, groups: Sequence[Group]) -> list[int]:
        number, self.arrived = self.arrived, self.arrived + 1
        self._access.acquire(timeout=60)
        if number in self._refused:
            raise StorageFullError("there is no room")
        self.sizes.append(sum(event.samples for group in groups for event in group.events))
        return self._append(groups)

    def refuse(self, commit: int) -> None:
        """Let a commit fail, by its number from 0."""
        self._refused.add(commit)

    def open(self) -> None:
        """Let all go on."""
        self._access.release(1000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        running.learn({"a": 0.5}, "cat")
        running.learn({"a": 0.5}, "dog")
        yield running


@pytest.fixture
def send(server: Server) -> Iterator[Callable[..., Future[httpx.Response]]]:
    """Send a request that is not answered yet, and return once its check has begun."""
    with ThreadPoolExecutor(8) as pool:

        def one(
            path: str, *, model: str = "default", checked: bool = True, **body: Any
        ) -> Future[httpx.Response]:
            worker = server.registry.get(model)
            depth = worker.samples_waiting
            sent = pool.submit(server.client.post, path, json={**body, "model": model} if body else None)
            server.wait_for_queue(depth + 1, model)
            if checked:
                wait_until(lambda: not worker._queue.waiting)
            return sent

        yield one


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def codes(answers: Sequence[Future[httpx.Response]]) -> list[Any]:
    """Return what became of requests: a step, or the code of an error."""
    bodies = [answer.result(60).json() for answer in answers]
    return [body["error"]["code"] if "error" in body else body.get("step") for body in bodies]


def logged_steps(server: Server) -> list[int | None]:
    """Return the steps in the log, of samples that count."""
    return [
        record.event.step
        for record in server.registry.get().history.read()
        if record.event.kind in ("learn", "label") and record.refused is None
    ]


def test_a_group_is_checked_while_the_one_before_is_logged(server: Server, send: Any) -> None:
    gate, worker = Gate(server), server.registry.get()
    answers = [send("/learn", x={"a": 1.0}, y=label) for label in ("cat", 1, "cat")]
    wait_until(lambda: worker.refusals["label_type"] == 1)  # found while nothing is logged
    assert gate.sizes == []
    gate.open()
    assert codes(answers) == [3, "label_type", 4]
    assert logged_steps(server) == [1, 2, 3, 4]


def test_an_id_that_is_on_its_way_is_known(server: Server, send: Any) -> None:
    gate = Gate(server)
    first = send("/learn", x={"a": 1.0}, y="cat", id="e")
    again = send("/learn", x={"a": 1.0}, y="cat", id="e")
    other = send("/learn", x={"a": 2.0}, y="cat", id="e")
    gate.open()
    assert codes([first, again, other]) == [3, 3, "id_conflict"]
    assert again.result().json()["duplicate"]
    assert server.learn({"a": 1.0}, "cat", id="e")["duplicate"]  # by now it is known from the log
    assert logged_steps(server) == [1, 2, 3]


def test_a_label_that_is_on_its_way_is_known(server: Server, send: Any) -> None:
    server.predict({"a": 1.0}, id="p")
    gate = Gate(server)
    answers = [send("/label", id="p", y="cat"), send("/label", id="p", y="cat")]
    gate.open()
    assert codes(answers) == [3, "already_labelled"]


def test_a_prediction_that_is_on_its_way_is_repeated(server: Server, send: Any) -> None:
    gate = Gate(server)
    answers = [send("/predict", x={"a": 1.0}, id="p"), send("/predict", x={"a": 1.0}, id="p")]
    gate.open()
    first, again = [answer.result(60).json() for answer in answers]
    assert first == again
    assert sum(gate.sizes) == 1


@pytest.mark.parametrize("path", ["/learn", "/predict"])
def test_what_repeats_a_request_that_could_not_be_logged_is_refused_too(
    server: Server, send: Any, path: str
) -> None:
    body = {"x": {"a": 1.0}, **({"y": "cat"} if path == "/learn" else {})}
    gate = Gate(server)
    gate.refuse(0)
    answers = [send(path, **body, id="e"), send(path, **body, id="e")]
    gate.open()
    assert codes(answers) == ["storage_full"] * 2
    assert server.post(path, **body, id="e").status_code == 200
    assert sum(gate.sizes) == 1


def test_steps_are_put_right_behind_a_group_that_could_not_be_logged(server: Server, send: Any) -> None:
    gate = Gate(server)
    gate.refuse(0)
    answers = [send("/learn", x={"a": float(i)}, y="cat") for i in range(5)]
    gate.open()
    outcome = codes(answers)
    assert outcome[0] == "storage_full"
    assert outcome[1:] == [3, 4, 5, 6]
    assert server.learn({"a": 9.0}, "cat")["step"] == 7
    assert logged_steps(server) == [1, 2, 3, 4, 5, 6, 7]


def test_what_changes_the_model_as_a_whole_waits_for_what_is_on_its_way(server: Server, send: Any) -> None:
    gate = Gate(server)
    answers = [send("/learn", x={"a": float(i)}, y="cat") for i in range(3)]
    kept = send("/models/default/checkpoints", checked=False)
    answers.append(send("/learn", checked=False, x={"a": 9.0}, y="cat"))
    gate.open()
    assert codes(answers) == [3, 4, 5, 6]
    assert kept.result(60).json()["step"] == 5


def test_a_new_label_that_was_refused_is_not_known_later(server: Server, send: Any) -> None:
    """What was on its way then was checked as if the label were there; what comes later is not."""
    server.create(name="few", hidden=[4], standardize=False, max_classes=2)
    server.learn({"a": 1.0}, "cat", model="few")
    gate = Gate(server)
    poison = send("/learn", model="few", x={"a": 1e39}, y="dog")
    behind = send("/learn", model="few", x={"a": 1.0}, y="bird")
    gate.open()
    assert codes([poison, behind]) == ["non_finite_state", "too_many_classes"]
    assert server.learn({"a": 1.0}, "bird", model="few")["step"] == 2
