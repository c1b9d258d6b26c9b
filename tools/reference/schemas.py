"""JSON schemas as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tools.reference.markdown import table

Schema = dict[str, Any]

_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "of {} or more characters",
    "maxLength": "of at most {} characters",
    "minItems": "of {} or more",
    "maxItems": "of at most {}",
    "pattern": "that matches `{}`",
}


def kind(schema: Schema, link: str = "") -> str:
    """Return the allowed values of a schema in words.

    Parameters
    ----------
    schema : dict
        JSON schema of the value.
    link : str
        Page that describes other objects.

    Examples
    --------
    >>> kind({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'integer ≥ 1 or null'
    >>> kind({"type": "array", "items": {"$ref": "#/components/schemas/Scores"}})
    'list of [Scores](#scores)'
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}]({link}#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind(each, link) for each in schema[several]))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{json.dumps(value)}`" for value in values)
    limits = [words.format(schema[name]) for name, words in _LIMITS.items() if name in schema]
    return " ".join([_type(schema, link), ", ".join(limits)]).strip()


def _type(schema: Schema, link: str) -> str:
    name = schema.get("type", "anything")
    if name == "array" and schema.get("items"):
        return f"list of {kind(schema['items'], link)}"
    if name == "array":
        return "list"
    if name == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind(schema['additionalProperties'], link)}"
    if name == "string" and schema.get("format") == "binary":
        return "bytes"
    return str(name)


def fields(schema: Schema) -> str:
    """Return a table of the fields of an object; an empty string without fields."""
    rows = list(_rows(schema))
    return table(["field", "kind", "default", "what it is"], rows) if rows else ""


def _rows(schema: Schema) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", ())
    for name, of in schema.get("properties", {}).items():
        default = "required" if name in required else ""
        if not default and of.get("default") is not None:
            default = f"`{json.dumps(of['default'], ensure_ascii=False)}`"
        yield f"`{name}`", kind(of), default, of.get("description", "")


def example(schema: Schema) -> str:
    """Return the first example of an object as a JSON block; an empty string without examples."""
    found = schema.get("examples")
    return f"```json\n{json.dumps(found[0], ensure_ascii=False)}\n```" if found else ""
