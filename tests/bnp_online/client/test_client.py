"""The client against a real server over a real socket: both of its forms, and what it raises."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

import bnp_online as bnp
from bnp_online import SampleError
from bnp_online.client import (
    AsyncClient,
    Client,
    ClientError,
    NoAnswerError,
    Sample,
    ServerError,
    UnexpectedAnswerError,
    calls,
    errors,
)
from bnp_online.client.exchange import Reply, Request
from service.auth.scopes import SCOPES
from service.errors import HTTP_CODES, TABLE
from tests.support.programs import ROOT
from tests.support.running import Server

SMALL: dict[str, Any] = {"hidden": [6], "replay": 0}
#: The names of both forms.
NAMES = [name for name in vars(Client) if not name.startswith("_") and name != "close"]


class Blocking:
    """The awaited client behind the names of the blocking one, so that one test asks both."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Awaitable[Any] | AsyncIterator[Any]] = getattr(self._client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return [each async for each in result] if isinstance(result, AsyncIterator) else await result

        return lambda *args, **kwargs: self._runner.run(call(*args, **kwargs))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


@pytest.fixture(params=[Client, Blocking])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Make clients of one form and then of the other."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        made.append(request.param(url, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Any], server: Server, request: pytest.FixtureRequest) -> Any:
    """A client of the server that the tests of this module share."""
    return connect(server.url)


@pytest.fixture
def model(client: Any) -> str:
    """A model of the test's own."""
    name: str = calls.new_id()
    client.create(name, **SMALL)
    return name


def test_it_learns_and_predicts(client: Any, model: str) -> None:
    first = client.learn_one({"a": 1.0, "b": "red"}, "cat", model=model)
    assert (first.step, first.prediction, first.loss, first.duplicate) == (1, None, None, False)
    assert client.learn_one({"a": 0.0}, "dog", model=model, w=0.5).prediction == "cat"
    answer = client.predict_one({"a": 1.0}, model=model)
    assert answer.step == 2
    assert answer.prediction in ("cat", "dog")
    chances = client.predict_proba_one({"a": 1.0}, model=model)
    assert list(chances) == ["cat", "dog"]
    assert sum(chances.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [(True, False), (7, 1), ("7", "1")])
def test_probabilities_have_labels_of_the_type_that_was_learned(
    client: Any, model: str, labels: tuple[Any, Any]
) -> None:
    assert client.predict_proba_one({"a": 1.0}, model=model) == {}
    for y in labels:
        client.learn_one({"a": 1.0}, y, model=model)
    chances = client.predict_proba_one({"a": 1.0}, model=model)
    assert [(type(name), name) for name in chances] == [(type(y), y) for y in labels]


def test_a_label_may_come_later(client: Any, model: str) -> None:
    client.learn_one({"a": 1.0}, "cat", model=model)
    client.predict_one({"a": 2.0}, model=model, id="t-1")
    assert client.label("t-1", "dog", model=model).prediction == "cat"
    with pytest.raises(errors.AlreadyLabelledError):
        client.label("t-1", "dog", model=model)
    with pytest.raises(errors.UnknownIdError) as caught:
        client.label("t-2", "dog", model=model)
    assert (caught.value.status, caught.value.code, caught.value.field) == (404, "unknown_id", "id")


def test_numpy_counts_as_python(client: Any, model: str) -> None:
    x = {"a": np.float64(1.5), "b": np.int64(2), "c": np.bool_(True)}
    client.learn_one(x, np.int64(3), model=model)
    assert client.predict_one(x, model=model).prediction == 3


def test_an_id_is_learned_once(client: Any, model: str) -> None:
    client.learn_one({"a": 1.0}, 1, model=model, id="e-1")
    assert client.learn_one({"a": 1.0}, 1, model=model, id="e-1").duplicate
    with pytest.raises(errors.IdConflictError):
        client.learn_one({"a": 2.0}, 1, model=model, id="e-1")
    assert client.describe(model).step == 1


def test_many_samples_are_learned_in_requests_of_bounded_size(client: Any, model: str) -> None:
    sizes: list[int] = []
    stream = (({"a": float(i % 7), "b": 1.0}, i % 2) for i in range(2500))
    summary = client.learn_many(stream, model=model, progress=lambda outcomes: sizes.append(len(outcomes)))
    assert (summary.learned, summary.refused, summary.duplicates, summary.step) == (2500, 0, 0, 2500)
    assert sizes == [1000, 1000, 500]
    # As one after the other: a stream is learned in its order.
    clf = bnp.BNPClassifier(hidden=(6,), replay=0, device="cpu")
    for i in range(2500):
        clf.learn_one({"a": float(i % 7), "b": 1.0}, i % 2)
    assert client.fingerprint(model).model_sha256 == clf.fingerprint()


