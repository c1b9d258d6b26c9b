"""Servers in processes of their own that begin after the imports, which are two thirds of a start.

A process that has imported the server, and done nothing else, forks for each start. The new process has a
session, a working folder, an environment, standard output and standard error of its own. It runs the main
module as `python -m service` does, and ends as that does.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from service.cli.launch import ServerProcess
from tests.support.programs import ROOT

_MODULES = "bnp_online.estimators", "service.app", "service.auth.key_file"
_RUN = "import runpy; runpy.run_module('service', run_name='__main__')"
#: Bytes of a request, at most, and of a number.
_LARGEST, _NUMBER = 2**20, 8


class _Parent:
    """Process that has imported the server."""

    def __init__(self) -> None:
        self._end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            command = [sys.executable, "-m", __name__, str(other.fileno())]
            self._process = subprocess.Popen(
                command, cwd=ROOT, pass_fds=[other.fileno()], start_new_session=True
            )

    def fork(self, request: Mapping[str, object], *descriptors: int) -> None:
        """Start a process with standard output, standard error, and a pipe for its number and its end."""
        socket.send_fds(self._end, [json.dumps(request).encode()], descriptors)

    def __del__(self) -> None:
        self._end.close()  # it ends
        self._process.wait()


@functools.cache
def _parents() -> Iterator[_Parent]:
    """Two in turn, so that a server starts again with other hashes of strings, as another process does."""
    return itertools.cycle([_Parent(), _Parent()])


class PreloadedServer(ServerProcess):
    """`ServerProcess` that begins after the imports."""

    def _start(
        self, arguments: Sequence[str], cwd: Path | None, stdout: int | None, environment: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        assert arguments == ("-m", "service")
        return _Process(cwd or Path.cwd(), stdout, environment)


class _Process(subprocess.Popen[str]):
    """Process of a server, with the methods of `subprocess.Popen` that `ServerProcess` uses.

    Parameters
    ----------
    cwd : path
        Working folder.
    stdout : int, optional
        `subprocess.PIPE` or a descriptor; by default its standard output is discarded.
    environment : dict
        All environment variables.
    """

    def __init__(self, cwd: Path, stdout: int | None, environment: Mapping[str, str]) -> None:
        self.args = "service"
        self.returncode = None
        self.stdin = self.stdout = None
        with contextlib.ExitStack() as stack:
            self.stderr, errors = _pipe(stack)
            if stdout == subprocess.PIPE:
                self.stdout, stdout = _pipe(stack)
            elif stdout is None:
                stdout = stack.enter_context(open(os.devnull, "wb")).fileno()
            self._ended, other = os.pipe()
            stack.callback(os.close, other)
            request = {"cwd": str(cwd), "environment": dict(environment)}
            next(_parents()).fork(request, stdout, errors, other)
        self.pid = self._read()

    def _read(self) -> int:
        number = os.read(self._ended, _NUMBER)
        assert number, "the process that forks has ended"
        return int.from_bytes(number, "big", signed=True)

    def poll(self) -> int | None:
        """Return the exit code if the process has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when the process has ended."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = self._read()
            os.close(self._ended)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)


def _pipe(stack: contextlib.ExitStack) -> tuple[IO[str], int]:
    """Make a pipe, and return its ends; `stack` closes the second one."""
    reader, writer = os.pipe()
    stack.callback(os.close, writer)
    return os.fdopen(reader), writer


def _serve(end: socket.socket) -> None:
    """Fork for each request, and tell how each process ended. Return in a new process."""
    running: dict[int, int] = {}
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([end.fileno(), ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            for pid, pipe in [*running.items()]:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    _write(pipe, os.waitstatus_to_exitcode(status))
                    os.close(running.pop(pid))
        if end.fileno() in ready:
            content, descriptors, _, _ = socket.recv_fds(end, _LARGEST, 3)
            if not content:
                sys.exit()
            output, errors, pipe = descriptors
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _become(json.loads(content), output, errors)
                for descriptor in (ended, wake, end.detach(), *descriptors, *running.values()):
                    os.close(descriptor)
                return
            _write(pipe, pid)
            running[pid] = pipe
            os.close(output)
            os.close(errors)


def _write(pipe: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test has ended
        os.write(pipe, number.to_bytes(_NUMBER, "big", signed=True))


def _become(request: dict[str, object], output: int, errors: int) -> None:
    """Take the place of a new process."""
    os.setsid()
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.chdir(str(request["cwd"]))
    environment = request["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    for module in _MODULES:
        __import__(module)
    _serve(socket.socket(fileno=int(sys.argv.pop())))
    exec(_RUN)  # noqa: S102 (the line above)
