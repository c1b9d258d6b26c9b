"""Memory and disk of a server process whose clients send as much as they may."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.support.server_process import RestartableServer, restartable, wait_until

NDJSON = {"content-type": "application/x-ndjson"}
_MIB = 2**20


def memory(server: RestartableServer) -> int:
    """Return the resident memory of the process, in bytes."""
    status = Path(f"/proc/{server.running.process.pid}/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def used(folder: Path) -> int:
    """Return the size of all files of a data folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def predict(client: httpx.Client, number: int) -> None:
    """Predict a sample of 0.9 MB, and keep the prediction for its label."""
    x = {f"{j:04d}{'n' * 200}": 0.5 * j for j in range(4096)}
    answer = client.post("/predict", json={"x": x, "id": f"p{number}"})
    assert answer.status_code == 200, answer.text


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_pending_predictions_take_about_their_bytes_of_memory(tmp_path: Path) -> None:
    """Also at a start, which replays them, and for the list of events."""
    with restartable(tmp_path / "data", BNP_MAX_PENDING_BYTES=str(8 * _MIB)) as server:
        client = server.start()
        empty = memory(server)
        for number in range(150):
            predict(client, number)
        assert client.get("/models/default").json()["pending"] == 9
        assert memory(server) - empty < 100 * _MIB
        server.kill()
        client = server.start()
        assert client.get("/models/default").json()["pending"] == 9
        assert len(client.get("/models/default/events?limit=1000").json()["events"]) == 151
        assert memory(server) - empty < 100 * _MIB


def test_predictions_are_pruned_with_checkpoints(tmp_path: Path) -> None:
    settings = {
        "BNP_CHECKPOINT_EVERY": "200",
        "BNP_KEEP_CHECKPOINTS": "2",
        "BNP_MAX_PENDING_BYTES": "100000",
        "BNP_RETAIN_BYTES": "100000",
    }
    x = {f"f{i}": i * 0.5 for i in range(40)}
    with restartable(tmp_path / "data", **settings) as server:
        client = server.start()
        for start in range(0, 8000, 100):
            lines = [json.dumps({"x": x, "id": f"p{start + i}"}) for i in range(100)]
            answer = client.post("/predict", content="\n".join(lines), headers=NDJSON)
            assert "error" not in answer.text
            if start % 1000 == 0:
                client.post("/models/default/checkpoints").raise_for_status()
        # The log retains 100 kB before the older checkpoint. Each checkpoint has 100 kB of predictions.
        wait_until(lambda: used(tmp_path / "data") < 2_500_000)
        pending = client.get("/models/default").json()["pending"]
        server.kill()
        client = server.start()
        assert client.get("/models/default").json()["pending"] == pending
        answer = client.post("/label", json={"id": "p7999", "y": "cat"})
        assert answer.json()["step"] == 1
