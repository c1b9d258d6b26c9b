"""The profile "cluster", with a real engine: owners, standbys, HAProxy, and PostgreSQL with a replica.

There is no registry here: PostgreSQL and HAProxy are Debian's, in images that are made of them.
"""

import json
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docker.debian import built, copy_libraries, package_of
from tests.docker.stack import Stack, free_port, new_project, taken_down

POSTGRES = """\
FROM python:3.11-slim
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 postgres && \
    install --directory --owner 999 --group 999 /var/lib/postgresql
COPY lib /usr/local/lib/postgresql
COPY postgresql /usr/lib/postgresql
COPY share /usr/share/postgresql
ENV LD_LIBRARY_PATH=/usr/local/lib/postgresql
USER postgres
VOLUME /var/lib/postgresql
"""
HAPROXY = """\
FROM python:3.11-slim
COPY lib /usr/local/lib/haproxy
COPY haproxy /usr/local/bin/
ENV LD_LIBRARY_PATH=/usr/local/lib/haproxy
USER nobody
"""

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


class ClusterStack(Stack):
    """A stack with the profile: HAProxy and what it needs, which is all but the single server."""

    def down(self) -> None:
        """Remove everything, also after a test has removed the primary: Compose needs all dependencies."""
        self.compose("create", "--no-build", "postgres", check=False)
        super().down()

    def cluster(self, *arguments: str) -> Any:
        """Run a command of the cluster on a node that runs; again if the node ends, as after a lost lease."""
        deadline = time.monotonic() + 60
        while True:
            running = self.compose("ps", "--services", "--status", "running").split()
            node = next((name for name in running if name.startswith(("owner", "standby"))), "owner-1")
            try:
                return json.loads(
                    self.compose("exec", "--no-TTY", node, "bnp-online", "cluster", *arguments, "--json")
                )
            except pytest.fail.Exception as error:
                ended = ("ended with 137", "is not running", "is restarting", "No such container")
                if time.monotonic() > deadline or not any(each in str(error) for each in ended):
                    raise
                time.sleep(0.2)

    def sql(self, service: str, statement: str) -> str:
        command = (
            f"PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin) psql -h /tmp -U bnp -d bnp -Atc {statement!r}"
        )
        return self.compose("exec", "--no-TTY", service, "sh", "-c", command).strip()


@pytest.fixture(scope="module")
def postgres_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("postgres")
    version = max(Path("/usr/lib/postgresql").glob("*"), key=lambda path: int(path.name), default=Path("/-"))
    package_of(version / "bin" / "initdb", "postgresql")
    shutil.copytree(version, folder / "postgresql" / version.name)
    shutil.copytree(Path("/usr/share/postgresql") / version.name, folder / "share" / version.name)
    files = [*(version / "bin").iterdir(), *(version / "lib").glob("*.so")]
    copy_libraries(files, folder / "lib")
    with built(folder, "bnp-postgres-test", POSTGRES) as name:
        yield name


@pytest.fixture(scope="module")
def haproxy_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("haproxy")
    program = package_of(Path("/usr/sbin/haproxy"), "haproxy")
    shutil.copy(program, folder)
    copy_libraries([program], folder / "lib")
    with built(folder, "bnp-haproxy-test", HAPROXY) as name:
        yield name


@pytest.fixture(scope="module")
def stack(image: str, postgres_image: str, haproxy_image: str) -> Iterator[ClusterStack]:
    port = free_port()
    variables = {
        "BNP_POSTGRES_IMAGE": postgres_image,
        "BNP_HAPROXY_IMAGE": haproxy_image,
        "BNP_CLUSTER_PORT": str(port),
        "BNP_CLUSTER_READS_PORT": str(free_port()),
        "BNP_POSTGRES_PASSWORD": "a-secret-of-the-test",
    }
    stack = ClusterStack(new_project(), port, image, "cluster", "haproxy", "cluster-init", variables)
    with taken_down(stack):
        stack.up()
        yield stack


