"""The configuration of nginx on the page `deploy`: TLS, streams both ways, and a sub-path."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from bnp_online.client import Client
from service.auth.keys import new_secret
from tests.browser.conftest import browser as browser  # the fixture
from tests.support.nginx import Proxy, nginx
from tests.support.programs import ROOT
from tests.support.running import Server, serving

KEY = new_secret()
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(params=["root", "sub-path"])
def below(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "sub-path")


@pytest.fixture
def proxy(server: Server, below: bool, tmp_path: Path) -> Iterator[Proxy]:
    with nginx(tmp_path, server.port, below=below) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_a_page_may_call_the_server_through_the_proxy(proxy: Proxy) -> None:
    origin = f"https://localhost:{proxy.port}"
    with httpx.Client(verify=proxy.context) as client:
        body = {"x": {"a": 1.0}, "y": "cat"}
        answer = client.post(f"{proxy.url}/learn", json=body, headers={"Origin": origin})
        assert answer.status_code == 200, answer.text
        foreign = client.post(f"{proxy.url}/learn", json=body, headers={"Origin": "https://localhost:1"})
        assert foreign.json()["error"]["code"] == "foreign_origin"
        head = client.head(f"{proxy.url}/health/ready")
        assert (head.status_code, head.content) == (200, b"")
        page = client.get(f"{proxy.url}/")
        assert page.headers["content-security-policy"]


def test_a_large_body_passes(proxy: Proxy) -> None:
    x = {f"feature {i}": "v" * 500 for i in range(4000)}
    with httpx.Client(verify=proxy.context, timeout=60) as client:
        raw = json.dumps({"x": x}).encode()
        assert len(raw) > 2_000_000  # nginx itself refuses more than 1 MB
        refused = client.post(
            f"{proxy.url}/predict", content=raw, headers={"Content-Type": "application/json"}
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")


def test_each_line_is_answered_before_the_next_is_sent(proxy: Proxy) -> None:
    connection = http.client.HTTPSConnection("localhost", proxy.port, timeout=60, context=proxy.context)
    path = "/bnp/learn" if proxy.url.endswith("/bnp") else "/learn"
    connection.putrequest("POST", path)
    for name, value in {**NDJSON, "Transfer-Encoding": "chunked"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    steps: list[int] = []
    response: http.client.HTTPResponse | None = None
    for i in range(5):
        line = json.dumps({"x": {"a": i}, "y": "cat"}).encode() + b"\n"
        connection.send(b"%x\r\n%b\r\n" % (len(line), line))
        response = response or connection.getresponse()
        steps.append(json.loads(response.readline())["step"])
    assert steps == [*range(steps[0], steps[0] + 5)]
    connection.send(b"0\r\n\r\n")
    assert response is not None
    assert response.read() == b""
    connection.close()


def test_events_arrive_while_the_stream_is_open(proxy: Proxy) -> None:
    with httpx.Client(verify=proxy.context, timeout=60) as client:

        def learn() -> int:
            body = {"x": {"a": 1}, "y": "cat"}
            return int(client.post(f"{proxy.url}/learn", json=body).json()["step"])

        with client.stream("GET", f"{proxy.url}/events?model=default") as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            lines = events.iter_lines()
            for _ in range(2):
                step = learn()
                for line in lines:
                    if line.startswith("data: ") and json.loads(line[6:]).get("step") == step:
                        break
                else:
                    pytest.fail("the stream ended")


def test_the_client_and_the_command_line_work_below_the_path(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "learn.pem"))
    with Client(proxy.url) as client:
        step = client.learn_one({"a": 1.0}, "cat").step
        client.learn_many([({"a": i}, "dog") for i in range(30)])
        assert client.predict_one({"a": 1.0}).step == step + 30
    command = [sys.executable, "-m", "service.cli", "predict", "--url", proxy.url]
    (tmp_path / "samples.ndjson").write_text('{"x": {"a": 1.0}}\n')
    done = subprocess.run(
        [*command, str(tmp_path / "samples.ndjson")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_realm_of_the_river_api_is_the_address_of_the_proxy(
    below: bool, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = f"somebody learn,predict,read {KEY}"
    with (
        serving(tmp_path_factory.mktemp("keys"), api_keys=keys) as server,
        nginx(tmp_path, server.port, below=below) as proxy,
        httpx.Client(verify=proxy.context) as client,
    ):
        refused = client.get(f"{proxy.url}/api/models/")
        said = refused.headers["www-authenticate"]
        assert said == f'Bearer realm="{proxy.url}/api/auth/token/",service="bnp-online"'
        token = client.get(said.split('"')[1], auth=("somebody", KEY))
        assert token.json()["token"] == KEY


@pytest.mark.browser
def test_the_pages_work_in_a_browser(proxy: Proxy, server: Server, browser: Browser) -> None:
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    server.learn({"a": 1.0}, "cat")
    step = server.get("/models/default")["step"]
    page.goto(f"{proxy.url}/")
    page.wait_for_function("step => document.body.innerText.includes(step)", arg=str(step))
    server.create(name="empty")
    page.select_option("#model", "empty")
    page.wait_for_function(
        "url => document.getElementById('curl-learn').innerText.includes(url)",
        arg=f"{proxy.url}/models/empty/learn",
    )
    server.client.delete("/models/empty")
    page.goto(f"{proxy.url}/docs")
    page.click("#operations-operations-live >> button >> nth=0")
    page.click("text=Try it out")
    page.click("button.execute")
    found: Any = page.wait_for_selector(".live-responses-table td.response-col_status:not(.col_header)")
    assert found.inner_text().startswith("200")
    assert f"{proxy.url}/health/live" in asked
    assert all(url.startswith((proxy.url, "data:")) for url in asked)
    context.close()
