"""Keys: how they are written down, made, reloaded, and what refuses the start of a server."""

from __future__ import annotations

import hashlib
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.auth.key_file import read_keys
from service.auth.keyring import Keyring
from service.auth.keys import Key, KeysError, new_secret, parse_key
from service.auth.scopes import SCOPES
from service.settings import Settings
from tests.support.programs import ROOT
from tests.support.server_process import end, process, restartable, wait_until

SECRET = "0123456789abcdef" * 2
EVERYWHERE = "0.0.0.0"
HASH = f"sha256:{hashlib.sha256(b'some key').hexdigest()}"
ALL = ",".join(SCOPES)


def run(*arguments: str, data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={"BNP_DATA_DIR": str(data), "BNP_PORT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def status(url: str, key: str, path: str = "/models") -> int:
    return httpx.get(f"{url}{path}", headers={"authorization": f"Bearer {key}"}, timeout=60).status_code


def test_a_line_reads_back() -> None:
    line = f"pump-7 learn,read {HASH} models=a,b.c expires=2030-01-02"
    key = parse_key(line, hashed=True)
    assert key.line() == line
    assert (key.name, set(key.scopes)) == ("pump-7", {"learn", "read"})
    assert key.covers("a")
    assert not key.covers("default")
    assert parse_key(f"all {ALL} {HASH}", hashed=True).covers("default")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("", "NAME SCOPES KEY"),
        ("name", "NAME SCOPES KEY"),
        (f"name {ALL}", "NAME SCOPES KEY"),
        (f"/name {ALL} {SECRET}", "name"),
        (f"name lern {SECRET}", "scopes"),
        (f"name learn,,read {SECRET}", "scopes"),
        (f"name {SECRET} learn", "scopes"),
        (f"name learn {SECRET[:31]}", "32"),
        (f"name learn {'é' * 40}", "32"),
        (f"name learn {SECRET} models=", "models="),
        (f"name learn {SECRET} models=a,,b", "models="),
        (f"name learn {SECRET} models=../a", "models="),
        (f"name learn {SECRET} expires=soon", "expires="),
        (f"name learn {SECRET} expires=2030-13-01", "expires="),
        (f"name learn {SECRET} admin", "models=… and expires=…"),
        (f"name learn {SECRET} {SECRET}", "models=… and expires=…"),
    ],
)
def test_a_wrong_entry_is_refused_without_being_quoted(entry: str, reason: str) -> None:
    with pytest.raises(KeysError, match=re.escape(reason)) as refused:
        parse_key(entry, hashed=False)
    assert SECRET not in str(refused.value)


