"""Threads of the server: all start with it, so that the system's limit on threads stops no model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.models.recovery import Recovery
from service.models.threads import Threads
from tests.support.running import Server


def refuse(thread: threading.Thread) -> None:
    """Fail as `threading.Thread.start` at the system's limit."""
    raise RuntimeError("can't start new thread")


def test_a_server_that_can_start_no_thread_serves_new_models(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for i in range(40):
        server.create(name=f"m{i}", hidden=[4])
        assert server.learn({"a": 1}, "cat", model=f"m{i}", id="one")["step"] == 1
        assert server.predict({"a": 1}, model=f"m{i}")["prediction"] == "cat"
    server.client.post("/models/m0/checkpoints").raise_for_status()
    server.client.post("/models/m0/rollback", json={"step": 0}).raise_for_status()
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/health/ready", "/models/m1/checkpoints"):
        server.client.get(path).raise_for_status()
    assert {model["state"] for model in server.get("/models")["models"]} == {"ready"}


def test_used_models_start_no_thread(serve: Callable[..., Server]) -> None:
    server = serve()
    server.learn({"a": 1}, "cat", id="one")
    before = threading.active_count()
    for i in range(20):
        server.create(name=f"m{i}", hidden=[4])
        server.learn({"a": 1}, "cat", model=f"m{i}", id="one")
    assert threading.active_count() == before


def test_a_pool_that_cannot_start_ends_the_threads_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start, left = threading.active_count(), threading.Thread.start, 12

    def start_some(thread: threading.Thread) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            refuse(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with pytest.raises(RuntimeError, match="ulimit -u"):
        Threads()
    assert threading.active_count() == before


def test_replays_that_take_long_block_no_other_model(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, release, names = serve(), threading.Event(), [f"m{i}" for i in range(30)]
    for name in names:
        server.create(name=name, hidden=[4])
        server.learn({"a": 1}, "cat", model=name, id="one")
    run = Recovery.run

    def wait(*arguments: Any) -> Any:
        release.wait(60)
        return run(*arguments)

    monkeypatch.setattr(Recovery, "run", wait)
    with ThreadPoolExecutor(len(names)) as pool:
        try:
            back = [pool.submit(server.post, f"/models/{name}/rollback", step=0) for name in names]
            for i, name in enumerate(("default", *names)):
                assert server.learn({"a": 2}, "dog", model=name, id="two")["step"] == (1 if i == 0 else 2)
                server.predict({"a": 1}, model=name)
            server.create(name="new", hidden=[4])
            server.client.get("/models/default/checkpoints").raise_for_status()
        finally:
            release.set()
        assert {answer.result().status_code for answer in back} == {200}
