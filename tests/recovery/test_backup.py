"""Backup and restore of a log in PostgreSQL, by the commands of the documentation."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docs.blocks import DOCS, blocks
from tests.support.postgres import PostgresServer, program
from tests.support.server_process import restartable, wait_until

_ARCHIVE = "archive_mode = on\narchive_command = 'test ! -f {0}/%f && cp %p {0}/%f'\n"


def commands(*words: str) -> str:
    """Return the block of the page with these words."""
    (found,) = (each.text for each in blocks(DOCS / "cluster.md") if all(word in each.text for word in words))
    return found


class ArchivingServer(PostgresServer):
    """Server that archives its write-ahead log."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "on")
        self.folder, self.archive = folder, folder / "archive"
        self.archive.mkdir()
        self._own(self.archive)
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(_ARCHIVE.format(self.archive))

    def _own(self, path: Path) -> None:
        if os.getuid() == 0:
            for each in (path, *path.rglob("*")):
                shutil.chown(each, "postgres", "postgres")

    def shell(self, text: str, **environment: str) -> None:
        """Run commands of the page in the folder of the server."""
        tools = program("pg_dump")
        assert tools is not None
        place = {"PATH": f"{Path(tools).parent}:{os.environ['PATH']}", "BNP_STORE": self.url()}
        done = subprocess.run(
            ["bash", "-euc", text.replace("/archive", str(self.archive))],
            cwd=self.folder,
            env={**os.environ, **place, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def lose(self) -> None:
        """Lose the disk with the data."""
        self.stop("immediate")
        shutil.rmtree(self._data)

    def replace(self, folder: Path) -> None:
        """Use another folder of data."""
        self._own(folder)
        shutil.move(folder, self._data)
        self.start()


@pytest.fixture
def server() -> Iterator[ArchivingServer]:
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="bnp-postgres-") as folder:
        running = ArchivingServer(Path(folder))
        running.start()
        try:
            yield running
        finally:
            running.stop("immediate")


@contextlib.contextmanager
def serving(folder: Path, store: str) -> Iterator[httpx.Client]:
    """Run a node; yield a client of it when it owns the default model."""
    with restartable(folder, BNP_STORE=store) as node:
        client = node.start()
        wait_until(lambda: client.get("/models/default").status_code == 200)
        yield client


def learn(client: httpx.Client, first: int, last: int) -> str:
    """Learn samples, and return the fingerprint of the model."""
    for i in range(first, last):
        sample = {"x": {"a": i % 7, "b": i % 3}, "y": i % 2, "id": f"s{i}"}
        assert client.post("/learn", json=sample).json()["step"] == i + 1
    return client.get("/models/default/fingerprint").text


def test_the_commands_of_the_page_restore_the_model(server: ArchivingServer, tmp_path: Path) -> None:
    with serving(tmp_path / "one", server.url()) as client:
        dumped = learn(client, 0, 30)
        server.shell(commands("pg_dump"))
        server.shell(commands("pg_basebackup"))
        last = learn(client, 30, 60)

    restored = f"{server.url().rpartition('/')[0]}/restored"
    server.shell(commands("pg_restore"), RESTORED=restored)
    with serving(tmp_path / "two", restored) as client:
        assert learn(client, 30, 30) == dumped

    ((segment,),) = server.execute("SELECT pg_walfile_name(pg_current_wal_lsn())")
    server.execute("SELECT pg_switch_wal()")
    archived = f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver"  # noqa: S608 (of PostgreSQL)
    wait_until(lambda: server.execute(archived) == [(True,)])
    server.lose()
    server.shell(commands("recovery.signal").partition("pg_ctl")[0])
    server.replace(server.folder / "restored")
    wait_until(lambda: server.execute("SELECT pg_is_in_recovery()") == [(False,)])
    with serving(tmp_path / "three", server.url()) as client:
        assert learn(client, 60, 60) == last
