"""Many clients at once: predictions are of whole steps, and the order of learning is one order."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from river import datasets

from bnp_online import BNPClassifier
from tests.support.running import Json, Server, error, head

SAMPLES: list[tuple[Any, Any]] = list(datasets.ImageSegments())[:120]
PROBE = SAMPLES[60][0]


def test_predictions_while_learning_are_of_whole_steps(serve: Callable[..., Server]) -> None:
    server = serve()
    done = threading.Event()

    def ask() -> list[Json]:
        answers = []
        with httpx.Client(base_url=server.url, timeout=60.0) as client:
            while not done.is_set():
                answers.append(client.post("/predict", json={"x": PROBE}).json())
        return answers

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for x, y in SAMPLES:
            server.learn(x, y)
        done.set()
        answers = [answer for future in asking for answer in future.result()]

    local = BNPClassifier(device="cpu")
    expected = [local.predict_proba_one(PROBE)]
    for x, y in SAMPLES:
        local.learn_one(x, y)
        expected.append(local.predict_proba_one(PROBE))
    assert len({answer["step"] for answer in answers}) > 3
    for answer in answers:
        assert answer["probabilities"] == expected[answer["step"]]
    assert server.fingerprint()["model_sha256"] == local.fingerprint()


def test_many_learners_make_one_order(serve: Callable[..., Server]) -> None:
    server = serve(group_size=7)

    def send(part: list[tuple[Any, Any]]) -> list[tuple[int, Any, Any, Json]]:
        with httpx.Client(base_url=server.url, timeout=60.0) as client:
            answers = [client.post("/learn", json={"x": x, "y": y}).json() for x, y in part]
        return [(answer["step"], x, y, answer) for answer, (x, y) in zip(answers, part, strict=True)]

    with ThreadPoolExecutor() as pool:
        learned = [row for rows in pool.map(send, [SAMPLES[i::8] for i in range(8)]) for row in rows]

    local = BNPClassifier(device="cpu")
    for step, x, y, answer in sorted(learned, key=lambda row: row[0]):
        assert answer["prediction"] == local.predict_one(x)
        local.learn_one(x, y)
        assert step == local.step
    assert local.step == len(SAMPLES)
    assert server.fingerprint()["model_sha256"] == local.fingerprint()


def test_a_group_is_answered_in_order_with_its_refusals(serve: Callable[..., Server]) -> None:
    server = serve()
    server.predict({"a": 5}, id="t")
    bodies: list[tuple[str, Json]] = [
        ("/learn", {"x": {"a": 1}, "y": "cat", "id": "e"}),
        ("/learn", {"x": {"a": 1}, "y": "cat", "id": "e"}),
        ("/learn", {"x": {"a": 2}, "y": "cat", "id": "e"}),
        ("/learn", {"x": {"a": 1}, "y": 1}),
        ("/learn", {"x": {"a": [1]}, "y": "cat"}),
        ("/label", {"id": "t", "y": "dog"}),
        ("/label", {"id": "t", "y": "dog"}),
        ("/learn", {"x": {"a": 3}, "y": "cow"}),
    ]
    with ThreadPoolExecutor(len(bodies)) as pool, server.held():
        waiting = []
        for i, (path, body) in enumerate(bodies):
            waiting.append(pool.submit(server.client.post, path, json=body))
            server.wait_for_queue(i + 2)
    answers = [future.result() for future in waiting]
    assert [answer.json()["step"] for answer in answers if answer.status_code == 200] == [1, 1, 2, 3]
    assert answers[1].json()["duplicate"]
    refused = [error(answer)[1] for answer in answers if answer.status_code != 200]
    assert refused == ["id_conflict", "label_type", "invalid_feature", "already_labelled"]
    assert server.fingerprint()["step"] == 3
    assert server.get("/models/default")["sequence"] == 5  # made, predicted, learned three times


def test_a_full_queue_refuses(serve: Callable[..., Server]) -> None:
    server = serve(queue_size=3)
    server.create(name="other")
    with ThreadPoolExecutor() as pool, server.held():
        learning = [pool.submit(server.learn, {"a": i}, "cat") for i in range(3)]
        server.wait_for_queue(4)
        refused = server.post("/learn", x={"a": 9}, y="cat")
        assert error(refused) == (429, "queue_full", None)
        assert int(refused.headers["retry-after"]) >= 1
        predicting = [pool.submit(server.predict, {"a": i}) for i in range(2)]  # a queue of their own
        server.wait_for_queue(6)
        assert error(server.post("/predict", x={"a": 9}))[:2] == (429, "queue_full")
        server.learn({"a": 1}, 1, model="other")  # a model that is held up does not hold up another
    assert sorted(future.result()["step"] for future in learning) == [1, 2, 3]
    assert [future.result()["model"] for future in predicting] == ["default", "default"]
    assert server.fingerprint()["step"] == 3


def test_a_client_that_gives_up_does_no_harm(serve: Callable[..., Server]) -> None:
    server = serve()
    body = b'{"x": {"a": 1}, "y": 1}'
    with server.held(), socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(head("/learn", len(body)) + body)
        server.wait_for_queue(2)
        connection.close()
    assert server.learn({"a": 1}, 1)["step"] == 2  # it was taken, so it was learned
