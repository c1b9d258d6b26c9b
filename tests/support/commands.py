"""Commands of ``bnp-online`` in this process: starting Python and PyTorch for each takes seconds."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from service.cli.application import run

#: Options of a model that learns fast.
FAST = ("--spec", '{"hidden": [], "replay": 0, "lr": 0.3}')


class Done(NamedTuple):
    """Result of a command."""

    code: int
    out: str
    err: str


def command(*arguments: object, given: bytes = b"", **environment: str) -> Done:
    """Run a command with a standard input and environment variables."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace")]
    with (
        patch.dict("os.environ", {"BNP_DEVICE": "cpu", **environment}),
        patch.multiple(
            sys,
            argv=["bnp-online", *map(str, arguments)],
            stdin=io.TextIOWrapper(io.BytesIO(given)),
            stdout=streams[0],
            stderr=streams[1],
        ),
    ):
        code = run()
    out, err = (_content(stream) for stream in streams)
    assert "Traceback" not in err
    return Done(code, out, err)


def _content(stream: io.TextIOWrapper) -> str:
    stream.flush()
    content: bytes = stream.buffer.getvalue()  # type: ignore[attr-defined]  # a BytesIO
    return content.decode()


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a file in a folder."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
