"""Reference page of the settings, from `service.settings`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from service.settings import Settings
from service.source_urls import SourceUrl
from tools.reference.markdown import code, document, table
from tools.reference.schemas import kind

_INTRODUCTION = """\
# Settings

Each setting is an environment variable. `docker compose` also reads them from a file `.env`, and `bnp-online
serve` has options for the first of them. With a wrong value the server does not start: it names the setting
and ends with exit code 2. [The container](../container.md) has more settings (`BNP_PUBLISHED_PORT`,
`BNP_CPUS`, …).
"""


def page() -> str:
    """Return the page of all settings."""
    prefix = Settings.model_config["env_prefix"]
    schemas = Settings.model_json_schema()["properties"]
    rows = [
        (f"`{prefix}{name.upper()}`", _default(field), _values(field, schemas[name]), _description(field))
        for name, field in Settings.model_fields.items()
    ]
    return document(_INTRODUCTION, table(["setting", "default", "values", "what it is"], rows))


def _description(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is PydanticUndefined or value is None or value == ():
        return ""
    if isinstance(value, BaseModel):
        return "`{}`"
    return code(int(value) if isinstance(value, bool) else value)


def _values(field: FieldInfo, schema: dict[str, Any]) -> str:
    if isinstance(field.default, BaseModel):
        return f"[{type(field.default).__name__}](http.md#{type(field.default).__name__.lower()}) as JSON"
    if field.annotation == SecretStr | None:
        return "string"
    if field.annotation == tuple[SourceUrl, ...]:
        return "[URLs](../how-to/ingest.md#settings)"
    said = kind(schema, link="http.md").removesuffix(" or null")
    return {"boolean": "0 or 1", "list of string": "words"}.get(said, said)
