"""The profile "monitoring", with a real engine: Prometheus gets its key, and scrapes the server.

There is no registry here. Prometheus is Debian's own, in an image that is made of it as the official one is
made; Grafana cannot be had, so it is not run: its files are checked in
`tests/service/telemetry/test_monitoring.py`.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docker.debian import built, package_of
from tests.docker.stack import ROOT, Stack, docker, free_port, new_project, taken_down

DOCKERFILE = """\
FROM python:3.11-slim
COPY prometheus promtool /bin/
RUN install --directory --owner 65534 --group 65534 /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["/bin/prometheus"]
"""

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


class MonitoredStack(Stack):
    """A stack with the profile: Prometheus and what it needs, which is all but Grafana."""

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.variables['BNP_PROMETHEUS_PORT']}/api/v1/{path}"
        answer = httpx.get(url, params=parameters, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@pytest.fixture(scope="module")
def prometheus_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    for program in ("prometheus", "promtool"):
        shutil.copy(package_of(Path("/usr/bin") / program, "prometheus"), folder)
    with built(folder, "bnp-prometheus-test", DOCKERFILE) as name:
        yield name


@pytest.fixture(scope="module")
def stack(image: str, prometheus_image: str) -> Iterator[MonitoredStack]:
    variables = {"BNP_PROMETHEUS_IMAGE": prometheus_image, "BNP_PROMETHEUS_PORT": str(free_port())}
    project = (new_project(), free_port(), image, "monitoring", "prometheus")
    stack = MonitoredStack(*project, variables=variables)
    with taken_down(stack):
        stack.up()
        yield stack


def test_the_whole_profile_is_valid_and_hardened() -> None:
    told = docker("compose", "--profile", "monitoring", "config", "--format", "json")
    services = json.loads(told)["services"]
    assert services.keys() == {"server", "metrics-key", "prometheus", "grafana"}
    for name in ("metrics-key", "prometheus", "grafana"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ()))
        binds = [mount for mount in service["volumes"] if mount["type"] == "bind"]
        assert binds
        for mount in binds:
            assert mount["read_only"]
            assert Path(mount["source"]).exists()
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", services[name]["image"])
        assert not services[name]["user"].startswith(("0", "root"))
    alone = json.loads(docker("compose", "config", "--format", "json"))["services"]
    assert alone.keys() == {"server"}


def test_prometheus_scrapes_the_server(stack: MonitoredStack) -> None:
    with stack.client() as client:
        for i in range(20):
            client.post("/learn", json={"x": {"a": i}, "y": i % 2}).raise_for_status()
    deadline = time.monotonic() + 60
    while [target["health"] for target in stack.ask("targets")["activeTargets"]] != ["up"]:
        assert time.monotonic() < deadline, stack.ask("targets")
        time.sleep(0.5)
    while not (found := stack.ask("query", query='bnp_model_learned_total{model="default"} >= 20')["result"]):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert found[0]["metric"]["job"] == "bnp-online"
    rules = [rule["name"] for group in stack.ask("rules")["groups"] for rule in group["rules"]]
    stated = (ROOT / "docker" / "monitoring" / "rules.yml").read_text(encoding="utf-8")
    assert sorted(rules) == sorted(re.findall(r"- (?:alert|record): (\S+)", stated))


def test_its_key_reads_and_nothing_else(stack: MonitoredStack) -> None:
    key = stack.compose("exec", "--no-TTY", "prometheus", "cat", "/metrics-key/key")
    mode = stack.compose("exec", "--no-TTY", "prometheus", "stat", "--format", "%a %u %g", "/metrics-key/key")
    assert mode.split() == ["440", "10001", "10001"]
    headers = {"authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{stack.port}"
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
        assert client.get("/metrics").status_code == 200
        assert client.post("/learn", json={"x": {}, "y": 1}).status_code == 403
        assert client.delete("/models/default").status_code == 403
    assert key not in stack.python("print(open('/data/keys').read())")


def test_a_second_start_makes_no_second_key(stack: MonitoredStack) -> None:
    keys = stack.python("print(open('/data/keys').read())")
    assert len(keys.split("\n")) == 4  # the first one, Prometheus', and two ends of lines
    stack.compose("stop")
    stack.up()
    assert stack.python("print(open('/data/keys').read())") == keys


def test_a_key_that_is_given_must_be_one_that_the_server_takes(stack: MonitoredStack) -> None:
    def run(key: str) -> str:
        given = ("run", "--rm", "--no-TTY", "--env", f"BNP_METRICS_KEY={key}", "metrics-key")
        return stack.compose(*given, check=False)

    kept = ("exec", "--no-TTY", "prometheus", "cat", "/metrics-key/key")
    before, keys = stack.compose(*kept), stack.python("print(open('/data/keys').read())")
    [own] = stack.keys()
    run("bnp_" + "x" * 40)
    assert stack.compose(*kept) == before
    run(own)
    assert stack.compose(*kept) == own
    assert stack.python("print(open('/data/keys').read())") == keys


def test_prometheus_is_nobody(stack: MonitoredStack) -> None:
    container = stack.compose("ps", "--quiet", "prometheus").strip()
    [told] = json.loads(docker("inspect", container))
    assert told["HostConfig"]["ReadonlyRootfs"]
    assert [port[0]["HostIp"] for port in told["NetworkSettings"]["Ports"].values()] == ["127.0.0.1"]
    status = stack.compose("exec", "--no-TTY", "prometheus", "cat", "/proc/1/status")
    assert set(re.findall(r"^[UG]id:\s+(.*)$", status, re.MULTILINE)[0].split()) == {"65534"}
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
