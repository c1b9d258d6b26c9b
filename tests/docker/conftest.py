import secrets
import subprocess
from collections.abc import Iterator

import pytest

from tests.docker.stack import ROOT, Stack, docker


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    try:
        run = subprocess.run(["docker", "info"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.fail("These tests need Docker, and there is no `docker` command here.")
    if run.returncode != 0:
        pytest.fail(f"These tests need a Docker engine, and none answers:\n{run.stderr}")


@pytest.fixture(scope="session")
def image(engine: None) -> Iterator[str]:
    """Build the image without a network and take it away afterwards."""
    if not list((ROOT / "wheels").glob("*.whl")):
        pytest.fail("The folder wheels/ is empty: run docker/wheels.sh on a connected machine.")
    name = f"bnp-online-test:{secrets.token_hex(4)}"
    Stack(project="bnp-test-build", port=0, image=name).compose("build", "server")
    try:
        yield name
    finally:
        docker("image", "rm", "--force", name)
