"""Models whose events are damaged: a node serves its other models, and says which ones it cannot serve."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from service.storage.postgres_cluster import create
from tests.cluster.takeover import MODELS, SHARDS, follows_all, make_models
from tests.support.cluster import Node, nodes
from tests.support.postgres import PostgresServer
from tests.support.server_process import wait_until

X: dict[str, Any] = {"x": {"a": 1}}


def damage(postgres: PostgresServer, schema: str, model: str, which: str) -> None:
    """Change the body of the first or the last event of a model."""
    last = f"SELECT {which}(seq) FROM event WHERE model = found.model"  # noqa: S608
    postgres.execute(
        f"UPDATE event SET body = body || ' ' FROM model AS found WHERE found.name = '{model}' "  # noqa: S608
        f"AND event.model = found.model AND event.seq = ({last})",
        schema,
    )


def failed(node: Node, model: str) -> bool:
    """Return whether a node refuses a prediction since it cannot restore the model, and answers others."""
    answer = node.client.post(f"/models/{model}/predict", json=X)
    return answer.status_code == 503 and answer.json()["error"]["code"] == "model_failed"


def told(node: Node) -> list[str]:
    """Return the models that a node says it cannot serve."""
    [own] = [each for each in node.client.get("/cluster").json()["nodes"] if each["node"] == node.name]
    found: list[str] = own["failed"]
    return found


def test_a_damaged_model_stops_no_other_one(postgres: PostgresServer, tmp_path: Path) -> None:
    schema = postgres.schema()
    url = postgres.url(schema)
    create(url, SHARDS)
    with nodes(tmp_path, url, BNP_MAX_STALENESS="2", BNP_TAKEOVER_AFTER="60") as start:
        owner = start("a", "owner")
        make_models(owner)
        for model in MODELS:
            owner.learn(0, 3, model)
        damage(postgres, schema, "m0", "max")
        damage(postgres, schema, "m1", "min")
        standby = start("b", "standby")
        assert failed(standby, "m0")
        assert failed(standby, "m1")
        wait_until(lambda: told(standby) == ["m0", "m1"])
        ready = standby.client.get("/health/ready").json()
        assert ready["detail"] == "2 models cannot be served by this node: see GET /cluster"
        said = "".join(standby.running.lines)
        assert "model 'm0' cannot be restored" in said
        assert "bnp-online repair --skip" in said

        os.kill(standby.running.process.pid, signal.SIGSTOP)
        owner.learn(3, 6, "m2")
        damage(postgres, schema, "m2", "max")
        os.kill(standby.running.process.pid, signal.SIGCONT)
        wait_until(lambda: failed(standby, "m2"))
        wait_until(lambda: told(standby) == ["m0", "m1", "m2"])
        owner.learn(3, 6, "m3")
        wait_until(lambda: standby.fingerprint("m3") == owner.fingerprint("m3"))
        assert standby.client.get("/health/replica").status_code == 200  # it stays in the rotation

        owner.kill()
        wait_until(lambda: len(standby.owned()) == SHARDS)
        for model in ("default", "m3"):
            standby.learn(10, 12, model)
        for model in ("m0", "m1", "m2"):
            assert failed(standby, model)
        assert not follows_all(standby)
