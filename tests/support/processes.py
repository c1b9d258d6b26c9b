"""The server as a process of its own, as a person starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def process(tmp_path: Path, *code: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m service``, or Python code in its place."""
    data = tmp_path / "made" / "by the server"
    running = subprocess.Popen(
        [sys.executable, *(("-c", *code) if code else ("-m", "service"))],
        cwd=ROOT,
        env={**os.environ, "BNP_PORT": "0", "BNP_DATA_DIR": str(data), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


def address(running: subprocess.Popen[str]) -> str:
    """Wait until the server says where it listens."""
    assert running.stderr is not None
    for line in running.stderr:
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    raise AssertionError("the server ended")
