"""Servers that end at any moment, one after another on a data folder, and the comparison of each start."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest

from service.cli.launch import StartError
from tests.support.chaos_checks import broken_promises, fingerprints, repeated
from tests.support.chaos_clients import Administrators, Learners, Record
from tests.support.replay import Replayer
from tests.support.server_process import Json, RestartableServer

#: Kinds of requests in the reports.
_COUNTED = ("learn", "label", "rollback", "forget", "import", "create", "delete", "upgrade")


class Chaos:
    """One data folder, and the servers that use it one after another.

    Parameters
    ----------
    folder : path
        The data folder.
    seed : int
        Seed of all choices.
    prefix : str
        Python code that each server runs first.
    """

    def __init__(self, folder: Path, seed: int, prefix: str = "") -> None:
        self._rng = random.Random(seed)  # noqa: S311
        self._seed = seed
        self._prefix = prefix
        self._replayer = Replayer(folder)
        self._story: list[str] = []
        self._quiet: dict[str, Json] = {}  # fingerprints, if nothing changed since
        self.record = Record()
        self.server = RestartableServer(folder)
        self.ends = 0

    def run(self) -> None:
        """Start, compare, serve under load, and end."""
        self._story = []
        while self._rng.random() < 0.3:
            self._interrupted_start()
        client = self._start()
        try:
            self._compare(client)
            self._expect(repeated(client, self.server.folder, self.record))
            self._load(client)
        except httpx.TransportError:
            if not self._crashes:
                raise
            self._story.append("killed during the comparison")
            self.server.kill()
            self.ends += 1
        self._expect(self.record.problems)

    def _compare(self, client: httpx.Client) -> None:
        if self._quiet and (found := fingerprints(client)) != self._quiet:
            self._expect([f"the start changed models: {self._quiet} → {found}"])
        self._quiet = {}
        self._expect(broken_promises(client, self.server.folder, self.record, self._replayer))

    def _interrupted_start(self) -> None:
        """Start a server that is killed before it serves, or that finds a full disk."""
        rng, server = self._rng, self.server
        way = rng.choice(("kill", "crash point", "full disk"))
        self._launch(rng.randrange(1, 40) if way == "crash point" else None)
        self._story.append(f"start: {way}")
        if way == "full disk":
            server.limit_files(rng.choice((1, 5000, 200_000)))
        try:
            server.running.ready(rng.uniform(1.5, 4.0) if way == "kill" else 60.0)
        except StartError as error:
            allowed = {"kill": (None,), "crash point": (-9,), "full disk": (1,)}[way]
            if server.running.process.poll() not in allowed or "Traceback" in str(error):
                self._expect([f"a start with {way}: {error}"])
        server.kill()
        self.ends += 1

    def _launch(self, crash_point: int | None = None) -> None:
        rng = self._rng
        settings = {
            "BNP_DURABILITY": rng.choice(("full", "full", "relaxed")),
            "BNP_CHECKPOINT_EVERY": rng.choice(("20", "60", "250")),
            "BNP_KEEP_CHECKPOINTS": rng.choice(("1", "3", "5")),
            "BNP_RETAIN_EVENTS": rng.choice(("0", "100", "1000000", "1000000", "1000000")),
            "BNP_QUEUE_SIZE": rng.choice(("8", "1024")),
            "BNP_GROUP_SIZE": rng.choice(("3", "256")),
        }
        self._story.append(" ".join(settings.values()))
        prefix = self._prefix
        if crash_point is not None:
            self._story.append(f"crash point {crash_point}")
            prefix += f"\nfrom tests.support.crash_points import install; install({crash_point})"
        self.server.launch(prefix, BNP_MAX_MODELS="8", **settings)

    def _start(self) -> httpx.Client:
        self._crashes = self._rng.random() < 0.35
        self._launch(self._rng.randrange(60, 600) if self._crashes else None)
        try:
            client = self.server.ready()
        except StartError as error:
            if not self._crashes or self.server.running.process.poll() != -9:
                self._expect([f"the server does not start: {error}"])
            self.ends += 1
            return self._start()
        if not self.record.sent:
            self.record.created.add("default")
        self.record.full = False
        return client

    def _load(self, client: httpx.Client) -> None:
        """Send requests, with full disks, and end the server."""
        rng, running, record, url = self._rng, self.server.running, self.record, str(client.base_url)
        seed = 10_000 * self._seed + 10 * self.ends
        learners = Learners(url, record, seed, self.ends, 4, 0.02)
        threads = (learners, Administrators(url, record, seed + 5, self.ends, 2, 0.1))
        deadline = time.monotonic() + rng.uniform(0.3, 3.0)
        while time.monotonic() < deadline and running.process.poll() is None:
            if rng.random() < 0.15:
                self._fill_disk()
            time.sleep(rng.uniform(0.05, 0.5))
        alone = [thread for each in threads for thread in each.threads if not thread.is_alive()]
        if not self._crashes and (alone or running.process.poll() is not None):
            time.sleep(0.5)
            self._expect([f"{len(alone)} clients got no answer; exit code {running.process.poll()}"])
        if not self._crashes and rng.random() < 0.4:
            for each in threads:
                each.stop()
            self._story.append("pause")
            self._compare(client)
            self._quiet = fingerprints(client)
        self._end()
        for each in threads:
            each.join()

    def _fill_disk(self) -> None:
        """Limit the size of files for a moment: the log, its index or the checkpoints cannot grow."""
        rng = self._rng
        sizes = [path.stat().st_size for path in self.server.folder.glob("*")]
        size = rng.choice((1, 30_000, max(sizes) + rng.randrange(100_000)))
        self._story.append(f"full disk {size}")
        self.record.full = True
        with contextlib.suppress(ProcessLookupError):  # a crash point
            self.server.limit_files(size)
            time.sleep(rng.uniform(0.05, 0.5))
            self.server.limit_files(None)

    def _end(self) -> None:
        if self._crashes or self._rng.random() < 0.7:
            self._story.append("kill")
            self.server.kill()
        else:
            self._story.append("SIGTERM")
            if (code := self.server.terminate()) != 0:
                self._expect([f"exit code {code} after SIGTERM"])
        self.ends += 1

    def _expect(self, problems: Iterable[str]) -> None:
        """Fail with a report if there are problems."""
        if found := list(problems):
            lines = [*self.server.running.lines]
            raised = [i for i, line in enumerate(lines) if "Traceback" in line][:1]
            log = "".join(line for i in raised for line in lines[i : i + 60]) + "".join(lines[-15:])
            shown = "\n".join(f"- {problem}" for problem in found[:10])
            pytest.fail(
                f"seed {self._seed}, folder {self.server.folder}, after {self.ends} ends: {len(found)} "
                f"problems\n{shown}\nthis run: {'; '.join(self._story)}\nlog of the server:\n{log}",
                pytrace=False,
            )

    def report(self) -> str:
        """Return the latest run and the counts, in one line."""
        counts = {kind: self.record.counts[kind] for kind in _COUNTED}
        return f"{self.ends:3} ends; {'; '.join(self._story)}; {counts}"
