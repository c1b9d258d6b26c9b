"""Server in a child process: for the demo, the tests and the benchmarks."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

#: Name of the package above: ``service`` in a checkout, ``bnp_online_server`` where it is installed.
PACKAGE = __name__.partition(".")[0]


class StartError(Exception):
    """The server did not start, or a line of its log did not come in time."""


class ServerProcess:
    """Server in a child process, started by the constructor and stopped at the end of a ``with`` block.

    Parameters
    ----------
    *arguments : str
        Arguments for Python; ``-m service`` if none are given.
    cwd : path, optional
        Working directory.
    echo : bool
        Whether to copy the log of the server to standard error.
    stdout : int, optional
        As for `subprocess.Popen`.
    environment : dict, optional
        Settings (``BNP_…``) and other environment variables, added to those of this process. The log level
        is ``info`` unless it is given here.

    Attributes
    ----------
    process : subprocess.Popen
        The child process.
    lines : list of str
        Lines of its log so far.

    Examples
    --------
    >>> with ServerProcess(environment={"BNP_PORT": "0", "BNP_DATA_DIR": "data"}) as server:  # doctest: +SKIP
    ...     print(server.ready())
    http://127.0.0.1:43211
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        echo: bool = False,
        stdout: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.lines: list[str] = []
        self._echo = echo
        self._unread: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        own = {**os.environ, "BNP_LOG_LEVEL": "info", **(environment or {})}
        self.process = self._start(arguments or ("-m", PACKAGE), cwd, stdout, own)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _start(
        self, arguments: Sequence[str], cwd: Path | None, stdout: int | None, environment: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 (arguments of the caller's own)
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the server
        )

    def _read(self) -> None:
        assert self.process.stderr is not None  # noqa: S101 (it is a pipe)
        with self.process.stderr as log:
            for line in log:
                self.lines.append(line)
                self._unread.put(line)
                if self._echo:
                    print(line, end="", file=sys.stderr, flush=True)
        self._unread.put(None)

    def ready(self, timeout: float = 120.0) -> str:
        """Wait until the server accepts requests, and return its URL on this machine.

        Raises
        ------
        StartError
            If the server ends, or is not ready after `timeout` seconds.
        """
        url = self.wait_for(r"running on (http://\S+)", timeout)[1]
        return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")

    def wait_for(self, pattern: str, timeout: float = 120.0) -> re.Match[str]:
        """Return the match of the next line of the log that contains a regular expression.

        Raises
        ------
        StartError
            If the server ends, or there is no such line after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with suppress(queue.Empty):
            while (line := self._unread.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                if found := re.search(pattern, line):
                    return found
            self._unread.put(None)  # for the next call
            raise StartError(f"the server ended with exit code {self.wait()}:\n{''.join(self.lines)}")
        raise StartError(f"the server did not log {pattern!r} within {timeout:g} s:\n{''.join(self.lines)}")

    def wait(self, timeout: float | None = 60.0) -> int:
        """Wait until the process has ended, and return its exit code."""
        code = self.process.wait(timeout)
        self._reader.join()
        return code

    def stop(self, timeout: float = 60.0) -> int:
        """Ask the server to end (SIGTERM), and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        self.process.kill()
        self.wait()

    def memory(self) -> int:
        """Return the resident memory of the process in bytes (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s*(\d+)", status)
        return 1024 * int(found[1]) if found else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            self.stop()
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()
