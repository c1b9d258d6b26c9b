"""How streams behave while they run: both ways at once, waiting, leaving, and ending."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bnp_online import BNPClassifier
from service.api.line_batch import SampleBatch
from service.api.line_splitter import LineGroup
from tests.support.running import Json, Server, error
from tests.support.streaming import Stream, post_lines, refusals, streaming


def sample(i: int, **more: Any) -> Json:
    return {"x": {"a": i % 7, "b": float(i % 5)}, "y": "cat" if i % 3 else "dog", **more}


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does, it is no error of the server."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def tasks(server: Server) -> int:
    async def count() -> int:
        return len(asyncio.all_tasks())

    return server.on_loop(count())


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        threading.Event().wait(0.01)


def test_answers_come_while_the_body_does(serve: Callable[..., Server]) -> None:
    server = serve()
    with streaming(server) as stream:
        for i in range(5):
            stream.send(sample(i))
            assert stream.read()["step"] == i + 1
        stream.send(json.dumps(sample(5)).encode())
        stream.send(b"\n", sample(6), b'{"x":')
        assert [stream.read()["step"] for _ in range(2)] == [6, 7]
        stream.end()
        assert refusals(stream.rest()) == {8: "invalid_json"}


def many(server: Server, count: int, models: int = 100) -> list[Json]:
    """Create models, and return lines of which each is for another one than the line before."""
    for i in range(models):
        server.create(name=f"m{i}", hidden=[2], replay=0)
    return [sample(i, model=f"m{i % models}") for i in range(count)]


def test_a_line_after_many_for_many_models_is_answered_at_once(serve: Callable[..., Server]) -> None:
    """The stream gathers lines only while they arrive."""
    server = serve(max_models=101)
    lines = many(server, 1000)
    with streaming(server) as stream:
        stream.send(*lines)
        assert [stream.read()["step"] for _ in lines] == [i // 100 + 1 for i in range(1000)]
        for i in range(3):
            stream.send(lines[i])
            assert stream.read()["step"] == 11
        stream.send(*lines[3:600])
        stream.end()
        assert [answer["step"] for answer in stream.rest()] == [i // 100 + 11 for i in range(3, 600)]


def test_a_batch_has_no_more_models_than_memory_may(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round has twice as many models as the one before, which is as many as a batch may grow by."""
    sizes: list[int] = []

    class Counted(SampleBatch):
        def __init__(self, items: LineGroup, *args: Any, **options: Any) -> None:
            super().__init__(items, *args, **options)
            sizes.append(len(items))

    monkeypatch.setattr("service.api.fast_path.SampleBatch", Counted)
    server = serve(max_models=101, models_in_memory=40, group_size=4)
    many(server, 0, 40)
    with streaming(server) as stream:
        for models in (1, 2, 4, 8, 16, 32):
            lines = [sample(i, model=f"m{i % models}") for i in range(1000)]
            stream.send(*lines)
            assert [stream.read()["model"] for _ in lines] == [line["model"] for line in lines]
    assert max(sizes) <= 40


@pytest.mark.parametrize("leaves", [True, False])
def test_lines_for_many_models_are_learned_though_the_next_one_is_missing(
    serve: Callable[..., Server], leaves: bool
) -> None:
    server = serve(max_models=101, stream_timeout=1.0)
    lines = many(server, 900)
    before = tasks(server)
    with streaming(server) as stream:
        for i in range(0, 900, 100):
            stream.send(*lines[i : i + 100])
        stream.send(b'{"model": "m0", ')
        if not leaves:
            answered = stream.rest()
            assert refusals(answered) == {901: "stream_timeout"}
            assert len(answered) == 901
    wait_for(lambda: tasks(server) == before)
    assert {server.fingerprint(f"m{i}")["step"] for i in range(100)} == {9}


def test_predictions_are_answered_while_a_stream_learns(serve: Callable[..., Server]) -> None:
    server = serve()
    lines = [sample(i) for i in range(4000)]
    with ThreadPoolExecutor() as pool:
        learning = pool.submit(post_lines, server, lines)
        steps = []
        while not learning.done():
            steps.append(server.predict({"a": 1})["step"])
        assert [answer["step"] for answer in learning.result()] == list(range(1, 4001))
    assert steps == sorted(steps)
    assert len({step for step in steps if 0 < step < 4000}) > 3


