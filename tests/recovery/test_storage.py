"""Stores without room, and stores that are slow."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.models.readiness import INTERVAL
from tests.support.server_process import replayed, restartable, wait_until


def learn(client: httpx.Client, i: int) -> httpx.Response:
    return client.post("/learn", json={"x": {"a": float(i), "b": 1.0}, "y": i % 2, "id": f"e{i}"})


def test_without_room_it_predicts_and_with_room_it_learns_again(tmp_path: Path) -> None:
    with restartable(tmp_path / "data", BNP_CHECKPOINT_EVERY="5") as server:
        client = server.start()
        for i in range(12):
            learn(client, i).raise_for_status()
        before = client.get("/models/default/fingerprint").json()
        server.limit_files(1)
        for i in range(12, 40):
            answer = learn(client, i)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_full")
            assert answer.headers["retry-after"]
        for method, path, body in (
            ("POST", "/predict", {"x": {"a": 1.0}, "id": "t"}),
            ("POST", "/models", {"name": "other"}),
            ("PATCH", "/models/default", {"max_features": 9}),
            ("POST", "/models/default/checkpoints", None),
            ("POST", "/models/default/rollback", {"step": 3}),
            ("POST", "/models/default/forget", {"ids": ["e3"]}),
            ("DELETE", "/models/default", None),
        ):
            answer = client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_full"), path
        lines = client.post(
            "/learn",
            content=b'{"x": {"a": 1}, "y": 1}\n' * 3,
            headers={"content-type": "application/x-ndjson"},
        ).text.splitlines()
        assert [line.count("storage_full") for line in lines] == [1, 1, 1]
        assert client.post("/predict", json={"x": {"a": 1.0}}).json()["step"] == 12
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        assert client.get("/models/default/fingerprint").json() == before
        server.limit_files(None)
        for i in range(12, 40):
            learn(client, i).raise_for_status()
        time.sleep(INTERVAL)  # the answer of the latest check holds as long
        assert client.get("/health/ready").status_code == 200
        after = client.get("/models/default/fingerprint").json()
        assert (after["step"], after["model_sha256"]) == (40, replayed(server.folder))
        refused = "the event log cannot be written, so no model learns"
        wait_until(lambda: any(refused in line for line in server.running.lines))
        server.kill()
        assert server.start().get("/models/default/fingerprint").json() == after
        assert not any(refused in line for line in server.running.lines)


def test_a_slow_store_is_felt_by_those_who_send_and_not_in_memory(tmp_path: Path) -> None:
    slow = """
import time
from service.storage.sqlite import SqliteLog
append = SqliteLog.append
def slowly(log, groups):
    time.sleep(0.3)
    return append(log, groups)
SqliteLog.append = slowly
"""
    with restartable(tmp_path / "data", slow, BNP_QUEUE_SIZE="16", BNP_GROUP_SIZE="4") as server:
        client = server.start()
        client.post("/models", json={"name": "other", "hidden": [3]}).raise_for_status()
        learn(client, 0).raise_for_status()
        before = server.running.memory()
        url = str(client.base_url)

        def send(i: int) -> int:
            with httpx.Client(base_url=url, timeout=60.0) as own:
                return learn(own, i).status_code

        with ThreadPoolExecutor(64) as pool:
            sending = [pool.submit(send, i) for i in range(1, 300)]
            answered = [client.post("/predict", json={"x": {"a": 1.0}}).status_code for _ in range(50)]
        codes = [future.result() for future in sending]
        assert set(codes) == {200, 429}
        assert set(answered) == {200}  # predictions do not wait for the store
        assert client.get("/models/default").json()["step"] == 1 + codes.count(200)
        assert server.running.memory() - before < 30 * 2**20


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian's package)")
@pytest.mark.parametrize("durability", ["full", "relaxed"])
def test_the_disk_has_it_before_the_client_hears_of_it(tmp_path: Path, durability: str) -> None:
    """Between each request and its answer the log's file is flushed; with relaxed durability it is not."""
    trace = tmp_path / "trace"
    with restartable(tmp_path / "data", BNP_DURABILITY=durability) as server:
        client = server.start()
        learn(client, 0).raise_for_status()
        calls = "trace=fsync,fdatasync,recvfrom,read,sendto,sendmsg,write,writev"
        tracing = ["strace", "-f", "-y", "-s", "200", "-e", calls, "-o", str(trace), "-p"]
        command = [*tracing, str(server.running.process.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            tracer.stderr.readline()  # attached
            for i in range(1, 6):
                learn(client, i).raise_for_status()
            tracer.terminate()
    story = []
    for line in trace.read_text().splitlines():
        if "POST /learn" in line:
            story.append("asked")
        elif re.search(r"f(data)?sync\(\d+<[^>]*events\.sqlite3-wal>", line):
            story.append("flushed")
        elif "HTTP/1.1 200" in line:
            story.append("answered")
    told = [event for i, event in enumerate(story) if i == 0 or story[i - 1] != event]
    once = ["asked", "flushed", "answered"] if durability == "full" else ["asked", "answered"]
    assert told == once * 5
