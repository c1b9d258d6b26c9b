"""PostgreSQL for tests: a server in a temporary folder, and proxies that cut its connections."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

_USER = "postgres"
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
shared_buffers = 64MB
autovacuum = off
max_wal_size = 256MB
"""


def program(name: str) -> str | None:
    """Return the path of a program of PostgreSQL; None if it is not installed."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    return shutil.which(name) or (found[-1] if found else None)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """Server with a data folder of its own, which an unprivileged user runs.

    Parameters
    ----------
    folder : path
        New folder, outside the folders of pytest, which other users cannot enter.
    fsync : str
        Whether commits are flushed to the disk, ``on`` or ``off``.
    primary : PostgresServer, optional
        The server that it follows, as a streaming replica named ``replica``.
    wal : path, optional
        Folder of the write-ahead log, which does not exist; by default in the data folder.
    """

    def __init__(
        self, folder: Path, fsync: str, primary: PostgresServer | None = None, wal: Path | None = None
    ) -> None:
        self._folder, self._data = folder, folder / "data"
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
        self._make(primary, wal)
        self.port = free_port()
        self.configure(f"{_SETTINGS}fsync = {fsync}\nport = {self.port}")
        self._names = itertools.count()

    def _make(self, primary: PostgresServer | None, wal: Path | None) -> None:
        if primary is None:
            options = ["--auth=trust", "--encoding=UTF8", "--no-locale", f"--username={_USER}", "--no-sync"]
            self._run("initdb", *options, *([] if wal is None else ["--waldir", str(wal)]))
        else:
            source = f"host=127.0.0.1 port={primary.port} user={_USER} application_name=replica"
            self._run("pg_basebackup", "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", source)

    def configure(self, *settings: str) -> None:
        """Add lines to the configuration file; `start` or `reload` reads them."""
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join(settings) + "\n")

    def reload(self) -> None:
        """Read the configuration file again."""
        self._run("pg_ctl", "reload")

    def allow(self, network: str) -> None:
        """Trust the machines of a network; a restart reads it."""
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network} trust\n")

    def promote(self) -> None:
        """Make a replica the primary."""
        self._run("pg_ctl", "promote", "-w")

    def _run(self, name: str, *arguments: str) -> None:
        path = program(name)
        assert path is not None
        command = [path, "-D", str(self._data), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", _USER, "--", *command]
        done = subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        self._run("pg_ctl", "start", "-w", "-l", str(self._folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; with mode ``immediate`` as in a crash."""
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped."""
        return (self._data / "postmaster.pid").exists()

    def restart(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "restart", "-w", "-m", mode, "-l", str(self._folder / "log"))

    def url(self, schema: str | None = None, port: int | None = None) -> str:
        """Return the URL of a schema: each is a cluster of its own."""
        path = f"?options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql://{_USER}@127.0.0.1:{port or self.port}/postgres{path}"

    def schema(self) -> str:
        """Create a schema; return its name."""
        name = f"s{next(self._names)}"
        self.execute(f"CREATE SCHEMA {name}")
        return name

    def execute(self, statement: str, schema: str | None = None) -> list[tuple[Any, ...]]:
        """Execute a statement, and return its rows."""
        with contextlib.closing(psycopg.connect(self.url(schema), autocommit=True)) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def contents(self, schema: str) -> bytes:
        """Return all rows of all tables of a schema."""
        where = f"WHERE table_schema = '{schema}' AND table_type = 'BASE TABLE'"
        tables = self.execute(f"SELECT table_name FROM information_schema.tables {where}")  # noqa: S608
        content = b""
        with contextlib.closing(psycopg.connect(self.url(schema))) as connection:
            for (table,) in tables:
                query = f"COPY (SELECT * FROM {table}) TO STDOUT (FORMAT binary)"  # noqa: S608
                with connection.cursor().copy(query) as rows:
                    content += b"".join(map(bytes, rows))
        return content

    @contextlib.contextmanager
    def full(self, schema: str) -> Iterator[None]:
        """Refuse writes to the tables of events and checkpoints as on a full disk."""
        raising = "BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END"
        function = f"FUNCTION full_() RETURNS trigger LANGUAGE plpgsql AS $$ {raising} $$"
        self.execute(f"CREATE OR REPLACE {function}", schema)
        for table in ("event", "checkpoint", "probe"):
            trigger = f"CREATE TRIGGER full_ BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
            self.execute(f"{trigger} EXECUTE FUNCTION full_()", schema)
        try:
            yield
        finally:
            for table in ("event", "checkpoint", "probe"):
                self.execute(f"DROP TRIGGER full_ ON {table}", schema)


@contextlib.contextmanager
def running(
    fsync: str,
    primary: PostgresServer | None = None,
    place: Path | None = None,
    wal: Path | None = None,
) -> Iterator[PostgresServer]:
    """Run a server, or skip the test where PostgreSQL is not installed; see `PostgresServer`.

    Its folder is in `place`, by default that of temporary files.
    """
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="bnp-postgres-", dir=place) as folder:
        server = PostgresServer(Path(folder), fsync, primary, wal)
        server.start()
        try:
            yield server
        finally:
            if server.running:
                server.stop("immediate")


class Proxy:
    """TCP proxy in front of a server that can cut connections.

    Parameters
    ----------
    port : int
        Port of the server.

    Attributes
    ----------
    port : int
        Port of the proxy.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        self.refusing = False
        #: Called with a connection's number and what its client sends or the server answers; True cuts it.
        self.before: Callable[[int, bytes], bool] = lambda *_: False
        self.after: Callable[[int, bytes], bool] = lambda *_: False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = None
                if not self.refusing:
                    with contextlib.suppress(ConnectionRefusedError):
                        server = socket.create_connection(("127.0.0.1", self._target))
                if server is None:
                    client.close()
                    continue
                self._ends += client, server
                number = len(self._ends)
                for source, target, name in ((client, server, "before"), (server, client, "after")):
                    self._threads.append(
                        threading.Thread(target=self._copy, args=(source, target, number, name))
                    )
                    self._threads[-1].start()

    def _copy(self, source: socket.socket, target: socket.socket, number: int, name: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                if getattr(self, name)(number, data):
                    break
                target.sendall(data)
        _shut(source, target)

    def cut(self) -> None:
        """Cut all connections."""
        _shut(*self._ends)

    def close(self) -> None:
        self.refusing = True
        _shut(self._listener)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()


class Cut:
    """Cuts a connection once, when its client sends a text or before it gets the answer."""

    def __init__(self, proxy: Proxy, text: bytes, *, answered: bool, refuse: bool = False) -> None:
        self._text, self.done = text, False
        self._sent: int | None = None  # the number of the connection
        self._proxy, self._answered, self._refuse = proxy, answered, refuse
        proxy.before, proxy.after = self._before, self._after

    def _before(self, connection: int, data: bytes) -> bool:
        if self._sent is None and self._text in data:
            self._sent = connection
        return self._sent == connection and not self._answered and self._now()

    def _after(self, connection: int, _: bytes) -> bool:
        return self._sent == connection and self._answered and self._now()

    def _now(self) -> bool:
        first, self.done = not self.done, True
        if first:
            self._proxy.refusing = self._refuse
        return first


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
