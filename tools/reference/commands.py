"""The command line, from the application that typer runs."""

from __future__ import annotations

from typing import Any

import typer

from service.cli.application import app
from tools.reference.markdown import document, table

_INTRODUCTION = """\
# Command line

`pip install 'bnp-online[cli]'` brings `bnp-online`; `bnp-online[cli,files]` reads Parquet too. Exit codes:
0 it is done, 1 it failed or a sample was refused, 2 it was used wrongly. `--json` prints for programs,
Ctrl-C leaves no file half written, `--install-completion` teaches the shell. Python's own way of calling it
is `python -m service.cli`.

Three more programs belong to the server: `python -m service` runs it as `serve` does, `python -m
service.keys new` makes [keys](../how-to/secure.md), and `python -m service.cli.repair` [passes over a damaged
event](../how-to/recover.md).
"""


def page() -> str:
    """Return the page of all commands."""
    group: Any = typer.main.get_command(app)
    overview = table(
        ["command", "what it does"],
        [(f"[`{name}`](#{name})", of.get_short_help_str(200)) for name, of in group.commands.items()],
    )
    return document(_INTRODUCTION, overview, *(_command(name, of) for name, of in group.commands.items()))


def _command(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=f"bnp-online {name}")
    records = [(each, each.get_help_record(context)) for each in command.params]
    rows = [(f"`{record[0]}`", _escaped(record[1])) for _, record in records if record is not None]
    usage = " ".join(command.get_usage(context).removeprefix("Usage:").split())
    return document(
        f"## {name}",
        f"```text\n{usage}\n```",
        command.help.replace("\f", ""),
        table(["argument or option", "what it is"], rows) if rows else "",
    )


def _escaped(text: str) -> str:
    r"""Return a text in which `[`, `<` and `{` are themselves."""
    return "".join(f"\\{c}" if c in "[]{}<>*_" else c for c in text)
