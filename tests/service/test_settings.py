"""Every setting is described where people look, and is read from the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.settings import Settings, read_settings
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
        ("DEFAULT_MODEL", '{"hidden": [0]}', "BNP_DEFAULT_MODEL: hidden.0 must be at least 1. "),
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
