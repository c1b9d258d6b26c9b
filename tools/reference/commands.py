"""Reference page of the command line, from the typer application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from service.cli.application import app
from tools.reference.markdown import document, table

_INTRODUCTION = """\
# Command line

`pip install 'bnp-online[server]'` installs `bnp-online`; the extra `files` adds Parquet. Exit codes:
0 success, 1 failure or a refused sample, 2 wrong usage. `--json` prints JSON, `--install-completion`
installs completion for the shell, and Ctrl-C leaves no file half written. In a checkout,
`python -m service` is `bnp-online serve`.
"""


def page() -> str:
    """Return the page of all commands."""
    commands = list(_commands(typer.main.get_command(app)))
    overview = table(
        ["command", "what it does"],
        [(f"[`{name}`](#{name.replace(' ', '-')})", of.get_short_help_str(200)) for name, of in commands],
    )
    return document(_INTRODUCTION, overview, *(_command(name, of) for name, of in commands))


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the commands of a group and of the groups in it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


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
