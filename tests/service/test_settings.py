"""Every setting is described where people look, and is read from the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.settings import Settings
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
