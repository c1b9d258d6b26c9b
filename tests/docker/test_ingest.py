"""The profile "ingest", with a real engine: a server learns each message of a stream of NATS once.

There is no registry here: NATS is Debian's, in an image that is made of it.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docker.debian import built, package_of
from tests.docker.stack import COMPOSE_FILES, ROOT, Stack, docker, free_port, new_project, taken_down
from tests.support.server_process import logged

NATS = """\
FROM python:3.11-slim
COPY nats-server /
ENTRYPOINT ["/nats-server"]
"""

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nats_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("nats")
    shutil.copy(package_of(Path("/usr/sbin/nats-server"), "nats-server"), folder)
    with built(folder, "bnp-nats-test", NATS) as name:
        yield name


@pytest.fixture
def stack(image: str, nats_image: str) -> Iterator[Stack]:
    """A stack of which nothing has started."""
    port = free_port()
    variables = {
        "BNP_NATS_IMAGE": nats_image,
        "BNP_NATS_PORT": str(free_port()),
        "BNP_INGEST_PORT": str(port),
    }
    with taken_down(Stack(new_project(), port, image, "ingest", "ingest", "ingest", variables)) as stack:
        yield stack


def publish(stack: Stack, *messages: str) -> None:
    """Publish messages, as the documentation says; this starts NATS if necessary."""
    stack.compose("run", "--rm", "--no-TTY", "publish", stdin="".join(f"{each}\n" for each in messages))


def samples(first: int, last: int) -> list[str]:
    return [json.dumps({"x": {"a": i % 7, "n": i}, "y": i % 2}) for i in range(first, last)]


def state(client: httpx.Client) -> dict[str, Any]:
    """Return the step of the model, and the state of its only partition."""
    answer = client.get("/models/default")
    assert answer.status_code == 200, answer.text
    [partition] = answer.json()["ingest"]
    return {"step": answer.json()["step"], **partition}


def wait_for(client: httpx.Client, at_least: int = 0, **expected: Any) -> dict[str, Any]:
    """Wait until the model is at a step or later, and the state has these values."""
    deadline = time.monotonic() + 60
    while (found := state(client))["step"] < at_least or not found.items() >= expected.items():
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def learned(stack: Stack, folder: Path) -> list[int]:
    """Stop the server, and return the numbers of the samples in its event log, in order."""
    stack.compose("stop", "ingest")
    stack.compose("cp", "ingest:/data", str(folder))
    events = logged(folder / "data")
    return [body["x"]["n"] for kind, _, body, refused in events if kind == "learn" and not refused]


def test_the_profile_is_valid_and_hardened_and_nothing_starts_without_it() -> None:
    told = docker("compose", "--profile", "ingest", "config", "--format", "json")
    services = json.loads(told)["services"]
    assert services.keys() == {"server", "nats", "publish", "ingest"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ()))
    published = [port["published"] for each in services.values() for port in each.get("ports", ())]
    assert len(published) == len({*published}) == 3
    assert re.fullmatch(r"nats:\d+\.\d+", services["nats"]["image"])
    alone = json.loads(docker("compose", "config", "--format", "json"))["services"]
    assert alone.keys() == {"server"}
    assert not [name for name in alone["server"]["environment"] if "INGEST" in name]


def test_the_steps_of_the_page_let_a_model_learn(stack: Stack) -> None:
    page = (ROOT / "docs" / "how-to" / "ingest.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert "localhost:8001" in commands
    environment = {
        **os.environ,
        **stack.variables,
        "BNP_IMAGE": stack.image,
        "COMPOSE_PROJECT_NAME": stack.project,
        "COMPOSE_FILE": ":".join(COMPOSE_FILES["airgap"]),
    }
    script = f"set -euo pipefail\n{commands.replace('localhost:8001', f'localhost:{stack.port}')}"
    run = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"topic":"nats:samples","partition":0' in run.stdout
    with stack.client() as client:
        wait_for(client, step=1, learned=1)


def test_each_message_is_learned_once_whatever_ends_meanwhile(stack: Stack, tmp_path: Path) -> None:
    publish(stack, *samples(0, 200))
    stack.up()
    with stack.client() as client, ThreadPoolExecutor(1) as pool:
        wait_for(client, step=200, state="running")
        publish(stack, *samples(200, 250), "this is not JSON", *samples(250, 300), '{"x": {"a": 1}}')
        wait_for(client, step=300, refused=2, state="running", position=303)

        publishing = pool.submit(publish, stack, *samples(300, 5300))
        wait_for(client, at_least=500)
        stack.compose("kill", "ingest")
        publishing.result()
        publish(stack, *samples(5300, 5400))
        stack.up()
        wait_for(client, step=5400, state="running", position=5403)

        publishing = pool.submit(publish, stack, *samples(5400, 10400))
        wait_for(client, at_least=5600)
        stack.compose("restart", "ingest")
        publishing.result()
        publish(stack, *samples(10400, 10450), '{"x": {"a": 1}, "y": [1]}', *samples(10450, 10500))
        stack.up()
        wait_for(client, step=10500, refused=1, state="running", position=10504)

        stack.compose("kill", "nats")
        stack.compose("up", "--detach", "--no-build", "nats")
        publish(stack, *samples(10500, 10600))
        found = wait_for(client, step=10600, state="running", position=10604, lag=0)
        assert found["topic"] == "nats:samples"
    assert learned(stack, tmp_path) == [*range(10600)]
