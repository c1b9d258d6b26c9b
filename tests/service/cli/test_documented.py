"""Fields of the output of each command: its help names them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import FAST, Done, command, write
from tests.support.running import Server

CSV = "a,colour\n" + "".join(f"{i % 5},{('red', 'blue')[i % 2]}\n" for i in range(12))
TARGET = ("--target", "colour")


def unknown(name: str, fields: set[str]) -> set[str]:
    """Return the fields that the help of a command does not name."""
    done = command(name, "--help", COLUMNS="200")
    assert done.code == 0
    text = re.sub(r"[│\s]+", " ", done.out)
    return {field for field in fields if not re.search(rf"(?<![\w]){re.escape(field)}(?![\w])", text)}


def run(*arguments: object) -> Done:
    done = command(*arguments)
    assert done.code == 0, done.err
    return done


def fields(*arguments: object) -> set[str]:
    """Return the names of the fields that a command prints as JSON."""
    found: Any = json.loads(run(*arguments, "--json").out)
    return {name for each in (found if isinstance(found, list) else [found]) for name in each}


def columns(*arguments: object) -> set[str]:
    """Return the names of the fields that a command prints in lines of JSON."""
    return {name for line in command(*arguments).out.splitlines() for name in json.loads(line)}


def test_the_help_names_the_fields(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "c.csv", CSV)
    write(tmp_path, "bad.csv", "a,colour\n1,red\n1,2,3\n")
    url, load = ("--url", server.url), ("--load", "model")
    learned = fields("learn", "c.csv", *TARGET, *FAST, "--save", "model")
    found = {
        "learn": learned
        | fields("learn", "c.csv", *TARGET, *FAST, *url, "--task", "classification", "-m", "m"),
        "predict": columns("predict", "bad.csv", *load, "--id", "a", "--with-input"),
        "explain": columns("explain", "bad.csv", *load, "--top", "1"),
        "replay": fields("replay", "Phishing", "--limit", 20, *FAST) - learned,
        "checkpoint": fields("checkpoint", "m", *url) | fields("checkpoint", "m", *url, "--list"),
        "rollback": fields("rollback", "m", *url, "--step", 5),
        "export": fields("export", "file", "-m", "m", *url),
        "import": fields("import", "file", "-m", "n", *url),
        "upgrade": fields("upgrade", "m", *url, "--kept"),
        "bench": fields("bench", "--seconds", 0.01),
        "doctor": fields("doctor", *url) | {"python", "device", "engine", "data_dir", "log", "ingest"},
        "models": {"metrics"},
    }
    assert "error" in found["predict"] & found["explain"]
    assert {"others", "label", "baseline"} <= found["explain"]
    assert {name: missing for name, each in found.items() if (missing := unknown(name, each))} == {}
