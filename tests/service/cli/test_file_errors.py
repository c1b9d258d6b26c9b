"""Failures of the operating system: the message names the file as it was typed, and no file is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import FAST, command, write
from tests.support.programs import ROOT
from tests.support.running import Server

SAMPLES = "a,y\n" + "".join(f"{i % 5},{i % 2}\n" for i in range(50))
LEARN = ("learn", "c.csv", "--target", "y", *FAST)
#: A file name with a space, and one that is not UTF-8, with the text of each in a message.
NAMES = {"with spaces.csv": "with spaces.csv", os.fsdecode(b"caf\xe9.csv"): "caf\\udce9.csv"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with samples and a model."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    write(tmp_path, "c.csv", SAMPLES)
    assert command(*LEARN, "--save", "model").code == 0
    return tmp_path


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let the system refuse larger files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def without_permission(path: Path) -> Iterator[None]:
    """Take the permissions of a path away; root, which needs none, becomes another user."""
    mode, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0o500 if path.is_dir() else 0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)


@pytest.mark.parametrize(
    "arguments",
    [
        ("learn", "NAME", "--target", "y"),
        ("predict", "NAME", "--load", "model"),
        (*LEARN, "--load", "NAME"),
        ("predict", "c.csv", "--load", "NAME"),
        ("import", "NAME"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_read(folder: Path, arguments: tuple[str, ...], name: str) -> None:
    arguments = tuple(name if each == "NAME" else each for each in arguments)
    arguments = tuple(each for each in arguments if "--load" not in arguments or each not in FAST)
    shown = NAMES[name]
    assert command(*arguments).err == f"{shown}: No such file or directory: check the name\n"
    (folder / name).mkdir()
    assert command(*arguments).err == f"{shown}: Is a directory: give the name of a file\n"
    (folder / name).rmdir()
    (folder / name).touch()
    with without_permission(folder / name):
        done = command(*arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"{shown}: Permission denied: change its permissions")


@pytest.mark.parametrize("arguments", [(*LEARN, "--save"), ("predict", "c.csv", "--load", "model", "-o")])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_written(folder: Path, arguments: tuple[str, ...], name: str) -> None:
    shown = NAMES[name]
    (folder / name).mkdir()
    assert command(*arguments, name).err == f"{shown}: Is a directory: give the name of a file\n"
    done = command(*arguments, f"no/{name}")
    assert done.err.startswith(f"no/{shown}: There is no folder no: create it")
    with without_permission(folder / name):
        done = command(*arguments, f"{name}/m")
    assert done.err.startswith(f"{shown}/m: Permission denied: change its permissions")
    done = command(*arguments, "n" * 300)
    assert done.err.endswith(": File name too long: choose a shorter name\n")
    with limited_files(1000):
        done = command(*arguments, "m")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("m: File too large: raise the limit (`ulimit -f`)")
    assert sorted(path.name for path in folder.rglob("*")) == sorted(["c.csv", "model", name])


def test_a_model_that_cannot_be_replaced_stays(folder: Path) -> None:
    before = (folder / "model").read_bytes()
    with limited_files(1000):
        assert command("learn", "c.csv", "--target", "y", "--load", "model", "--save", "model").code == 1
    assert (folder / "model").read_bytes() == before


def test_an_export_that_cannot_be_written(folder: Path, server: Server) -> None:
    at = ("--url", server.url)
    done = command("export", "/dev/full", *at)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("/dev/full: No space left on device: free some space")
    assert Path("/dev/full").is_char_device()
    name = next(name for name in NAMES if not name.isascii())
    done = command("export", name, *at)
    assert (done.code, done.err) == (0, "")
    assert NAMES[name] in done.out
    assert command("learn", "c.csv", "--target", "y", "--load", name, "--save", name).code == 0
    assert command("import", name, "-m", "imported", *at).code == 0


def test_a_link_stays_one(folder: Path) -> None:
    (folder / "link").symlink_to("model")
    assert command("predict", "c.csv", "--load", "model", "-o", "link").code == 0
    assert (folder / "link").is_symlink()
    assert (folder / "model").read_text().count("\n") == 50


def test_a_key_file_that_cannot_be_written(folder: Path) -> None:
    new = ("keys", "new", "--name", "a", "--scopes", "read", "--file")
    done = command(*new, "c.csv/keys")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("c.csv/keys: ")


def test_a_data_folder_that_is_a_file(folder: Path) -> None:
    done = command("doctor", BNP_DATA_DIR="c.csv")
    assert "c.csv cannot be written" in done.err
    assert done.err.count("\n") == 1
    done = command("repair", "--from", "log", BNP_DATA_DIR="c.csv")
    assert done.err == "the data folder c.csv: File exists: set BNP_DATA_DIR to another folder\n"
    assert done.code == 1


def run(*arguments: str, stdout: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
    )
    return done.returncode, done.stderr


def test_standard_output_that_cannot_be_written() -> None:
    with open("/dev/full", "wb") as full:
        code, said = run("version", stdout=full.fileno())
    assert (code, said) == (
        1,
        "standard output: No space left on device: free some space, or choose a file elsewhere\n",
    )


def test_standard_output_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run("version", stdout=writer) == (1, "")
    finally:
        os.close(writer)