def test_no_more_of_a_stream_is_read_than_is_sent(client: Any, model: str) -> None:
    read, learned = 0, 0

    def stream() -> Iterator[tuple[Any, int]]:
        nonlocal read
        for i in range(500):
            assert read - learned < 50
            read += 1
            yield {"a": float(i)}, i % 2

    def count(outcomes: Any) -> None:
        nonlocal learned
        learned += len(outcomes)

    client.learn_many(stream(), model=model, size=50, progress=count)
    assert (read, learned) == (500, 500)


def test_what_is_refused_is_told_and_the_rest_is_learned(client: Any, model: str) -> None:
    bad = [float("inf"), {"nested": 1}, [1]]
    stream = [({"a": bad[i % 3] if i % 5 == 4 else float(i)}, i % 2) for i in range(1200)]
    summary = client.learn_many(stream, model=model)
    assert (summary.learned, summary.refused, summary.step) == (960, 240, 960)
    assert [i for i, _ in summary.refusals] == list(range(4, 500, 5))
    assert [error.row for _, error in summary.refusals] == [i for i, _ in summary.refusals]
    assert {type(error) for _, error in summary.refusals} == {errors.InvalidSampleError}
    assert str(summary.refusals[0][1]).startswith("row 4: x.a: ")


def test_many_samples_are_predicted_in_requests_of_bounded_size(client: Any, model: str) -> None:
    samples = [({"a": float(i % 7), "b": "red"}, i % 2) for i in range(40)]
    client.learn_many(samples, model=model)
    read = 0

    def xs() -> Iterator[dict[str, Any]]:
        nonlocal read
        for i in range(1500):
            read += 1
            yield {"a": math.inf} if i == 1200 else {"a": float(i % 7), "b": "red"}

    answers = client.predict_many(xs(), model=model)
    if isinstance(answers, Iterator):  # of the blocking client
        first = next(answers)
        assert read == 1000
        answers = [first, *answers]
    assert len(answers) == 1500
    assert answers[3] == client.predict_one({"a": 3.0, "b": "red"}, model=model)
    assert [(i, each.field, each.row) for i, each in enumerate(answers) if isinstance(each, ServerError)] == [
        (1200, "x.a", 1200)
    ]
    assert [*client.predict_many([], model=model)] == []
    with pytest.raises(errors.InvalidSampleError, match="interval"):
        raise next(iter(client.predict_many([{"a": 1.0}], model=model, interval=2.0)))


def test_a_stream_may_bring_ids_and_weights(client: Any, model: str) -> None:
    stream = [Sample({"a": float(i % 50)}, i % 2, id=str(i % 50), w=0.5) for i in range(100)]
    summary = client.learn_many(stream, model=model)
    assert (summary.learned, summary.duplicates, client.describe(model).step) == (100, 50, 50)


def test_an_empty_stream_is_no_request(connect: Callable[..., Any]) -> None:
    assert connect("http://127.0.0.1:9", patience=0.0).learn_many([]).learned == 0


async def _ticks(n: int) -> AsyncIterator[tuple[Any, int]]:
    for i in range(n):
        await asyncio.sleep(0)
        yield {"a": float(i)}, i % 2


def test_a_stream_may_come_asynchronously(server: Server) -> None:
    name = calls.new_id()

    async def learn() -> int:
        async with AsyncClient(server.url) as client:
            await client.create(name, **SMALL)
            return (await client.learn_many(_ticks(30), model=name)).learned

    assert asyncio.run(learn()) == 30


