"""Learning from topics, with real brokers and a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from service.cli.doctor import _topic
from service.ingest.ingest import Ingest
from service.settings import Settings
from service.source_urls import SourceUrl, parse_all
from tests.support.brokers import Kafka, Nats, broker
from tests.support.running import Server, error, serving
from tests.support.server_process import logged, wait_until

Broker = Kafka | Nats
SPEC = {"name": "m", "hidden": [4], "replay": 0}


@pytest.fixture(params=["kafka", "nats"])
def there(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with broker(request.param) as running:
        running.create("samples")
        yield running


def samples(first: int, last: int) -> list[bytes]:
    return [json.dumps({"x": {"a": i % 7, "n": i}, "y": i % 2}).encode() for i in range(first, last)]


def server(folder: Path, *urls: str, **settings: Any) -> Any:
    return serving(
        folder, ingest=parse_all(urls), default_model=json.dumps({**SPEC, "name": "default"}), **settings
    )


def state(server: Server, model: str = "default") -> dict[str, Any]:
    [found] = server.get(f"/models/{model}")["ingest"]
    return dict(found)


def wait_for(server: Server, step: int, model: str = "default") -> None:
    wait_until(lambda: server.get(f"/models/{model}")["step"] >= step)


def numbers(folder: Path, model: str = "default") -> list[int]:
    """Return the numbers of the samples that a model learned, in order."""
    return [
        body["x"]["n"] for kind, _, body, refused in logged(folder, model) if kind == "learn" and not refused
    ]


def metric(server: Server, name: str) -> float:
    lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_each_message_is_learned_once_and_a_restart_goes_on(there: Broker, tmp_path: Path) -> None:
    there.publish("samples", samples(0, 300))
    url = there.url("samples", model="default")
    with server(tmp_path, url) as one:
        wait_for(one, 300)
        there.publish("samples", samples(300, 350))
        for i in range(20):  # others may learn meanwhile
            one.learn({"a": 1.0, "n": 1000 + i}, 1)
        wait_for(one, 370)
        wait_until(lambda: state(one)["learned"] == 350 and state(one)["lag"] == 0)
        shown = state(one)
        assert shown["topic"] == f"{there.kind}:samples"
        assert (shown["partition"], shown["refused"], shown["state"], shown["reason"]) == (
            0,
            0,
            "running",
            None,
        )
        assert shown["position"] == 350 + (there.kind == "nats")
        assert metric(one, "bnp_ingest_messages_total") == 350
        assert metric(one, "bnp_ingest_position") == shown["position"]
        assert (metric(one, "bnp_ingest_up"), metric(one, "bnp_ingest_lag")) == (1, 0)
        assert one.get("/health/ready") == {"status": "ready"}
        fingerprint = one.fingerprint()
    there.publish("samples", samples(350, 360))
    with server(tmp_path) as one:  # without the topic
        assert one.fingerprint() == fingerprint
        assert one.get("/models/default")["ingest"] == []
    with server(tmp_path, url) as one:
        wait_for(one, 380)
    learned = numbers(tmp_path)
    assert [n for n in learned if n < 1000] == list(range(360))
    assert len(learned) == 380


def test_bad_messages_are_refused_and_do_not_stop_the_partition(there: Broker, tmp_path: Path) -> None:
    there.create("dead") if isinstance(there, Kafka) else there.create("dead", subjects=["dead"])
    good = samples(0, 80)
    bad = [
        (b"{", "invalid_json"),
        (b'{"x": {"a": 1}}', "missing_field"),
        (b'{"x": {"a": 1}, "y": 1, "model": "other"}', "invalid_request"),
        (b'{"x": {"a": "' + b"s" * 2000 + b'"}, "y": 1}', "string_too_long"),
        (b'{"x": {"a": 1e999}, "y": 1}', "non_finite_feature"),
        (b'{"x": {"a": 1}, "y": "a label of another type"}', "label_type"),
        (b"null", "invalid_type"),
        (b'[{"x": {"a": 1}, "y": 1}]', "invalid_type"),
    ]
    for i, (message, _) in enumerate(bad):
        there.publish("samples", [*good[i * 10 : i * 10 + 10], message])
    for folder, url in (("a", there.url("samples", dead="dead")), ("b", there.url("samples"))):
        with server(tmp_path / folder, url) as one:
            wait_for(one, 80)
            wait_until(lambda one=one: state(one)["refused"] == len(bad))
            assert state(one)["state"] == "running"
            text = one.client.get("/metrics").text
            for _, code in bad:
                assert f'code="{code}"' in text
            assert metric(one, "bnp_ingest_refused_total") == len(bad)
        assert numbers(tmp_path / folder) == list(range(80))
    dead = there.contents("dead")
    assert sorted(value for value, _ in dead) == sorted(message for message, _ in bad)
    codes = dict(bad)
    first = 0 if isinstance(there, Kafka) else 1
    for value, headers in dead:
        assert headers["bnp-error"] == codes[value]
        assert headers["bnp-model"] == "default"
        assert int(headers["bnp-position"]) == first + 10 + 11 * [m for m, _ in bad].index(value)
        assert headers["bnp-message"]


def test_a_gap_stops_the_partition_until_a_request_resumes_it(there: Broker, tmp_path: Path) -> None:
    url = there.url("samples")
    there.publish("samples", samples(0, 10))
    with server(tmp_path, url) as one:
        wait_for(one, 10)
    first = there.trim("samples")
    there.publish("samples", samples(10, 20))
    with server(tmp_path, url) as one:
        wait_until(lambda: state(one)["state"] == "log_gap")
        shown = state(one)
        assert shown["position"] < first
        assert shown["lag"] >= 10
        assert f"before {first} were removed" in shown["reason"]
        assert "POST /models/default/ingest" in shown["reason"]
        assert "1 partitions of topics stopped" in one.get("/health/ready")["detail"]
        assert metric(one, "bnp_ingest_up") == 0
        assert one.learn({"a": 1.0, "n": -1}, 0)["step"] == 11, "the model learns from requests"
        for body, expected in (
            ({"topic": "kafka:other", "position": first}, (404, "unknown_source", "topic")),
            (
                {"topic": shown["topic"], "partition": 7, "position": first},
                (404, "unknown_source", "partition"),
            ),
            ({"topic": shown["topic"], "position": -1}, (422, "invalid_spec", "position")),
        ):
            assert error(one.post("/models/default/ingest", **body)) == expected
        assert error(one.post("/models/none/ingest", topic="t", position=1))[:2] == (404, "unknown_model")
        answer = one.post("/models/default/ingest", topic=shown["topic"], partition=0, position=first)
        assert answer.status_code == 200, answer.text
        [moved] = answer.json()["ingest"]
        assert (moved["position"], moved["lag"]) == (first, shown["lag"] + shown["position"] - first)
        wait_for(one, 21)
        assert state(one)["state"] == "running"
    assert numbers(tmp_path) == [*range(10), -1, *range(10, 20)]


def test_a_broker_that_is_gone_for_a_while(there: Broker, tmp_path: Path) -> None:
    there.publish("samples", samples(0, 10))
    with server(tmp_path, there.url("samples")) as one:
        wait_for(one, 10)
        there.down()
        wait_until(lambda: state(one)["state"] == "waiting")
        assert state(one)["reason"]
        assert metric(one, "bnp_ingest_up") == 0
        assert one.get("/health/ready") == {"status": "ready"}
        there.up()
        there.publish("samples", samples(10, 20))
        wait_for(one, 20)
        wait_until(lambda: state(one)["state"] == "running")
    there.down()
    with server(tmp_path, there.url("samples")) as one:  # it starts without the broker
        assert one.learn({"a": 1.0, "n": -1}, 0)["step"] == 21
        wait_until(lambda: "not started" not in state(one)["reason"])
        there.up()
        there.publish("samples", samples(20, 30))
        wait_for(one, 31)
    assert numbers(tmp_path) == [*range(20), -1, *range(20, 30)]


def test_two_consumers_of_a_partition_learn_each_message_once(there: Broker, tmp_path: Path) -> None:
    url = there.url("samples")
    with server(tmp_path, url) as one:

        async def start() -> Ingest:
            other = Ingest(Settings(ingest=parse_all([url])), one.registry, one.app.state.bodies)
            other.start("default")
            return other

        other = one.on_loop(start())
        for first in range(0, 2000, 200):
            there.publish("samples", samples(first, first + 200))
        wait_for(one, 2000)
        learned = [one.app.state.ingest.report("default")[0], other.report("default")[0]]
        wait_until(
            lambda: all(each.report("default")[0]["lag"] == 0 for each in (one.app.state.ingest, other))
        )
        one.on_loop(other.close())
        assert learned
    assert numbers(tmp_path) == list(range(2000))


def test_where_a_model_without_a_position_begins(there: Broker, tmp_path: Path) -> None:
    there.publish("samples", samples(0, 10))
    url = there.url("samples", **{"from": "latest"})
    with server(tmp_path, url) as one:
        wait_until(lambda: state(one)["state"] == "running")
    there.publish("samples", samples(10, 20))  # the position is stored, although there was no message
    with server(tmp_path, url) as one:
        wait_for(one, 10)
    assert numbers(tmp_path) == list(range(10, 20))


def test_a_model_that_is_created_later_and_created_again(there: Broker, tmp_path: Path) -> None:
    there.publish("samples", samples(0, 10))
    with server(tmp_path, there.url("samples", model="m")) as one:
        wait_until(lambda: "no model 'm'" in one.app.state.ingest.report("m")[0]["reason"])
        for _ in range(2):
            one.create(**SPEC)
            wait_for(one, 10, "m")
            assert one.client.delete("/models/m").status_code == 204
        one.create(**SPEC)
        wait_for(one, 10, "m")
        assert one.post("/models/m/rollback", step=5).status_code == 200
        there.publish("samples", samples(10, 12))
        wait_for(one, 7, "m")
        wait_until(lambda: state(one, "m")["learned"] == 32)  # a rollback does not change the position
    assert numbers(tmp_path, "m")[-2:] == [10, 11]


def test_positions_of_a_consumer_group_and_tombstones(tmp_path: Path) -> None:
    with broker("kafka") as kafka:
        assert isinstance(kafka, Kafka)
        kafka.create("samples", 3)
        for partition in range(3):
            kafka.publish("samples", [*samples(partition * 100, partition * 100 + 20), None], partition)
        with server(tmp_path, kafka.url("samples", group="bnp")) as one:
            wait_for(one, 60)
            wait_until(lambda: _committed(kafka, "bnp", 3) == [21, 21, 21])
            parts = one.get("/models/default")["ingest"]
            assert [(each["partition"], each["position"], each["learned"]) for each in parts] == [
                (n, 21, 20) for n in range(3)
            ]
            assert sum(each["refused"] for each in parts) == 0
    for first in (0, 100, 200):
        assert [n for n in numbers(tmp_path) if first <= n < first + 100] == list(range(first, first + 20))


def _committed(kafka: Kafka, group: str, partitions: int) -> Sequence[int]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": kafka.bootstraps, "group.id": group})
    found = consumer.committed([TopicPartition("samples", n) for n in range(partitions)], timeout=10)
    consumer.close()
    return [each.offset for each in found]


def test_a_subject_of_a_stream_and_messages_that_others_replace(tmp_path: Path) -> None:
    with broker("nats") as nats:
        assert isinstance(nats, Nats)
        nats.create("samples", max_msgs_per_subject=5)
        nats.publish("samples", samples(0, 5), "learn")
        nats.publish("samples", [b"no sample"] * 20, "other")
        with server(tmp_path, nats.url("samples.learn")) as one:
            wait_for(one, 5)
            wait_until(lambda: state(one)["position"] == 26)
        nats.publish(
            "samples", samples(5, 15), "learn"
        )  # the first five of these are gone, by the limit per subject
        with server(tmp_path, nats.url("samples.learn")) as one:
            wait_for(one, 10)
            assert state(one)["state"] == "running"
            assert state(one)["refused"] == 0
    assert numbers(tmp_path) == [*range(5), *range(10, 15)]


def test_the_doctor_looks_for_the_topic(there: Broker) -> None:
    problems: list[str] = []
    assert _topic(SourceUrl.parse(there.url("samples")), problems) == "1 partition"
    assert problems == []
    there.down()
    assert _topic(SourceUrl.parse(there.url("samples")), problems) == "not available"
    there.up()
    assert "BNP_INGEST" in problems[0]
    if isinstance(there, Nats):  # the mock cluster of Kafka creates any topic
        assert _topic(SourceUrl.parse(there.url("none.such")), problems) == "not available"
        assert "no stream" in problems[1]
