"""Compose projects that tests start and take down again."""

import json
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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
    """One compose project of its own: containers, network and volume, on free ports.

    Attributes
    ----------
    project, image : str
        Name of the project, and image of the server.
    port : int
        Port of this machine on which the API answers.
    profile : str
        Profile; empty for none.
    started : str
        Service that `up` starts with those it needs; empty for all services of the profile.
    server : str
        Service of a server, or of the first start of one, which prints the API key.
    variables : mapping of str to str
        Variables of the compose file beside the image.
    """

    project: str
    port: int
    image: str
    profile: str = ""
    started: str = ""
    server: str = "server"
    variables: Mapping[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        files = [part for file in COMPOSE_FILES["airgap"] for part in ("--file", file)]
        profile = ["--profile", self.profile] if self.profile else []
        env = {"BNP_IMAGE": self.image, "BNP_PUBLISHED_PORT": str(self.port), **self.variables}
        command = ("compose", "--project-name", self.project, *files, *profile, *arguments)
        return docker(*command, env=env, stdin=stdin, check=check)

    def up(self) -> None:
        started = [self.started] if self.started else []
        self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "180", *started)

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", str(STOP_GRACE_S))

    def inspect(self) -> dict[str, Any]:
        container = self.compose("ps", "--all", "--quiet", self.server).strip()
        (answer,) = json.loads(docker("inspect", container))
        return dict(answer)

    def python(self, code: str, *arguments: str) -> str:
        """Run Python code in the server's container, beside the server."""
        return self.compose("exec", "--no-TTY", self.server, "python", "-", *arguments, stdin=code)

    def probe(self, question: str) -> Any:
        """Ask a question of probe.py inside the container."""
        return json.loads(self.python(PROBE.read_text(encoding="utf-8"), question))

    def keys(self) -> list[str]:
        """Return the API keys that the logs of the container have."""
        return re.findall(r"bnp_[A-Za-z0-9_-]{40,}", self.compose("logs", "--no-color", self.server))

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.keys()[0]}"}
        url = f"http://127.0.0.1:{self.port}"
        return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def leftovers(self) -> list[str]:
        label = f"label=com.docker.compose.project={self.project}"
        containers = docker("ps", "--all", "--quiet", "--filter", label)
        volumes = docker("volume", "ls", "--quiet", "--filter", label)
        networks = docker("network", "ls", "--quiet", "--filter", label)
        return [*containers.split(), *volumes.split(), *networks.split()]


S = TypeVar("S", bound=Stack)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def new_project() -> str:
    return f"bnp-test-{secrets.token_hex(4)}"


@contextmanager
def taken_down(stack: S) -> Iterator[S]:
    """Take a stack down whatever happens; nothing of it may be left."""
    try:
        yield stack
    finally:
        stack.down()
        assert stack.leftovers() == []


def new_stack(image: str) -> AbstractContextManager[Stack]:
    """Make a stack of a single server."""
    return taken_down(Stack(new_project(), free_port(), image))
