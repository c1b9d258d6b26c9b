"""Compose projects that tests start and take down again."""

import json
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).with_name("probe.py")
COMPOSE_FILES = {
    "cpu": ("docker-compose.yml",),
    "gpu": ("docker-compose.yml", "docker/compose.gpu.yml"),
    "airgap": ("docker-compose.yml", "docker/compose.airgap.yml"),
}
STOP_GRACE_S = 40  # docker-compose.yml says the same


def docker(
    *arguments: str, env: dict[str, str] | None = None, stdin: str | None = None, check: bool = True
) -> str:
    """Run a docker command in the checkout and return what it printed."""
    environment = {**os.environ, **(env or {})}
    run = subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True
    )
    if check and run.returncode != 0:
        pytest.fail(f"docker {' '.join(arguments)} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return run.stdout


@dataclass(frozen=True)
class Stack:
    """One compose project of its own: containers, network and volume, on a free port."""

    project: str
    port: int
    image: str

    def compose(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        files = [part for file in COMPOSE_FILES["airgap"] for part in ("--file", file)]
        env = {"BNP_IMAGE": self.image, "BNP_PUBLISHED_PORT": str(self.port)}
        return docker(
            "compose", "--project-name", self.project, *files, *arguments, env=env, stdin=stdin, check=check
        )

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "120")

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", str(STOP_GRACE_S))

    def inspect(self) -> dict[str, Any]:
        container = self.compose("ps", "--all", "--quiet", "server").strip()
        (answer,) = json.loads(docker("inspect", container))
        return dict(answer)

    def python(self, code: str, *arguments: str) -> str:
        """Run Python code in the server's container, beside the server."""
        return self.compose("exec", "--no-TTY", "server", "python", "-", *arguments, stdin=code)

    def probe(self, question: str) -> Any:
        """Ask a question of probe.py inside the container."""
        return json.loads(self.python(PROBE.read_text(encoding="utf-8"), question))

    def keys(self) -> list[str]:
        """Return the API keys that the logs of the container have."""
        return re.findall(r"bnp_[A-Za-z0-9_-]{40,}", self.compose("logs", "--no-color", "server"))

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.keys()[0]}"}
        url = f"http://127.0.0.1:{self.port}"
        return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)

    def leftovers(self) -> list[str]:
        label = f"label=com.docker.compose.project={self.project}"
        containers = docker("ps", "--all", "--quiet", "--filter", label)
        volumes = docker("volume", "ls", "--quiet", "--filter", label)
        networks = docker("network", "ls", "--quiet", "--filter", label)
        return [*containers.split(), *volumes.split(), *networks.split()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def new_stack(image: str) -> Iterator[Stack]:
    """Make a stack that is taken down whatever happens."""
    stack = Stack(project=f"bnp-test-{secrets.token_hex(4)}", port=free_port(), image=image)
    try:
        yield stack
    finally:
        stack.down()