def test_a_file_holds_no_key_itself(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# who has what\n\nname learn {SECRET}\n")
    with pytest.raises(KeysError, match=r"line 3: .*sha256:") as refused:
        read_keys(path)
    assert SECRET not in str(refused.value)


def test_comments_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# who has what\n\n  one learn {HASH}  # the pump\n\ttwo read {HASH} models=a\r\n")
    assert [key.name for key in read_keys(path)] == ["one", "two"]


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my keys"
    path.write_text(f"one learn {HASH}\n")
    settings = Settings(keys_file=path, api_keys=SecretStr(f" two read {SECRET} ;\n; three read {HASH};"))
    keyring = Keyring(settings)
    assert len(keyring.keys) == 3
    found = keyring.find(SECRET.encode())
    assert found is not None
    assert found.name == "two"
    assert SECRET not in repr(settings)
    path.write_text(f"two learn {HASH}\n")
    with pytest.raises(KeysError, match="same name: two"):
        Keyring(settings)


def test_no_two_keys_are_alike() -> None:
    made = {new_secret() for _ in range(1000)}
    assert len(made) == 1000
    assert min(map(len, made)) >= 43


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"BNP_HOST": EVERYWHERE}, "BNP_HOST: 0.0.0.0"),
        ({"BNP_HOST": "::"}, "BNP_HOST: ::"),
        ({"BNP_HOST": ""}, "BNP_HOST: "),
        ({"BNP_HOST": "a.name.that.nothing.has.invalid"}, "BNP_HOST: a.name"),
        ({"BNP_API_KEYS": f"name lern {SECRET}"}, "BNP_API_KEYS, entry 1: "),
        ({"BNP_API_KEYS": f"a read {HASH}; b learn short-{SECRET[:9]}"}, "BNP_API_KEYS, entry 2: "),
        ({"BNP_API_KEYS": f"a read {HASH};a learn {SECRET}"}, "same name: a"),
        (
            {"BNP_KEYS_FILE": "nowhere/keys"},
            "nowhere/keys: No such file or directory; `bnp-online keys new` creates it",
        ),
        ({"BNP_KEYS_FILE": "nowhere/keys", "BNP_MAKE_KEY": "1"}, "nowhere/keys: No such file"),
        ({"BNP_KEYS_FILE": "."}, "Is a directory"),
        ({"BNP_KEYS_FILE": "/dev/null"}, "contains no key"),
        ({"BNP_CORS_ORIGINS": "https://a.example,*"}, "BNP_CORS_ORIGINS is not valid: "),
        ({"BNP_CORS_ORIGINS": "https://a.example/path"}, "BNP_CORS_ORIGINS is not valid: "),
        ({"BNP_CORS_ORIGINS": "https://*.example"}, "BNP_CORS_ORIGINS is not valid: "),
    ],
)
def test_a_server_that_would_not_be_safe_does_not_start(
    tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    ended = run("service", data=tmp_path, **environment)
    assert ended.returncode == 2
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr
    assert SECRET[:9] not in ended.stderr + ended.stdout


def test_the_refusal_says_what_to_set(tmp_path: Path) -> None:
    ended = run("service", data=tmp_path, BNP_HOST=EVERYWHERE)
    for remedy in (
        "bnp-online keys new",
        "BNP_API_KEYS",
        "BNP_KEYS_FILE",
        "BNP_MAKE_KEY",
        "127.0.0.1",
    ):
        assert remedy in ended.stderr


def test_a_key_is_made_and_opens_the_server_to_other_machines(tmp_path: Path) -> None:
    data = tmp_path / "made" / "by the server"
    made = run("service.cli", "keys", "new", "--name", "me", "--scopes", "learn,read", data=data)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    more = run(
        "service.cli", "keys", "new", "--name", "other", "--scopes", "read", "--models", "a", "--expires",
        "2000-01-01", data=data,
    )  # fmt: skip
    file = data / "keys"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    assert [found.name for found in read_keys(file)] == ["me", "other"]
    with process(tmp_path, BNP_HOST=EVERYWHERE) as running:
        url = running.ready()
        assert status(url, key) == 200
        assert status(url, more.stdout.strip()) == 401
        assert httpx.get(f"{url}/models", timeout=60).status_code == 401
        assert httpx.get(f"{url}/health/ready", timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--name", "me", "--scopes", "read"), "has a key with the name me"),
        (("--name", "a b", "--scopes", "read"), "one word"),
        (("--name", "you", "--scopes", "all"), "scopes"),
        (("--name", "you", "--scopes", "read", "--models", "a/b"), "models="),
        (("--name", "you", "--scopes", "read", "--expires", "soon"), "expires"),
        (("--name", "you", "--scopes", "read", "--file", "/dev/null/keys"), "/dev/null"),
    ],
)
def test_a_key_that_cannot_be_made(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    line = f"me read {HASH}"
    (tmp_path / "keys").write_text(line)
    ended = run("service.cli", "keys", "new", *arguments, data=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert reason in ended.stderr
    assert (tmp_path / "keys").read_text() == line


def test_a_line_is_added_after_one_that_does_not_end(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"me read {HASH}")
    assert (
        run("service.cli", "keys", "new", "--name", "you", "--scopes", "read", data=tmp_path).returncode == 0
    )
    assert [key.name for key in read_keys(tmp_path / "keys")] == ["me", "you"]


def test_the_first_start_makes_a_key_and_prints_it_once(tmp_path: Path) -> None:
    file = tmp_path / "made" / "by the server" / "keys"
    keys = []
    for _ in range(2):
        with process(tmp_path, BNP_HOST=EVERYWHERE, BNP_MAKE_KEY="1") as running:
            url = running.ready()
            assert httpx.get(f"{url}/models", timeout=60).status_code == 401
            out, err = end(running)
            keys += re.findall(r"bnp_\S+", out)
            assert "bnp_" not in err
    (key,) = keys
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    with process(tmp_path, BNP_HOST=EVERYWHERE) as running:
        assert status(running.ready(), key) == 200


def test_no_first_key_is_made_where_there_is_one(tmp_path: Path) -> None:
    with process(tmp_path, BNP_MAKE_KEY="1", BNP_API_KEYS=f"me read {SECRET}") as running:
        assert status(running.ready(), SECRET) == 200
        assert end(running)[0] == ""
    assert not (tmp_path / "made" / "by the server" / "keys").exists()


def line(name: str, secret: str) -> str:
    return parse_key(f"{name} read {secret}", hashed=False).line() + "\n"


def test_the_file_is_read_again_on_sighup(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, second = new_secret(), new_secret()
    file.write_text(line("first", first))
    with process(tmp_path, BNP_KEYS_FILE=str(file)) as running:
        url = running.ready()
        assert (status(url, first), status(url, second)) == (200, 401)

        def hang_up(text: str | None, expected: str) -> None:
            """Change the file, tell the server, and wait for what it says of it."""
            file.unlink() if text is None else file.write_text(text)
            running.process.send_signal(signal.SIGHUP)
            said = running.wait_for("API keys").string
            assert expected in said
            assert first not in said
            assert second not in said

        hang_up(line("first", first) + line("second", second), "reloaded: first, second")
        assert (status(url, first), status(url, second)) == (200, 200)
        hang_up(line("second", second), "reloaded: second")
        assert (status(url, first), status(url, second)) == (401, 200)
        for broken, why in (
            (f"{line('first', first)}second read {second}\n", "line 2"),
            ("", "contains no key"),
            (None, "No such file"),
        ):
            hang_up(broken, why)
            assert (status(url, first), status(url, second)) == (401, 200)
            file.touch()
        hang_up(line("first", first), "reloaded: first")
        assert (status(url, first), status(url, second)) == (200, 401)


@pytest.mark.parametrize("environment", [{}, {"BNP_API_KEYS": f"me read {SECRET}"}])
def test_sighup_without_a_file_of_keys_is_logged_and_harmless(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with process(tmp_path, **environment) as running:
        url = running.ready()
        running.process.send_signal(signal.SIGHUP)
        assert running.wait_for("API keys reloaded: (me|there are none)")[1] == (
            "me" if environment else "there are none"
        )
        assert status(url, SECRET) == 200
        assert status(url, "unknown") == (401 if environment else 200)


def test_sighup_reads_a_file_of_keys_that_was_created_since(tmp_path: Path) -> None:
    file = tmp_path / "made" / "by the server" / "keys"
    key = new_secret()
    with process(tmp_path) as running:
        url = running.ready()
        file.write_text("")
        running.process.send_signal(signal.SIGHUP)
        assert "contains no key" in running.wait_for("API keys not reloaded").string
        assert status(url, "unknown") == 200
        file.write_text(line("me", key))
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("API keys reloaded: me")
        assert (status(url, key), status(url, "unknown")) == (200, 401)
        file.unlink()
        running.process.send_signal(signal.SIGHUP)
        assert "No such file" in running.wait_for("API keys not reloaded").string
        assert (status(url, key), status(url, "unknown")) == (200, 401)


@pytest.mark.parametrize(
    "called", ["sys.setswitchinterval", "gc.disable"]
)  # before and after the keys are read
def test_sighup_during_the_start_is_logged_and_harmless(tmp_path: Path, called: str) -> None:
    code = f"import gc, os, signal, sys; {called} = lambda *_: os.kill(os.getpid(), signal.SIGHUP)"
    with restartable(tmp_path, code) as server:
        client = server.start()
        wait_until(lambda: any("API keys reloaded: there are none" in line for line in server.running.lines))
        assert client.get("/models").status_code == 200


def test_a_key_is_found_among_many() -> None:
    secrets = [new_secret() for _ in range(50)]
    entries = ";".join(f"key-{i} read {secret}" for i, secret in enumerate(secrets))
    keyring = Keyring(Settings(api_keys=SecretStr(entries)))
    found = [keyring.find(secret.encode()) for secret in secrets]
    assert [key.name if isinstance(key, Key) else None for key in found] == [f"key-{i}" for i in range(50)]
    assert keyring.find(b"") is None