def test_predictions_go_between_the_calls_of_a_group(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    worker = server.registry.get()
    learn_samples = worker.model.estimator.learn_samples
    begun, asked = threading.Event(), threading.Event()

    def learn_slowly(samples: Any) -> Any:
        begun.set()
        asked.wait(60)
        return learn_samples(samples)

    monkeypatch.setattr(worker.model.estimator, "learn_samples", learn_slowly)
    with ThreadPoolExecutor() as pool, streaming(server) as stream:
        stream.send(*[sample(i) for i in range(10)])
        begun.wait(60)
        predicting = pool.submit(server.predict, {"a": 1})
        server.wait_for_queue(11)
        asked.set()
        assert predicting.result()["step"] == 1  # the first call of a new model takes one sample
        stream.end()
        assert [answer["step"] for answer in stream.rest()] == list(range(1, 11))


def test_two_streams_and_a_loop_make_one_order(serve: Callable[..., Server]) -> None:
    server = serve(group_size=7)
    parts = [[sample(i + 100 * k) for i in range(60)] for k in range(3)]
    with ThreadPoolExecutor() as pool:
        streams = [pool.submit(post_lines, server, part) for part in parts[:2]]
        looped = [server.learn(**line) for line in parts[2]]
        answered = [*(stream.result() for stream in streams), looped]
    for answers in answered:
        assert [answer["step"] for answer in answers] == sorted(answer["step"] for answer in answers)
    learned = sorted(
        (answer["step"], line["x"], line["y"], answer["prediction"])
        for answers, part in zip(answered, parts, strict=True)
        for answer, line in zip(answers, part, strict=True)
    )
    local = BNPClassifier(device="cpu")
    for step, x, y, prediction in learned:
        assert local.predict_one(x) == prediction
        local.learn_one(x, y)
        assert local.step == step
    assert server.fingerprint()["model_sha256"] == local.fingerprint()


def test_a_stream_waits_and_leaves_half_of_the_places(serve: Callable[..., Server]) -> None:
    server = serve(queue_size=4)
    with streaming(server) as stream, ThreadPoolExecutor() as pool:
        with server.held():
            stream.send(*[sample(i) for i in range(50)])
            server.wait_for_queue(3)
            single = [pool.submit(server.post, "/learn", **sample(i)) for i in (50, 51)]
            server.wait_for_queue(5)
            assert error(server.post("/learn", **sample(0)))[:2] == (429, "queue_full")
            assert server.registry.get().queue_depth == 5
        steps = [stream.read()["step"] for _ in range(50)]
        steps += [answer.result().json()["step"] for answer in single]
        assert sorted(steps) == list(range(1, 53))
        assert steps[:50] == sorted(steps[:50])
        stream.end()
        assert stream.rest() == []


@pytest.mark.parametrize(
    ("path", "more"), [("/learn", {"y": "cat"}), ("/predict", {}), ("/predict", {"id": "p"})]
)
def test_requests_that_wait_are_limited_in_bytes(serve: Callable[..., Server], path: str, more: Json) -> None:
    """Of all models together, streams included: parsed, a body takes several times its bytes."""
    server = serve(queue_bytes=200_000)
    server.create(name="other")
    bodies = server.app.state.bodies
    lines = [{"x": {"a": float(i), "b": "v" * 990}, **more} for i in range(300)]
    for i, line in enumerate(lines):
        line.update({"id": f"p{i}"} if "id" in line else {})
    with streaming(server, path) as stream, ThreadPoolExecutor(24) as pool:
        with server.held():
            stream.send(*lines)
            wait_for(lambda: bodies.taken > 0)
            single = [
                pool.submit(server.post, "/learn", x={f"n{j}": "v" * 1000 for j in range(10)}, y="cat")
                for _ in range(24)
            ]
            wait_for(lambda: bodies.taken >= 200_000)
            for model in ("default", "other"):
                refused = server.post("/learn", x={"a": 1}, y="cat", model=model)
                assert error(refused)[:2] == (429, "queue_full")
                assert "BNP_QUEUE_BYTES" in refused.json()["error"]["message"]
            assert bodies.taken < 280_000  # a request or a chunk of the stream more, not both in full
        assert [stream.read()["prediction"] for _ in lines]
        assert {answer.result().status_code for answer in single} <= {200, 429}
        stream.end()
        assert stream.rest() == []
    assert bodies.taken == 0
    assert server.learn({"a": 1}, "cat")["model"] == "default"


def test_a_client_that_leaves_takes_no_capacity_with_it(serve: Callable[..., Server]) -> None:
    server = serve(queue_bytes=50_000)
    with server.held(), streaming(server) as stream:
        stream.send(*[sample(i) for i in range(500)])
        wait_for(lambda: server.app.state.bodies.taken > 0)
    wait_for(lambda: server.app.state.bodies.taken == 0)


def test_a_client_that_leaves_half_way(serve: Callable[..., Server]) -> None:
    server = serve()
    before = tasks(server)
    with streaming(server) as stream:
        stream.send(*[sample(i) for i in range(10)], b'{"x": {"a": 1}, "y": "cat"}')
        assert [stream.read()["step"] for _ in range(10)] == list(range(1, 11))
    wait_for(lambda: tasks(server) == before)
    assert server.fingerprint()["step"] == 10  # not the line that had not ended
    assert 'route="/learn",status="200"} 1.0' in server.client.get("/metrics").text


def test_a_client_that_leaves_before_its_answers(serve: Callable[..., Server]) -> None:
    server = serve()
    before = tasks(server)
    with server.held():
        with streaming(server) as stream:
            stream.send(*[sample(i) for i in range(10)])
            server.wait_for_queue(11)
        wait_for(lambda: len(server.connections) <= 1)  # none but that of the test's own client
    wait_for(lambda: tasks(server) == before)
    assert server.fingerprint()["step"] == 10  # they were taken, so they were learned


def test_a_client_that_leaves_without_a_line(serve: Callable[..., Server]) -> None:
    server = serve()
    before = tasks(server)
    with streaming(server) as stream:
        stream.send(b'{"x"')
    wait_for(lambda: 'route="/learn",status="400"} 1.0' in server.client.get("/metrics").text)
    assert tasks(server) == before


def send_until_it_blocks(stream: Stream, lines: Sequence[Json], notice: Callable[[], object]) -> None:
    stream.socket.settimeout(0.5)
    try:
        while True:
            stream.send(*lines)
            notice()
    except TimeoutError:
        return


def test_a_client_that_does_not_read(serve: Callable[..., Server]) -> None:
    server = serve(stream_timeout=1.5, queue_size=100)
    before = tasks(server)
    depths: list[int] = []
    lines = [{"x": {"a": 1}, "id": "t" * 120 + str(i)} for i in range(100)]
    with streaming(server, "/predict", receive_buffer=4096) as stream:
        send_until_it_blocks(stream, lines, lambda: depths.append(server.registry.get().queue_depth))
        assert tasks(server) > before
        assert server.learn({"a": 1}, "cat")["step"] == 1  # others are served
        wait_for(lambda: tasks(server) == before)  # and it is disconnected
    assert max(depths) <= 100
    assert server.registry.get().queue_depth == 0


def test_a_client_that_does_not_send(serve: Callable[..., Server]) -> None:
    server = serve(stream_timeout=0.2)
    before = tasks(server)
    with streaming(server) as stream:
        stream.send(sample(0))
        assert stream.read()["step"] == 1
        assert refusals(stream.rest()) == {2: "stream_timeout"}
        assert stream.socket.recv(1) == b""
    wait_for(lambda: tasks(server) == before)


def test_a_model_that_is_deleted_while_a_stream_learns(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="gone")
    with streaming(server) as stream:
        stream.send(sample(0, model="gone"))
        assert stream.read()["step"] == 1
        assert server.client.delete("/models/gone").status_code == 204
        stream.send(sample(1, model="gone"), sample(2))
        stream.end()
        refused, learned = stream.rest()
        assert refusals([refused]) == {2: "unknown_model"}
        assert learned["step"] == 1


def test_lines_that_wait_for_a_model_that_is_deleted(serve: Callable[..., Server]) -> None:
    server = serve(queue_size=2)
    server.create(name="gone")
    with ThreadPoolExecutor() as pool, streaming(server) as stream:
        with server.held("gone"):
            stream.send(*[sample(i, model="gone") for i in range(5)])
            server.wait_for_queue(2, "gone")
            deleting = pool.submit(server.client.delete, "/models/gone")
            server.wait_for_queue(3, "gone")
        assert deleting.result().status_code == 204
        stream.end()
        learned, *refused = stream.rest()
        assert learned["step"] == 1  # it came before
        assert refusals(refused) == dict.fromkeys(range(2, 6), "unknown_model")


def learn_until_it_ends(stream: Stream, models: int) -> int:
    """Send samples until the server stops, and return how many were sent."""
    sent = 0
    try:
        while True:
            stream.send(*[sample(i, model=f"m{i % models}") for i in range(sent, sent + models)])
            sent += models
    except OSError:  # it has hung up
        return sent


@pytest.mark.parametrize("models", [1, 100])
def test_stopping_ends_a_stream(serve: Callable[..., Server], models: int) -> None:
    server = serve(max_models=101)
    many(server, 0, models)
    served = [server.registry.get(f"m{i}").model for i in range(models)]
    with ThreadPoolExecutor() as pool, streaming(server) as stream:
        sending = pool.submit(learn_until_it_ends, stream, models)
        answers = [stream.read() for _ in range(20 * models)]
        server.ask_to_stop()
        answers += stream.rest()
        stream.close()
        sending.result()
    server.join()
    # Lines of a model are learned in order, up to the first that is refused.
    for k, model in enumerate(served):
        steps = [answer.get("step", 0) for answer in answers[k::models]]
        assert steps[: model.step] == list(range(1, model.step + 1))
        assert not any(steps[model.step :])
    refused = refusals(answers)
    assert set(refused.values()) == {"shutting_down"}
    assert len(refused) == len(answers) - sum(model.step for model in served)
    assert list(refused) == sorted(refused)
    assert max(refused) == len(answers)


def test_stopping_ends_a_stream_that_waits(serve: Callable[..., Server]) -> None:
    server = serve(queue_size=3)
    with streaming(server) as stream:
        with server.held():
            stream.send(*[sample(i) for i in range(8)])
            server.wait_for_queue(3)
            server.ask_to_stop()
            wait_for(lambda: not server.listens())
        answers = stream.rest()
    assert [answer["step"] for answer in answers[:2]] == [1, 2]
    assert refusals(answers[2:]) == dict.fromkeys(range(3, 10), "shutting_down")
