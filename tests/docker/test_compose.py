"""The container, built and run by a real Docker engine as a user would run it: `make test-docker`.

The image is built without a network from the folder of wheels, so the air-gapped build is what is tested.
Without an engine these tests fail; they never skip.
"""

import json
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docker.stack import COMPOSE_FILES, ROOT, STOP_GRACE_S, Stack, docker, new_stack

UID = 10001

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Stack]:
    """One running server for all the tests that leave it running."""
    with new_stack(image) as running:
        running.up()
        yield running


def wait_until_healthy(stack: Stack, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if stack.inspect()["State"]["Health"]["Status"] == "healthy":
            return
        time.sleep(0.5)
    pytest.fail(f"not healthy after {timeout_s} s:\n{stack.compose('logs', '--no-color', check=False)}")


def learn_and_predict(stack: Stack) -> None:
    """Teach a threshold through the published port, then ask on both sides of it."""
    with stack.client() as client:
        steps = []
        for i in range(200):
            a = ((i * 37) % 200 - 99.5) / 100
            answer = client.post("/learn", json={"x": {"a": a}, "y": int(a > 0)})
            assert answer.status_code == 200, answer.text
            steps.append(answer.json()["step"])
        assert steps == list(range(steps[0], steps[0] + 200))
        for a, label in ((-0.8, 0), (0.8, 1)):
            answer = client.post("/predict", json={"x": {"a": a}})
            assert answer.status_code == 200, answer.text
            assert answer.json()["prediction"] == label
            assert sum(answer.json()["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", COMPOSE_FILES)
def test_every_compose_file_is_valid_and_keeps_the_hardening(kind: str) -> None:
    files = [part for file in COMPOSE_FILES[kind] for part in ("--file", file)]
    server = json.loads(docker("compose", *files, "config", "--format", "json"))["services"]["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert [port["host_ip"] for port in server["ports"]] == ["127.0.0.1"]
    assert [mount["target"] for mount in server["volumes"]] == ["/data"]
    assert server["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    devices = server["deploy"]["resources"].get("reservations", {}).get("devices", [])
    assert [device["driver"] for device in devices] == (["nvidia"] if kind == "gpu" else [])
    assert server["build"].get("network") == ("none" if kind == "airgap" else None)


@pytest.mark.parametrize(
    ("profile", "started"),
    [("", "server"), ("monitoring", "prometheus"), ("cluster", "haproxy"), ("ingest", "ingest")],
)
def test_what_a_profile_starts_is_built(profile: str, started: str) -> None:
    """On a new checkout `up --build SERVICE` builds the image, which no registry has."""
    options = ["--profile", profile] if profile else []
    services = json.loads(docker("compose", *options, "config", "--format", "json"))["services"]
    needed, found = [started], set()
    while needed:
        name = needed.pop()
        found.add(name)
        needed += [each for each in services[name].get("depends_on", {}) if each not in found]
    own = [services[name] for name in found if services[name].get("pull_policy") == "never"]
    built = {services[name]["image"] for name in found if "build" in services[name]}
    assert {each["image"] for each in own} <= built
    assert len(built) == 1


def test_learns_and_predicts_through_the_published_port(stack: Stack) -> None:
    learn_and_predict(stack)


def test_a_key_is_made_once_and_only_its_hash_is_kept(stack: Stack) -> None:
    (key,) = stack.keys()
    code = "import os; print(oct(os.stat('/data/keys').st_mode & 0o777), open('/data/keys').read())"
    mode, kept = stack.python(code).split(maxsplit=1)
    assert mode == "0o600"
    assert "sha256:" in kept
    assert key not in kept
    url = f"http://127.0.0.1:{stack.port}"
    assert httpx.get(f"{url}/models", timeout=30, trust_env=False).status_code == 401
    assert httpx.get(f"{url}/health/ready", timeout=30, trust_env=False).status_code == 200


def test_only_this_machine_reaches_the_port(stack: Stack) -> None:
    (binding,) = stack.inspect()["NetworkSettings"]["Ports"]["8000/tcp"]
    assert binding == {"HostIp": "127.0.0.1", "HostPort": str(stack.port)}


def test_the_limits_and_the_restart_policy_reach_the_engine(stack: Stack) -> None:
    host = stack.inspect()["HostConfig"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert not host["Privileged"]


def test_the_server_is_nobody_special(stack: Stack) -> None:
    """The server runs as its own user, with no capability left and no way to gain one."""
    status = stack.probe("server_status")
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(UID)}
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"


def test_only_the_volume_keeps_what_is_written(stack: Stack) -> None:
    """The root file system refuses writes, and of what can be written to only /data is more than memory."""
    refusals = stack.probe("refused_writes")
    assert set(refusals.values()) == {"EROFS"}, refusals
    writable = stack.probe("writable_folders")
    kept = {folder for folder, kind in writable.items() if kind not in {"tmpfs", "mqueue", "devpts"}}
    assert "/data" in kept
    assert all(Path(folder).is_relative_to("/data") for folder in kept), kept
    mounts = [(mount["Type"], mount["Destination"]) for mount in stack.inspect()["Mounts"]]
    assert mounts == [("volume", "/data")]


def test_the_image_has_nothing_to_build_or_install_with(stack: Stack) -> None:
    assert stack.probe("tools") == []


def test_the_image_says_what_it_is(stack: Stack) -> None:
    (facts,) = json.loads(docker("image", "inspect", stack.image))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    labels = facts["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == project["name"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert facts["Config"]["User"] == f"{UID}:{UID}"
    assert facts["Config"]["StopSignal"] == "SIGTERM"


def test_the_image_holds_the_pinned_versions(stack: Stack) -> None:
    def key(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {
        key(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", constraints, re.MULTILINE)
    }
    installed = {key(name): version.split("+")[0] for name, version in stack.probe("versions").items()}
    del installed["bnp-online"]
    assert "torch" in installed
    assert installed == {name: pins.get(name) for name in installed}


def test_the_fused_step_comes_compiled(stack: Stack) -> None:
    """The cache is read, though the root is read-only: at the first start nothing was compiled."""
    learn_and_predict(stack)
    assert "Compiling" not in stack.compose("logs", "--no-color")


def test_a_killed_server_comes_back(stack: Stack) -> None:
    before = stack.inspect()
    # The kernel keeps signals of a container's own processes from its first one, and after `docker kill` the
    # engine would not restart it: so the signal comes from a container that sees the host's processes.
    pid = before["State"]["Pid"]
    kill = f"import os, signal; os.kill({pid}, signal.SIGKILL)"
    docker("run", "--rm", "--network=none", "--pid=host", "--user=0", stack.image, "python", "-c", kill)
    deadline = time.monotonic() + 60
    while stack.inspect()["RestartCount"] == before["RestartCount"]:
        assert time.monotonic() < deadline, "the engine did not restart the server"
        time.sleep(0.2)
    wait_until_healthy(stack)
    after = stack.inspect()
    assert after["Id"] == before["Id"]
    assert after["State"]["Pid"] != pid
    learn_and_predict(stack)


def test_what_was_learned_outlives_a_kill_by_compose(image: str) -> None:
    with new_stack(image) as own:
        own.up()
        with own.client() as client:
            for i in range(50):
                answer = client.post("/learn", json={"x": {"a": i, "b": -i}, "y": i % 3, "id": f"e-{i}"})
                assert answer.status_code == 200
            before = client.get("/models/default/fingerprint").json()
        assert before["step"] == 50
        own.compose("kill")
        own.up()
        with own.client() as client:
            assert client.get("/models/default/fingerprint").json() == before
            again = client.post("/learn", json={"x": {"a": 7, "b": -7}, "y": 1, "id": "e-7"}).json()
            assert again["duplicate"]
            assert again["step"] == 8


def test_stops_in_time_and_starts_again_on_its_volume(image: str) -> None:
    with new_stack(image) as own:
        own.up()
        own.python("open('/data/probe', 'w').write('kept')")
        start = time.monotonic()
        own.compose("stop")
        assert time.monotonic() - start < STOP_GRACE_S
        state = own.inspect()["State"]
        assert state["ExitCode"] == 0, own.compose("logs", "--no-color")  # 137 would be a kill
        assert not state["OOMKilled"]
        own.compose("down")  # without --volumes
        own.up()
        assert own.python("print(open('/data/probe').read())").strip() == "kept"
        own.down()
        assert own.leftovers() == []
