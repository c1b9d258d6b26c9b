"""Every setting is described where people look, and is read from the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from bnp_online.threads import set_threads, threads
from service.settings import Settings, read_settings
from tests.support.running import serving
from tools.reference.settings import page

NAMES = sorted(Settings.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_described(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")


def test_each_is_in_the_documentation() -> None:
    written = page()
    assert [name for name in NAMES if f"| `BNP_{name.upper()}` |" not in written] == []


def test_they_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNP_PORT", "9000")
    monkeypatch.setenv("BNP_DEFAULT_MODEL", '{"task": "regression", "hidden": []}')
    settings = Settings()
    assert settings.port == 9000
    assert (settings.default_model.task, settings.default_model.hidden) == ("regression", ())


@pytest.mark.parametrize("spec", ["{", "7", '{"layers": 3}', '{"name": "other"}', '{"hidden": "100"}'])
def test_a_wrong_default_model_is_refused(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.setenv("BNP_DEFAULT_MODEL", spec)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "abc", "BNP_PORT must be an integer. Port to listen on; 0 for any free port."),
        ("PORT", "70000", "BNP_PORT must be at most 65535. "),
        ("DURABILITY", "none", "BNP_DURABILITY must be 'full' or 'relaxed'. "),
        ("MAKE_KEY", "perhaps", "BNP_MAKE_KEY must be true or false. "),
        ("RETAIN_SECONDS", "inf", "BNP_RETAIN_SECONDS must be a finite number. "),
        ("CORS_ORIGINS", "a", "BNP_CORS_ORIGINS is not valid: an origin must be http"),
        ("DEFAULT_MODEL", '{"hidden": [0]}', "BNP_DEFAULT_MODEL: hidden[0] must be at least 1. "),
        ("DEFAULT_MODEL", '{"lr": "fast"}', "BNP_DEFAULT_MODEL: lr must be a number, or 'auto'. "),
        ("DEFAULT_MODEL", '{"hiden": []}', "BNP_DEFAULT_MODEL: hiden is not a known field: did you mean"),
        ("ROLE", "replica", "BNP_ROLE is not valid: the role replica needs BNP_STORE"),
        ("ROLE", "leader", "BNP_ROLE must be 'owner', 'standby' or 'replica'. "),
        ("SHARDS", "some", 'BNP_SHARDS is not valid: "auto", or numbers and ranges such as 0-31,40; '),
        ("SHARDS", "7-3", "BNP_SHARDS is not valid: shards have numbers from 0 to 65535"),
        ("SHARDS", "0-99999999999", "BNP_SHARDS is not valid: shards have numbers from 0 to 65535"),
        ("SHARDS", "", "BNP_SHARDS is not valid: shards have numbers from 0 to 65535"),
        ("ADDRESS", "a:8000", "BNP_ADDRESS is not valid: the address must be a URL http(s)://host:port"),
        ("ADDRESS", "http://a/b", "BNP_ADDRESS is not valid: the address must be a URL http(s)://host:port"),
        ("ADDRESS", "http://u:p@a", "BNP_ADDRESS is not valid: the address must have a host, and no user"),
        ("NODE", "a b", "BNP_NODE is not valid: a name of a node has letters, digits and . _ : - only"),
        ("MAX_STALENESS", "0", "BNP_MAX_STALENESS must be greater than 0. "),
        ("DEFAULT_MODEL", "{", "BNP_DEFAULT_MODEL is not valid JSON: "),
        ("DEFAULT_MODEL", '{"name": "a"}', 'BNP_DEFAULT_MODEL is not valid: "name" must be "default"'),
    ],
)
def test_a_wrong_setting_ends_the_program_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"BNP_{name}", value)
    with pytest.raises(SystemExit) as ended:
        read_settings()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(expected)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ('{"input_shape": [8, 8], "network": ["relu"]}', "BNP_DEFAULT_MODEL: network: ends with the shape"),
        ('{"task": "regression", "max_classes": 3}', "BNP_DEFAULT_MODEL: a regression has no classes: omit"),
    ],
)
def test_a_default_model_that_the_server_refuses_prevents_the_start(
    tmp_path: Path, spec: str, expected: str
) -> None:
    given = {"BNP_DEFAULT_MODEL": spec, "BNP_PORT": "0", "BNP_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "service"]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"The server cannot start: {expected}")
    assert "Traceback" not in done.stderr


def test_a_server_warns_of_a_name_that_is_almost_a_setting(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service"]
    given = {"BNP_STOER": "postgresql://a/b", "BNP_API_KEY": "key", "BNP_CPUS": "2", "BNP_HOST": "0.0.0.0"}
    environment = {**os.environ, **given, "BNP_DATA_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, "a server that others reach needs keys"
    assert done.stderr.count("did you mean") == 1
    assert "BNP_STOER is not a setting: did you mean BNP_STORE?" in done.stderr


def test_a_server_sets_the_number_of_threads_that_learn_a_model(tmp_path: Path) -> None:
    try:
        with serving(tmp_path, threads=2):
            assert threads() == 2
    finally:
        set_threads(None)
