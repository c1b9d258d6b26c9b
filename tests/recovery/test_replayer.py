"""The independent replay continues from an earlier one only if the state still includes the same samples."""

from __future__ import annotations

from pathlib import Path

from tests.support.replay import Replayer, read_log
from tests.support.server_process import restartable, wait_until


def test_a_sample_forgotten_before_its_row_would_be_pruned(tmp_path: Path) -> None:
    settings = {"BNP_RETAIN_EVENTS": "4", "BNP_KEEP_CHECKPOINTS": "1", "BNP_CHECKPOINT_EVERY": "1000"}
    with restartable(tmp_path / "data", **settings) as server:
        client, replayer = server.start(), Replayer(server.folder)
        for i in range(8):
            sample = {"x": {"a": float(i % 3)}, "y": "cat" if i % 2 else "dog", "id": str(i)}
            client.post("/learn", json=sample).raise_for_status()
        replica, _ = replayer.run(read_log(server.folder), "default")
        assert replica.estimator.step == 8
        client.post("/models/default/forget", json={"ids": ["0", "1"]}).raise_for_status()
        wait_until(lambda: client.get("/models/default").json()["state"] == "ready")
        client.post("/learn", json={"x": {"a": 1.0}, "y": "cat"}).raise_for_status()
        client.post("/models/default/checkpoints").raise_for_status()
        log = read_log(server.folder)
        samples = [row.id for row in log.rows["default"] if row.kind == "learn"]
        assert samples == ["5", "6", "7", None]
        assert log.pruned
        replica, differences = replayer.run(log, "default")
        assert replica.fingerprint() == client.get("/models/default/fingerprint").json()
        assert replica.estimator.step == 7
        assert not differences
