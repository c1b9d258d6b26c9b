"""File of keys: what a failure, a kill or a second process leaves of it."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.auth.key_file import add_key, read_keys
from service.auth.keys import KeysError, new_secret, parse_key
from service.cli.launch import ServerProcess
from tests.support.preloaded import PreloadedServer
from tests.support.programs import ROOT
from tests.support.server_process import end, wait_until

#: Code that a process runs first: it kills the process at call `{number}` of a function of `os`.
KILLED = """
import os, signal
real, calls = os.{at}, []
def call(*arguments, **options):
    calls.append(arguments)
    if len(calls) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
os.{at} = call
"""
#: A file can have 100 bytes: one line of the file of keys, and a part of the next.
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))"


def start(folder: Path, code: str = "", stdout: int = subprocess.PIPE, **environment: str) -> ServerProcess:
    """Start a server that makes its first key; `code` runs first."""
    own = {
        "BNP_PORT": "0",
        "BNP_DATA_DIR": str(folder),
        "BNP_DEVICE": "cpu",
        "BNP_MAKE_KEY": "1",
    } | environment
    if not code:
        return PreloadedServer(cwd=ROOT, stdout=stdout, environment=own)
    program = f"{code}\nimport runpy; runpy.run_module('service', run_name='__main__')"
    return ServerProcess("-c", program, cwd=ROOT, stdout=stdout, environment=own)


def keys_new(
    folder: Path, name: str, code: str = "", stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run ``bnp-online keys new``; `code` runs first."""
    arguments = ["keys", "new", "--name", name, "--scopes", "read", "--file", str(folder / "keys")]
    program = f"{code}\nimport sys; sys.argv[1:] = {arguments}\nfrom service.cli import main; main()"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, text=True, timeout=120, stdout=stdout, stderr=subprocess.PIPE)


def printed(server: ServerProcess) -> list[str]:
    """Return the keys that an ended server printed."""
    server.wait()
    assert server.process.stdout is not None
    with server.process.stdout as output:
        return re.findall(r"bnp_\S+", output.read())


