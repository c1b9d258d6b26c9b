"""Clients that go on while their server is killed and started again: each sample is learned once."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bnp_online.client import Client
from tests.support.server_process import logged, replayed, restartable, wait_until

SAMPLES = 3000


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def stream(at: list[int]) -> Iterator[tuple[dict[str, float], int]]:
    for i in range(SAMPLES):
        at[0] = i
        yield {"n": float(i)}, i % 3


def test_a_client_outlives_its_server(tmp_path: Path) -> None:
    """The server is killed while a stream comes in, and while single samples do; once it is asked to end."""
    at, singles = [0], [0]
    with restartable(tmp_path / "data", BNP_PORT=free_port(), BNP_CHECKPOINT_EVERY="500") as server:
        url = str(server.start().base_url)

        def learn_singles() -> None:
            with Client(url, patience=120.0) as client:
                for i in range(400):
                    client.learn_one({"n": float(SAMPLES + i)}, i % 3)
                    singles[0] = i

        single = threading.Thread(target=learn_singles)
        single.start()
        summaries = []

        def learn_stream() -> None:
            with Client(url, patience=120.0) as client:
                summaries.append(client.learn_many(stream(at), size=200))

        streaming = threading.Thread(target=learn_stream)
        streaming.start()
        wait_until(lambda: at[0] >= 600 and singles[0] >= 20)
        server.kill()
        server.start()
        wait_until(lambda: at[0] >= 1200 and singles[0] >= 60, 120)
        server.terminate()
        server.start()
        wait_until(lambda: at[0] >= 1800 or not streaming.is_alive(), 120)
        server.kill()
        server.start()
        single.join(240)
        streaming.join(240)
        with Client(url) as client:
            assert client.describe().step == SAMPLES + 400
            assert client.fingerprint().model_sha256 == replayed(server.folder)
        assert summaries[0].learned == SAMPLES
        assert summaries[0].refused == 0
        learned = Counter(body["x"]["n"] for kind, _, body, _ in logged(server.folder) if kind == "learn")
    assert learned == Counter(map(float, range(SAMPLES + 400)))
