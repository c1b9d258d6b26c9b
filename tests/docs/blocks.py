"""Commands of a page, run in order in one shell and one folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_BLOCK = re.compile(r"^```(sh|python|json|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Commands for other tests, which install, build and start containers.
_ELSEWHERE = re.compile(r"^\s*(make|source|pip|docker|sudo)\b", re.MULTILINE)
_SERVE = re.compile(r"^(BNP_\w+=\S+ )*bnp-online serve$", re.MULTILINE)
#: A server in the background, once it is ready (or has ended).
_STARTED = """{command} >>server.log 2>&1 &
until curl -s --output /dev/null localhost:8000/health/live || ! kill -0 $!; do sleep 0.1; done"""
_MARK = "@@ block"


@dataclass(frozen=True)
class Block:
    """A block of a page, and the JSON or text block below it, if any."""

    language: str
    text: str
    answer: Any
    output: str | None = None


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page that are commands or programs, in order."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    for (language, text), (next_language, next_text) in zip(found, [*found[1:], ("", "")], strict=True):
        if language in ("sh", "python") and not _ELSEWHERE.search(text) and not text.startswith(">>>"):
            answer = json.loads(next_text) if next_language == "json" else None
            yield Block(language, text, answer, next_text if next_language == "text" else None)


def _script(commands: list[Block], messages: bool) -> str:
    lines = ["set -euo pipefail", "exec 2>&1" if messages else ""]
    for block in commands:
        text = f"python - <<'END'\n{block.text}END" if block.language == "python" else block.text
        lines += [_SERVE.sub(lambda found: _STARTED.format(command=found[0]), text), f"echo; echo '{_MARK}'"]
    return "\n".join(lines)


def _programs(folder: Path, url: str) -> str:
    """Write programs ``bnp-online`` and ``python`` of this environment, and return the PATH with them."""
    # The command line's own default is port 8000, which may be taken here.
    command = f"from bnp_online.client import clients; clients.DEFAULT_URL = '{url}'; "
    command += "from service.cli import main; main()"
    for name, arguments in {"bnp-online": f'-c "{command}"', "python": ""}.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        program.chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


def run(commands: list[Block], folder: Path, *, messages: bool = False) -> list[str]:
    """Run blocks in a new folder, and return the output of each; a failed command is an error.

    Parameters
    ----------
    commands, folder
        The blocks, and where to run them.
    messages : bool
        Whether the output includes standard error.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    programs, place = folder / "bin", folder / "place"
    programs.mkdir()
    place.mkdir()
    path = _programs(programs, f"http://localhost:{port}")
    shell = subprocess.Popen(
        ["bash", "-c", _script(commands, messages).replace("localhost:8000", f"localhost:{port}")],
        cwd=place,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "BNP_PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, said = shell.communicate(timeout=200)
    finally:
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(shell.pid, signal.SIGKILL)  # the servers of the page with it
    assert shell.returncode == 0, f"{printed}\n{said}\n{_log(place)}"
    return printed.split(_MARK)[:-1]


def _log(place: Path) -> str:
    log = place / "server.log"
    return log.read_text() if log.exists() else ""


def agrees(shown: Any, printed: Any) -> bool:
    """Return whether an answer equals that of the page, in which ``"…"`` matches any value."""
    if shown == "…":
        return True
    if isinstance(shown, dict) and isinstance(printed, dict):
        return shown.keys() == printed.keys() and all(agrees(shown[key], printed[key]) for key in shown)
    if isinstance(shown, list) and isinstance(printed, list):
        return len(shown) == len(printed) and all(map(agrees, shown, printed))
    return type(shown) is type(printed) and bool(shown == printed)


def matches(shown: str, printed: str) -> bool:
    """Return whether an output is that of the page.

    A line ``…`` stands for any lines, and ``…`` within a line for any text.
    """
    pattern = ""
    for line in shown.splitlines():
        if line == "…":
            pattern += r"(?:.*\n)*"
        else:
            pattern += r"[^\n]*".join(map(re.escape, line.split("…"))) + r" *\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed.strip().splitlines())) is not None
