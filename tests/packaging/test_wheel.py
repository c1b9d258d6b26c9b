"""The wheel, installed beside PyPI's package ``service`` into an environment without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import bnp_online
from service.cli.launch import ServerProcess
from tests.support.programs import ROOT

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
SOURCES = ("bnp_online", "service", "setup.py", "pyproject.toml", "README.md", "LICENSE")
#: PyPI's package of that name, with what it needs.
OTHER_SERVICE = ("service==0.6.0", "python-daemon>=3", "lockfile>=0.12", "pid>=3", "setproctitle>=1.3")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, in which no earlier build left files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)
        else:
            shutil.copy(ROOT / name, source)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path) -> Path:
    """Install the wheel, and return the folder of the environment's programs.

    The dependencies are those of this environment, linked: to install them again would take minutes.
    """
    folder = wheel.parent / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", ask, cwd=folder).strip())
    dependencies = wheel.parent / "dependencies"
    dependencies.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("bnp_online", "__editable__")):
            (dependencies / path.name).symlink_to(path)
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    install(python, "--no-deps", str(wheel))
    install(python, "--no-deps", *OTHER_SERVICE)
    return python.parent


def install(python: Path, *packages: str) -> None:
    run(*PIP, "--python", python, "install", *packages, cwd=python.parent)


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        return message_from_bytes(file.read(name))


def test_it_has_every_module_and_two_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    tracked = run("git", "ls-files", "bnp_online", "service", cwd=ROOT).splitlines()
    kept = [name for name in tracked if not name.endswith(".md") or "/dashboard/" in name]
    assert names == {
        name.replace("service/", "bnp_online_server/", 1)
        for name in kept
        if not name.startswith("service/client/")
    }


def test_its_version_and_extras(metadata: Message) -> None:
    assert metadata["Version"] == bnp_online.__version__
    extras = [
        "server",
        "client",
        "files",
        "arrow",
        "cluster",
        "ray",
        "kafka",
        "nats",
        "mlflow",
        "traces",
        "plot",
    ]
    assert metadata.get_all("Provides-Extra") == extras


def test_torch_has_a_lower_bound_and_is_pinned_in_the_constraints(metadata: Message) -> None:
    required: Sequence[str] = metadata.get_all("Requires-Dist") or ()
    (torch,) = (each for each in required if each.startswith("torch"))
    assert torch.startswith("torch>=")
    assert "\ntorch==" in (ROOT / "constraints.txt").read_text()


def test_it_serves_and_learns_beside_another_package_service(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()  # the user's own folder of this name
    (tmp_path / "service" / "__init__.py").write_text("raise ImportError\n")
    python, program = programs / "python", str(programs / "bnp-online")
    command = [program, "serve", "--port", "0", "--data-dir", "data", "--device", "cpu"]
    execute = f"import os; os.execv({program!r}, {command!r})"
    uncompiled = {"NUMBA_DISABLE_JIT": "1"}  # compiling takes most of a minute
    with ServerProcess("-c", execute, cwd=tmp_path, environment=uncompiled) as server:
        learn = (
            "import sys; from bnp_online.client import Client; "
            f"client = Client({server.ready()!r}); "
            "print(client.learn_one({'a': 1.0}, 'b').step, client.predict_one({'a': 1.0}).prediction); "
            "assert not {'torch', 'numba', 'river', 'bnp_online_server'} & set(sys.modules)"
        )
        assert run(python, "-c", learn, cwd=programs).split() == ["1", "b"]
        version = run(program, "version", cwd=tmp_path).strip()
        assert version == bnp_online.__version__
        assert server.stop() == 0
        assert any("bnp_online_server" in line or "uvicorn" in line for line in server.lines)
    found = run(python, "-c", "import service; print(service.__file__, service.Service)", cwd=programs)
    assert found.startswith(str(programs.parent))


def test_the_module_serves_too(programs: Path, tmp_path: Path) -> None:
    """``python -m bnp_online_server``, as the image starts it."""
    code = "import bnp_online_server.__main__ as main, sys; print('torch' in sys.modules, main.__package__)"
    assert run(programs / "python", "-c", code, cwd=tmp_path).split() == ["False", "bnp_online_server"]


def test_the_console_script_is_the_servers(metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"bnp-online": "bnp_online_server.cli:main"}