def test_models_are_looked_after(client: Any, model: str, tmp_path: Path) -> None:
    assert model in [each.name for each in client.models().models]
    with pytest.raises(errors.ModelExistsError):
        client.create(model)
    client.learn_many([({"a": float(i)}, i % 2) for i in range(20)], model=model)
    kept = client.checkpoint(model)
    assert client.checkpoints(model).checkpoints[0] == kept
    before = client.fingerprint(model)
    client.learn_one({"a": 1.0}, 1, model=model, id="to-forget")
    assert client.metrics(model).n == 20
    assert client.rollback(model, checkpoint=kept.checkpoint).step == 20
    assert client.fingerprint(model) == before
    assert client.rollback(model, step=10).step == 10
    with pytest.raises(errors.UnknownCheckpointError):
        client.rollback(model, step=1000)
    client.learn_one({"a": 1.0}, 1, model=model, id="forget-me")
    assert client.forget(["forget-me"], model=model).forgotten == 1
    assert client.upgrade(model, kept=True).rebuilding is False
    assert client.patch(model, max_classes=2).spec.max_classes == 2
    client.learn_one({"a": 1.0}, 1, model=model)
    with pytest.raises(errors.InvalidSampleError, match="classes"):
        client.learn_one({"a": 1.0}, 2, model=model)
    while client.describe(model).state == "rebuilding":
        pass
    added = client.add_shadow("linear", model=model, hidden=[], lr=0.1)
    assert (added.name, added.spec.hidden, added.comparison.verdict) == ("linear", (), "undecided")
    assert [each.name for each in client.shadows(model).shadows] == ["linear"]
    untrained = client.fingerprint(model, shadow="linear")
    with pytest.raises(errors.ShadowExistsError):
        client.add_shadow("linear", model=model)
    with pytest.raises(errors.UnknownShadowError):
        client.promote("none", model=model)
    before = client.fingerprint(model)
    assert client.promote("linear", model=model).shadow == "original"
    assert client.fingerprint(model).model_sha256 == untrained.model_sha256
    assert client.promote("original", model=model).champion == "original"
    assert client.fingerprint(model) == before
    assert client.delete_shadow("linear", model=model) is None
    file = tmp_path / "model"
    file.write_bytes(client.export(model))
    loaded = bnp.load(file)
    assert loaded.fingerprint() == client.fingerprint(model).model_sha256
    loaded.learn_one({"a": 3.0}, 0)
    loaded.save(file)
    client.import_(file.read_bytes(), model=model)
    assert client.fingerprint(model).model_sha256 == loaded.fingerprint()
    with pytest.raises(errors.InvalidFileError):
        client.import_(b"no model", model=model)
    client.delete(model)
    with pytest.raises(errors.UnknownModelError):
        client.describe(model)
    assert client.ready().status == "ready"


def test_both_forms_have_the_same_calls() -> None:
    assert [n for n in vars(AsyncClient) if not n.startswith("_") and n != "aclose"] == NAMES
    for name in NAMES:
        one, other = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.iscoroutinefunction(other) or inspect.isasyncgenfunction(other)
        if name not in ("learn_many", "predict_many"):  # which take an asynchronous stream as well
            assert inspect.signature(one) == inspect.signature(other)


def test_every_code_of_the_server_has_a_class() -> None:
    known = {code for codes in errors._CODES.values() for code in codes.split()}
    codes = {row.code for row in TABLE.values()} | set(HTTP_CODES.values())
    # A pickled model is refused by /api/ alone, and a batch only if it comes from a topic.
    assert codes - known == {None, "internal_error", "pickled_model", "batch_refused"}
    samples = set(re.findall(r'``"(\w+)"``', inspect.getdoc(SampleError) or ""))
    samples -= {"y", "w"}  # fields
    assert {errors._BY_CODE.get(code) for code in samples} == {errors.InvalidSampleError}
    assert isinstance(
        errors.server_error(500, {"error": {"code": "internal_error", "message": "x"}}), ServerError
    )
    newer = errors.server_error(409, {"error": {"code": "from_the_future", "message": "x"}})
    assert type(newer) is errors.ConflictError


def test_a_key_is_sent_and_a_wrong_one_refused(
    connect: Callable[..., Any], serve: Callable[..., Server]
) -> None:
    secret, reader = "k" * 40, "r" * 40
    keys = SecretStr(f"all {','.join(SCOPES)} {secret}; eye read {reader}")
    server = serve(api_keys=keys)
    assert connect(server.url, key=secret).learn_one({"a": 1.0}, 1).step == 1
    with pytest.raises(errors.UnauthorizedError):
        connect(server.url, key="w" * 40).learn_one({"a": 1.0}, 1)
    with pytest.raises(errors.UnauthorizedError):
        connect(server.url).learn_many([({"a": 1.0}, 1)])
    with pytest.raises(errors.ForbiddenError):
        connect(server.url, key=reader).learn_one({"a": 1.0}, 1)
    assert connect(server.url, key=reader).describe().step == 1
    assert secret not in repr(connect(server.url, key=secret))


def test_a_full_queue_is_waited_for(connect: Callable[..., Any], serve: Callable[..., Server]) -> None:
    server = serve(queue_size=2)
    client = connect(server.url)
    others = [threading.Thread(target=server.learn, args=({"a": float(i)}, 1)) for i in range(2)]
    with server.held():
        for other in others:
            other.start()
        server.wait_for_queue(3)
        with pytest.raises(errors.QueueFullError) as caught:
            connect(server.url, patience=0.5).learn_one(
                {"a": 1.0}, 1
            )  # less than Retry-After: it is not waited
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        answers: list[Any] = []
        waiting = threading.Thread(target=lambda: answers.append(client.learn_one({"a": 3.0}, 1)))
        waiting.start()
        threading.Event().wait(0.3)  # in which it is refused
    for thread in (*others, waiting):
        thread.join(60)
    assert (answers[0].step, answers[0].duplicate) == (3, False)