def key_works(url: str, key: str) -> bool:
    answer = httpx.get(f"{url}/models", headers={"authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def names(folder: Path) -> list[str]:
    return [key.name for key in read_keys(folder / "keys")]


@pytest.mark.parametrize(
    ("at", "number", "keys"), [("fsync", 1, (0, 1)), ("replace", 1, (1, 1)), ("fsync", 2, (1, 0))]
)
def test_the_last_printed_key_is_valid_after_a_kill(
    tmp_path: Path, at: str, number: int, keys: tuple[int, int]
) -> None:
    killed = start(tmp_path, KILLED.format(at=at, number=number))
    before = printed(killed)
    assert killed.wait() == -signal.SIGKILL
    with start(tmp_path) as running:
        url = running.ready()
        after = re.findall(r"bnp_\S+", end(running)[0])
    assert (len(before), len(after)) == keys
    with start(tmp_path) as running:
        url = running.ready()
        assert key_works(url, (before + after)[-1])
        assert not key_works(url, new_secret())
        assert end(running)[0] == ""


def test_a_start_on_a_full_disk_is_repeated_with_room(tmp_path: Path) -> None:
    full = start(tmp_path, FULL)
    assert printed(full) == []
    assert full.wait() == 2
    assert f"{tmp_path / 'keys'}: " in "".join(full.lines)
    with start(tmp_path) as running:
        running.ready()
        assert re.search(r"bnp_\S+", end(running)[0])


@pytest.mark.parametrize("content", ["", "\n", "# nobody yet\n"])
def test_a_file_without_keys_counts_as_missing_for_the_first_key(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").write_text(content)
    with start(tmp_path) as running:
        url = running.ready()
        assert httpx.get(f"{url}/models", timeout=60).status_code == 401
        assert re.search(r"bnp_\S+", end(running)[0])
    assert (tmp_path / "keys").read_text().startswith(content)
    assert names(tmp_path) == ["first"]


def test_a_file_without_keys_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    refused = start(tmp_path, BNP_MAKE_KEY="0")
    assert (printed(refused), refused.wait()) == ([], 2)
    for remedy in ("contains no key", "bnp-online keys new", "BNP_MAKE_KEY=1", "remove the file"):
        assert remedy in "".join(refused.lines)


@pytest.mark.parametrize("closed", ["a pipe without a reader", "a full device", "no descriptor"])
def test_a_key_that_cannot_be_printed_is_not_stored(tmp_path: Path, closed: str) -> None:
    if closed == "a pipe without a reader":
        reader, output = os.pipe()
        os.close(reader)
    else:
        output = os.open("/dev/full", os.O_WRONLY)
    code = "import os, sys; os.close(1); sys.stdout = None" if closed == "no descriptor" else ""
    try:
        silent = start(tmp_path, code, stdout=output)
        assert silent.wait() == 2
        assert "standard output" in "".join(silent.lines)
        assert "Traceback" not in "".join(silent.lines)
        assert "Exception ignored" not in "".join(silent.lines)
        ended = keys_new(tmp_path, "me", code, stdout=output)
        assert (ended.returncode, "standard output" in ended.stderr) == (2, True), ended.stderr
    finally:
        os.close(output)
    assert list(tmp_path.iterdir()) == []


def test_two_servers_that_start_at_once_make_one_key(tmp_path: Path) -> None:
    slow = "import os, time\nflush = os.fsync\ndef wait(f):\n    flush(f); time.sleep(1.0)\nos.fsync = wait"
    servers = [start(tmp_path, slow) for _ in range(2)]
    try:
        wait_until(lambda: any(server.process.poll() is not None for server in servers))
        loser = next(server for server in servers if server.process.poll() is not None)
        (winner,) = (server for server in servers if server is not loser)
        assert "another server" in "".join([*loser.lines, str(loser.wait())])
        url = winner.ready()
        keys = printed(loser)
        winner.stop()
        keys += printed(winner)
    finally:
        for server in servers:
            server.kill()
    assert len(keys) == 1
    with start(tmp_path) as running:
        url = running.ready()
        assert key_works(url, keys[0])
        end(running)


@pytest.mark.parametrize("fault", [FULL, *(KILLED.format(at=at, number=1) for at in ("fsync", "replace"))])
def test_a_failed_addition_leaves_the_file_as_it_was(tmp_path: Path, fault: str) -> None:
    assert keys_new(tmp_path, "me").returncode == 0
    before = (tmp_path / "keys").read_bytes()
    ended = keys_new(tmp_path, "you", fault)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "keys").read_bytes() == before
    again = keys_new(tmp_path, "you")
    assert (again.returncode, names(tmp_path)) == (0, ["me", "you"]), again.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]


def test_keys_are_added_at_once_by_several_processes(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(lambda i: keys_new(tmp_path, f"key-{i}"), range(6)))
    assert [each.returncode for each in ended] == [0] * 6
    assert sorted(names(tmp_path)) == [f"key-{i}" for i in range(6)]


def add(path: Path, name: str) -> None:
    add_key(parse_key(f"{name} read {new_secret()}", hashed=False), path)


def test_owner_mode_and_link_are_kept(tmp_path: Path) -> None:
    stored, link = tmp_path / "stored" / "keys", tmp_path / "keys"
    link.symlink_to(stored)
    add(link, "me")
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stat.S_IMODE(stored.parent.stat().st_mode) == 0o700
    stored.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(stored, 12345, 23456)
    before = stored.stat()
    add(link, "you")
    after = stored.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert link.is_symlink()
    assert names(tmp_path) == ["me", "you"]


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(KeysError, match="not a regular file"):
        add(tmp_path / "keys", "me")
    assert stat.S_ISFIFO((tmp_path / "keys").stat().st_mode)
