"""The site: complete, consistent with the code, and without requests to other hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from prometheus_client.parser import text_string_to_metric_families

import bnp_online
from bnp_online.client import Client
from service.app import create_app
from service.cli.application import app as commands
from service.errors import HTTP_CODES, TABLE
from service.settings import Settings
from tests.docs.blocks import ROOT
from tests.docs.conftest import Page
from tests.support.running import serving


def test_no_page_needs_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    assert [url for page in pages for url in Page(page).loads if re.match(r"(\w+:)?//", url)] == []
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"]+", styles) == []


def test_each_setting_is_described_with_its_default(site: Path) -> None:
    text = Page(site / "reference" / "settings.html").text
    for name, field in Settings.model_fields.items():
        assert f"BNP_{name.upper()} " in text
        assert field.description
        assert re.sub(r"[`\s]", "", field.description) in re.sub(r"\s", "", text)
    assert "BNP_PORT 8000 integer" in text


def test_each_route_is_described_with_its_scope_and_its_errors(site: Path, tmp_path: Path) -> None:
    text = Page(site / "reference" / "http.html").text
    document = create_app(Settings(host="127.0.0.1", data_dir=tmp_path)).openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _, _, rest = text.rpartition(f"{method.upper()} {path} ¶")
            assert rest, f"{method} {path}"
            for scope in (
                scope for each in operation["security"] for found in each.values() for scope in found
            ):
                assert rest.split(".", 1)[0].strip().endswith(f"scope {scope}")
            for status, answer in operation["responses"].items():
                codes = re.findall(r"`(\w+)`", answer["description"]) if status >= "400" else []
                assert all(code in rest for code in codes)
    for name, schema in document["components"]["schemas"].items():
        assert f"{name} ¶" in text
        assert all(field in text for field in schema.get("properties", ()))


def test_each_error_is_described(site: Path) -> None:
    text = Page(site / "reference" / "errors.html").text
    codes = {row.code for row in TABLE.values() if row.code} | set(HTTP_CODES.values())
    assert codes - set(re.findall(r"\w+", text)) == set()
    assert "too_many_classes" in text  # one that a sample's error carries


def test_each_command_is_described_with_its_options(site: Path) -> None:
    text = Page(site / "reference" / "command-line.html").text
    described = dict(_commands(typer.main.get_command(commands)))
    assert "keys new" in described
    for name, command in described.items():
        assert f"{name} ¶" in text
        for option in command.params:
            assert max(option.opts, key=len) in text


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the commands of a group, with those of the groups in it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def test_each_metric_is_described(site: Path, tmp_path: Path) -> None:
    text = Page(site / "reference" / "metrics.html").text
    with serving(tmp_path / "data") as server:
        server.learn({"a": 1.0}, "b")
        families = list(text_string_to_metric_families(server.client.get("/metrics").text))
    named = [family for family in families if not family.name.endswith("_created")]
    assert len(named) > 5
    for family in named:
        assert re.search(rf"\b{family.name}(_total)? {family.type}\b", text), family.name
        assert " ".join(family.documentation.split()) in text


def test_each_public_name_is_described(site: Path) -> None:
    text = Page(site / "reference" / "python.html").text
    calls = [name for name in vars(Client) if not name.startswith("_")]
    assert "predict_proba_one" in calls
    assert [name for name in [*bnp_online.__all__, *calls] if f"{name} ¶" not in text] == []


def test_formulas_need_no_script(site: Path) -> None:
    text = (site / "algorithm.html").read_text(encoding="utf-8")
    assert text.count("<math ") > 20
    assert "arithmatex" not in text


def test_results_of_record_stand_in_the_comparison(site: Path) -> None:
    text = Page(site / "comparison.html").text
    assert "figures:" not in (site / "comparison.html").read_text(encoding="utf-8")
    assert "predict and learn, digits" in text


def test_pages_from_above_are_there(site: Path) -> None:
    for page, source in {"security": "SECURITY.md", "changelog": "CHANGELOG.md"}.items():
        title = (ROOT / source).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        assert f"{title} ¶" in Page(site / f"{page}.html").text