def received(connection: socket.socket) -> bytes:
    """Return one request, head and body."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    found = re.search(rb"content-length: (\d+)", request.lower())
    assert found
    while len(request.partition(b"\r\n\r\n")[2]) < int(found[1]):
        request += connection.recv(65536)
    return request


@contextmanager
def listener(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Something that takes connections and is no server of ours: each gets an answer, then it is closed."""
    heads: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def answer() -> None:
            for each in answers:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    heads.append(received(connection))
                    connection.sendall(each)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", heads
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(60)


def response(status: str, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body


LEARNED = b'{"model":"default","step":5,"prediction":null,"loss":null,"duplicate":true}'


def test_a_lost_answer_is_asked_for_again_with_the_same_id(connect: Callable[..., Any]) -> None:
    with listener(b"", b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{", response("200 OK", LEARNED)) as (
        url,
        heads,
    ):
        assert connect(url).learn_one({"a": 1.0}, 1).step == 5
    bodies = {head.partition(b"\r\n\r\n")[2] for head in heads}
    assert len(heads) == 3
    assert len(bodies) == 1
    assert b'"id":"' in bodies.pop()


def test_what_might_be_done_twice_is_not_sent_twice(connect: Callable[..., Any]) -> None:
    with listener(b"", b"") as (url, heads):
        with pytest.raises(NoAnswerError):
            connect(url).rollback(step=3)
        assert len(heads) == 1


def test_only_the_lines_that_were_not_answered_are_sent_again(connect: Callable[..., Any]) -> None:
    error = b'{"error":{"code":"shutting_down","message":"again","field":null},"line":3}\n'
    first = response(
        "200 OK",
        LEARNED + b"\n" + b'{"error":{"code":"invalid_json","message":"x","field":null},"line":2}\n' + error,
    )
    second = response("200 OK", LEARNED + b"\n" + LEARNED + b"\n")
    with listener(first, second) as (url, heads):
        summary = connect(url).learn_many([({"a": float(i)}, i) for i in range(4)])
    assert (summary.learned, summary.refused) == (3, 1)
    assert [i for i, _ in summary.refusals] == [1]
    assert heads[0].count(b'"y"') == 4
    assert [b'"y":2' in heads[1], b'"y":3' in heads[1], heads[1].count(b'"y"')] == [True, True, 2]


def test_what_is_no_server_is_told(connect: Callable[..., Any]) -> None:
    with listener(response("200 OK", b"<html>"), response("404 Not Found", b"<html>")) as (url, _):
        with pytest.raises(UnexpectedAnswerError):
            connect(url).learn_one({"a": 1.0}, 1)
        with pytest.raises(UnexpectedAnswerError):
            connect(url).learn_one({"a": 1.0}, 1)


def test_nobody_there_and_nobody_in_time(connect: Callable[..., Any]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NoAnswerError, match=url):
            connect(url, timeout=0.2, patience=0.0).learn_one({"a": 1.0}, 1)
    with pytest.raises(NoAnswerError, match=url):
        connect(url, patience=0.3).learn_many([({"a": 1.0}, 1)])
    assert issubclass(NoAnswerError, ClientError)


@pytest.mark.parametrize(
    ("names", "others"), [("AsyncClient, Client, Sample", {"numpy", "river"}), ("RemoteClassifier", set())]
)
def test_the_client_needs_no_server_and_no_torch(names: str, others: set[str]) -> None:
    code = (
        f"import sys; from bnp_online.client import {names}; others = {others}; "
        "print(*{'fastapi', 'numba', 'starlette', 'torch', 'service', 'uvicorn', *others} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_former_place_of_the_client_warns() -> None:
    code = (
        "import bnp_online.client.errors as now; from service.client import Client, RemoteRegressor; "
        "from service.client.errors import QueueFullError as former; assert former is now.QueueFullError"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "service.client is now bnp_online.client" in done.stderr


def test_pauses_grow_and_obey_the_server() -> None:
    from bnp_online.client.exchange import Patience

    patience = Patience(1e6)
    waits = [patience.pause() for _ in range(12)]
    assert all(
        wait is not None and 0.05 * 2 ** min(i, 6) <= wait <= 5.0 for i, wait in enumerate(waits) if i < 6
    )
    assert max(wait or math.inf for wait in waits) <= 5.0
    assert (patience.pause(Reply(429, retry_after="60")) or 0.0) >= 60.0
    assert Patience(1.0).pause(Reply(429, retry_after="60")) is None
    assert Request("GET", "/models").headers == {}
