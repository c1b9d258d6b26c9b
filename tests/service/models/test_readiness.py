"""Readiness checks: callers without a key share one, and a disk that hangs stops nothing else."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.models import readiness
from service.storage.sqlite import SqliteLog
from tests.support.running import Server, error


def test_callers_share_one_check_per_second(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[float] = []
    monkeypatch.setattr(SqliteLog, "probe", lambda log: probes.append(time.monotonic()))
    server = serve()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.client.get("/health/ready").status_code, range(200)))
    assert set(answers) == {200}
    between = [later - earlier for earlier, later in itertools.pairwise(probes)]
    assert all(seconds > 0.9 * readiness.INTERVAL for seconds in between)


def test_a_check_that_hangs_answers_503_and_blocks_no_other_request(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "INTERVAL", 0.0)
    release, probes = threading.Event(), list[int]()

    def hang(log: SqliteLog) -> None:
        probes.append(1)
        release.wait(60)

    monkeypatch.setattr(SqliteLog, "probe", hang)
    server = serve(ready_timeout=0.2)
    try:
        with ThreadPoolExecutor(50) as pool:
            for _ in range(2):
                asked = [pool.submit(httpx.get, f"{server.url}/health/ready", timeout=30) for _ in range(50)]
                for i in range(5):  # an id is looked up in a thread
                    server.learn({"a": i}, "cat", id=f"{len(probes)}-{time.monotonic()}-{i}")
                assert {error(each.result())[:2] for each in asked} == {(503, "not_ready")}
        assert len(probes) == 1
        server.create(name="new")
    finally:
        release.set()
    assert server.client.get("/health/ready").status_code == 200