@pytest.fixture(scope="module")
def client(stack: ClusterStack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "the condition does not hold in time"
        time.sleep(0.05)
    return time.monotonic() - start


def request(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """Send a request until a node answers it, as a client does while an owner changes."""
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = client.request(method, path, **options)
        except httpx.TransportError as error:  # HAProxy ends the connections of a node that is down
            reason = str(error)
        else:
            if answer.status_code not in (421, 502, 503, 504):
                return answer
            reason = answer.text
        assert time.monotonic() < deadline, reason
        time.sleep(0.05)


def learn(client: httpx.Client, model: str, first: int, last: int) -> list[int]:
    """Learn samples with ids, each until it is acknowledged."""
    steps = []
    for i in range(first, last):
        sample = {"x": {"a": i % 7}, "y": i % 2, "id": f"s{i}"}
        answer = request(client, "POST", f"/models/{model}/learn", json=sample)
        assert answer.status_code == 200, answer.text
        steps.append(answer.json()["step"])
    return steps


def fingerprint(client: httpx.Client, model: str) -> Any:
    answer = request(client, "GET", f"/models/{model}/fingerprint")
    assert answer.status_code == 200, answer.text
    return answer.json()


def owner_of(stack: ClusterStack, client: httpx.Client, model: str) -> str:
    """Return the node that owns a model, once there is one: while PostgreSQL changes, no node may."""
    found = None

    def owned() -> bool:
        nonlocal found
        shards = stack.cluster("status")["shards"]
        found = shards[zlib.crc32(model.encode()) % len(shards)]["owner"]
        return found is not None

    fingerprint(client, model)  # an owner answers
    wait_until(owned)
    return str(found)


def test_models_are_spread_over_the_owners(stack: ClusterStack, client: httpx.Client) -> None:
    for i in range(8):
        headers = {"BNP-Model": f"m{i}"}
        answer = request(client, "POST", "/models", json={"name": f"m{i}"}, headers=headers)
        assert answer.status_code == 201, answer.text
        assert learn(client, f"m{i}", 0, 20) == [*range(1, 21)]
    owners = {owner_of(stack, client, f"m{i}") for i in range(8)}
    assert owners == {"owner-1", "owner-2"}
    reads = f"http://127.0.0.1:{stack.variables['BNP_CLUSTER_READS_PORT']}"
    headers = {**client.headers, "BNP-Min-Step": "20"}
    for i in range(8):
        url = f"{reads}/models/m{i}/predict"
        answer = httpx.post(url, json={"x": {"a": 3}}, headers=headers, timeout=30, trust_env=False)
        assert (answer.status_code, answer.json()["step"]) == (200, 20), answer.text
        owner = request(client, "POST", f"/models/m{i}/predict", json={"x": {"a": 3}})
        assert answer.json() == owner.json()
    models = request(client, "GET", "/models").json()["models"]
    assert {each["name"] for each in models} >= {f"m{i}" for i in range(8)}


def test_nothing_but_haproxy_is_published(stack: ClusterStack) -> None:
    config = json.loads(stack.compose("config", "--format", "json"))["services"]
    for name in ("owner-1", "owner-2", "standby-1", "standby-2", "postgres", "postgres-replica"):
        assert "ports" not in config[name], name
        assert config[name]["cap_drop"] == ["ALL"]
        assert config[name]["security_opt"] == ["no-new-privileges:true"]
    assert {port["host_ip"] for port in config["haproxy"]["ports"]} == {"127.0.0.1"}


def test_a_standby_takes_the_place_of_a_killed_owner(stack: ClusterStack, client: httpx.Client) -> None:
    before = owner_of(stack, client, "m0")
    learn(client, "m0", 20, 40)
    state = fingerprint(client, "m0")
    stack.compose("kill", before)

    def learns() -> bool:
        try:
            return client.post("/models/m0/learn", json={"x": {"a": 1}, "y": 0}).status_code == 200
        except httpx.TransportError:  # HAProxy ends the connections of a node that is down
            return False

    gap = wait_until(learns)
    print(f"the models of {before} learned again after {gap:.2f} s")
    assert owner_of(stack, client, "m0") != before
    assert request(client, "POST", "/models/m0/rollback", json={"step": 40}).status_code == 200
    assert fingerprint(client, "m0") == state
    stack.up()
    assert learn(client, "m0", 40, 50) == [*range(41, 51)]


def test_the_replica_takes_the_place_of_the_primary(stack: ClusterStack, client: httpx.Client) -> None:
    assert (
        stack.sql("postgres", "SELECT application_name, sync_state FROM pg_stat_replication")
        == "replica|sync"
    )
    learn(client, "m1", 20, 40)
    stack.compose("kill", "postgres")
    stack.compose("rm", "--force", "postgres")
    stack.sql("postgres-replica", "SELECT pg_promote()")
    assert learn(client, "m1", 40, 60) == [*range(41, 61)]
    again = request(client, "POST", "/models/m1/learn", json={"x": {"a": 0}, "y": 0, "id": "s21"})
    assert again.status_code == 409


def test_a_shard_moves_and_a_node_is_drained(stack: ClusterStack, client: httpx.Client) -> None:
    before = owner_of(stack, client, "m2")
    stack.cluster("drain", before)
    assert owner_of(stack, client, "m2") != before
    assert learn(client, "m2", 20, 30) == [*range(21, 31)]
