"""``python -m tests.cluster.takeover``: kills the owner under load again and again, behind HAProxy.

With ``--record`` the gaps in service are stored in ``docs/benchmarks/takeover.json``, and shown in
``docs/cluster.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common.report import put_between_marks
from service.storage.postgres_cluster import create
from tests.support.cluster import Node, nodes
from tests.support.cluster_checks import check
from tests.support.cluster_load import traffic
from tests.support.haproxy import haproxy
from tests.support.postgres import PostgresServer, running
from tests.support.programs import ROOT
from tests.support.server_process import wait_until

Json = dict[str, Any]

RESULTS = ROOT / "docs" / "benchmarks" / "takeover.json"
PAGE = ROOT / "docs" / "cluster.md"
SHARDS = 4
MODELS = ("default", "m0", "m1", "m2", "m3")


def make_models(node: Node) -> None:
    """Create the models but the default one."""
    for name in MODELS[1:]:
        answer = node.client.post("/models", json={"name": name, "hidden": [4], "replay": 1, "memory": 50})
        assert answer.status_code == 201, answer.text


def follows_all(node: Node) -> bool:
    """Return whether a node predicts all models."""
    sample = {"x": {"a": 1}}
    return all(node.client.post(f"/models/{name}/predict", json=sample).status_code == 200 for name in MODELS)


def measure(folder: Path, postgres: PostgresServer, kills: int, shards: int = SHARDS) -> Json:
    """Kill the owner under load, with a standby that takes over; the killed node becomes the next standby.

    Returns
    -------
    dict
        For each kill the longest time between two acknowledgements of a model, of all models the longest;
        and numbers of samples.
    """
    url = postgres.url(postgres.schema())
    create(url, shards)
    with nodes(folder, url) as start:
        owner = start("a", "owner")
        make_models(owner)
        standby = start("b", "standby")
        ports = {node.name: node.port for node in (owner, standby)}
        with haproxy(folder, shards, ports) as (front, reads):
            gaps = []
            with traffic([front], MODELS, reads=[reads]) as clients:
                for _ in range(kills):
                    wait_until(lambda node=standby: follows_all(node))
                    time.sleep(1.0)
                    killed = time.monotonic()
                    owner.kill()
                    time.sleep(3.0)
                    gaps.append(max(clients.record.gap(killed, name) for name in MODELS))
                    owner.launch(BNP_ROLE="standby")
                    owner.up()
                    owner, standby = standby, owner
            record = clients.stop()
            result = check(url, record, [owner.client, standby.client])
            print(f"owner killed {kills} times: {result}; gaps {[round(gap, 2) for gap in gaps]} s")
            print({f"{status} {code}": count for (status, code), count in record.refusals.items()})
            result.require()
    return {
        "kills": kills,
        "gaps_seconds": [round(gap, 3) for gap in gaps],
        "median_seconds": round(statistics.median(gaps), 3),
        "worst_seconds": round(max(gaps), 3),
        "acknowledged": result.acknowledged,
        "lost": len(result.lost),
        "learned_twice": len(result.twice),
    }


def shown(content: Json) -> str:
    """Return the results as Markdown."""
    lost, twice = (content[name] or "none" for name in ("lost", "learned_twice"))
    return (
        f"The owner of {len(MODELS)} models in {content['shards']} shards was killed "
        f"{content['kills']} times. The longest time between two acknowledged samples of a model was "
        f"{content['median_seconds']:.2f} s in the median of the kills, and "
        f"{content['worst_seconds']:.2f} s in the worst one. Of "
        f"{content['acknowledged']:,} acknowledged samples {lost} was lost, and {twice} was learned twice."
    )


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--record", action="store_true", help="renew the results of record and their page")
    options = parser.parse_args()
    with running("off") as postgres, tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), postgres, options.kills, options.shards)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    text = json.dumps({"shards": options.shards, "machine": machine, **found}, indent=2)
    print(text)
    if options.record:
        RESULTS.write_text(text + "\n")
        put_between_marks(PAGE, "takeover", shown(json.loads(text)))


if __name__ == "__main__":
    main()
