"""Cluster: its description, the health checks of proxies, and errors that name another node."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from service import schemas
from service.errors import WrongNodeError
from service.http.responses import envelope
from service.models.cluster import SingleNode
from service.settings import Settings
from tests.support.running import Server, error


class OneOfTwo(SingleNode):
    """Cluster of two shards, of which this process owns the first."""

    shards = 2
    lags = False

    def owns(self, shard: int) -> bool:
        return shard == 0

    def stale(self) -> bool:
        return self.lags


@pytest.fixture
def cluster(server: Server) -> Iterator[OneOfTwo]:
    before, server.app.state.cluster = server.app.state.cluster, OneOfTwo(Settings())
    yield server.app.state.cluster
    server.app.state.cluster = before


def test_a_server_without_a_cluster_is_the_only_node(server: Server) -> None:
    found = schemas.ClusterDescription.model_validate_json(server.client.get("/cluster").content)
    assert (found.role, found.shards) == ("owner", [])
    [node] = found.nodes
    assert (node.node, node.address, node.owned, node.staleness_ms) == (found.node, None, [], None)
    assert found.node.startswith(socket.gethostname())


@pytest.mark.parametrize("path", ["/health/owner/0", "/health/owner/63", "/health/replica"])
def test_a_server_without_a_cluster_serves_every_shard(server: Server, path: str) -> None:
    assert server.client.get(path).status_code == 200
    assert server.client.head(path).status_code == 200


def test_health_of_shards(server: Server, cluster: OneOfTwo) -> None:
    assert server.get("/health/owner/0") == {"status": "owner"}
    assert error(server.client.get("/health/owner/1"))[:2] == (503, "not_owner")
    assert error(server.client.get("/health/owner/-1"))[:2] == (422, "invalid_request")
    assert server.get("/health/replica") == {"status": "replica"}
    cluster.lags = True
    assert error(server.client.get("/health/replica"))[:2] == (503, "too_stale")


@pytest.mark.parametrize(
    ("path", "status"), [("/health/replica", 200), ("/health/owner/0", 200), ("/cluster", 403)]
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_only_a_health_check_may_omit_the_host(server: Server, path: str, status: int, version: str) -> None:
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(f"GET {path} HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("address", ["http://b:8000", None])
def test_an_error_names_the_owner(address: str | None) -> None:
    status, body, headers = envelope(WrongNodeError("prices", "b", address))
    assert (status, body["error"]["code"], body["error"]["field"]) == (421, "wrong_node", "model")
    assert headers == ({} if address is None else {"BNP-Owner": address})
    assert (address or "BNP_ADDRESS") in str(body["error"]["message"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [("auto", "auto"), ("0-3", (0, 1, 2, 3)), ("0,3,5", (0, 3, 5)), ("5-6 1", (1, 5, 6))],
)
def test_shards_are_numbers_and_ranges(monkeypatch: pytest.MonkeyPatch, given: str, expected: Any) -> None:
    monkeypatch.setenv("BNP_SHARDS", given)
    assert Settings().shards == expected
