"""Metrics of a server, parsed as Prometheus parses them."""

from __future__ import annotations

from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from tests.support.running import Server

#: Metrics that only a node of a cluster has.
OF_CLUSTER = {"bnp_cluster_up", "bnp_cluster_shards", "bnp_cluster_staleness_seconds"}

Labels: TypeAlias = frozenset[tuple[str, str]]


def text_of(server: Server) -> str:
    answer = server.client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return answer.text


def samples(text: str) -> dict[tuple[str, Labels], float]:
    """Return the value of each series by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(server: Server, name: str, **labels: str) -> float | None:
    """Return the value of one series, None if there is no such series."""
    return samples(text_of(server)).get((name, frozenset(labels.items())))


def names(text: str) -> set[str]:
    """Return the names of all series."""
    return {name for name, _ in samples(text) if not name.endswith("_created")}


def busy(server: Server) -> str:
    """Fill every metric, and return the exposition."""
    for i in range(30):
        server.learn({"a": i, "b": i % 3}, ["cat", "dog"][i % 2])
    server.create(name="prices", task="regression")
    for i in range(3):
        server.learn({"a": i}, i, model="prices")
    server.predict({"a": 1}, id="t")
    server.client.post("/models/default/checkpoints").raise_for_status()
    text_of(server)  # is counted itself
    return text_of(server)
