"""Prometheus' rules and Grafana's dashboard: of metrics that are there, and taken by the real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.source_urls import parse_all
from tests.support.brokers import broker
from tests.support.exposition import OF_CLUSTER, busy, names, text_of
from tests.support.running import Json, Server

ROOT = Path(__file__).parents[3]
FILES = ROOT / "docker" / "monitoring"
DASHBOARD: Json = json.loads((FILES / "grafana" / "dashboards" / "bnp-online.json").read_text("utf-8"))
RULES = (FILES / "rules.yml").read_text("utf-8")
KEY = "k" * 40

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="Debian's package prometheus is not here",
)


def expressions() -> list[str]:
    """Return what the dashboard asks, as Prometheus takes it once Grafana has put its variables in."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    found += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    return [each.replace("$model", ".*").replace("$__rate_interval", "1m") for each in found]


def promtool(*arguments: str | Path) -> str:
    run = subprocess.run(["promtool", *arguments], cwd=FILES, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture
def topic() -> Iterator[str]:
    """Return the URL of a topic with a message that is learned, and one that is refused."""
    with broker("kafka") as kafka:
        kafka.create("samples")
        kafka.publish("samples", [b'{"x": {"a": 1}, "y": "cat"}', b"{"])
        yield kafka.url("samples")


def test_each_metric_that_is_asked_for_is_one_that_the_server_has(
    serve: Callable[..., Server], topic: str
) -> None:
    server = serve(ingest=parse_all([topic]))
    wait_for(lambda: "bnp_ingest_refused_total{" in text_of(server))
    exported = names(busy(server)) | OF_CLUSTER
    recorded = set(re.findall(r"record: (\S+)", RULES))
    variables = [variable["definition"] for variable in DASHBOARD["templating"]["list"]]
    for text in (RULES, *expressions(), *variables):
        words = {word.rstrip(":") for word in re.findall(r"[a-z_:][a-z0-9_:]*", text)}
        assert {word for word in words if word.startswith("bnp_")} <= exported
        assert {word for word in words if ":bnp_" in word} <= recorded


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    source = (FILES / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text("utf-8")
    uids = set(re.findall(r'"uid": "(\w+)"', json.dumps(DASHBOARD["panels"])))
    assert uids == set(re.findall(r"uid: (\w+)", source))


def test_each_alert_is_tested_and_in_the_documentation() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES)
    tests = (FILES / "rules.test.yml").read_text("utf-8")
    page = (ROOT / "docs" / "how-to" / "monitor.md").read_text("utf-8")
    assert len(alerts) > 15
    assert set(re.findall(r'alertname="(\w+)"', tests)) == set(alerts)
    assert re.findall(r"^\| `(Bnp\w+)`", page, re.MULTILINE) == alerts
    for word in ("summary:", "description:", "severity:"):
        assert RULES.count(word) == len(alerts)


@needs_prometheus
def test_the_rules_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules.test.yml")


@needs_prometheus
def test_prometheus_scrapes_the_server_and_answers_the_dashboard(
    serve: Callable[..., Server], topic: str, tmp_path: Path
) -> None:
    server = serve(api_keys=f"all learn,predict,read,admin {KEY}", ingest=parse_all([topic]))
    server.client.headers["authorization"] = f"Bearer {KEY}"
    busy(server)
    with prometheus(tmp_path, server) as client:
        wait_for(lambda: health(client) == ["up"])
        wait_for(partial(ask, client, 'rate(bnp_http_requests_total{route="/metrics"}[1m]) > 0'))
        for name in re.findall(r"record: (\S+)", RULES):
            wait_for(partial(ask, client, name))
        wait_for(lambda: all(rule["health"] != "unknown" for rule in rules_of(client)))
        stated = re.findall(r"- (?:alert|record): (\S+)", RULES)
        assert {rule["name"]: rule["health"] for rule in rules_of(client)} == dict.fromkeys(stated, "ok")
        [value] = ask(client, 'bnp_model_learned_total{model="default"}')
        assert value["value"][1] == "31"
        wait_for(partial(ask, client, "rate(bnp_ingest_refused_total[1m])"))
        unanswered = {query for query in expressions() if not ask(client, query)}
        drift = {query for query in expressions() if query.endswith("[1m]) > 0")}
        assert unanswered == drift | {query for query in expressions() if "bnp_cluster_" in query}


@contextmanager
def prometheus(folder: Path, server: Server) -> Iterator[httpx.Client]:
    """Run Prometheus with the project's configuration, but that it scrapes this server, and every second."""
    (folder / "key").write_text(KEY)
    shutil.copy(FILES / "rules.yml", folder)
    config = (FILES / "prometheus.yml").read_text("utf-8")
    for before, after in (
        ("/metrics-key/key", str(folder / "key")),
        ("server:8000", f"{server.host}:{server.port}"),
        ("interval: 15s", "interval: 1s"),
    ):
        assert before in config
        config = config.replace(before, after)
    (folder / "prometheus.yml").write_text(config)
    promtool("check", "config", folder / "prometheus.yml")
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            for line in running.stderr:
                if found := re.search(r'"Listening on" address=(\S+)', line):
                    break
            else:
                raise AssertionError("Prometheus ended")
            with httpx.Client(base_url=f"http://{found[1]}", timeout=30, trust_env=False) as client:
                yield client
        finally:
            running.kill()


def wait_for(done: Callable[[], object]) -> None:
    while not done():
        time.sleep(0.1)


def health(client: httpx.Client) -> list[str]:
    answer = client.get("/api/v1/targets")
    targets = answer.json()["data"]["activeTargets"] if answer.is_success else []
    return [target["health"] for target in targets]


def rules_of(client: httpx.Client) -> list[Json]:
    groups = client.get("/api/v1/rules").json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def ask(client: httpx.Client, query: str) -> list[Any]:
    """Return what Prometheus answers to a query; it may have no answer, but must not refuse it."""
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    found: list[Any] = answer["data"]["result"]
    return found
