"""JSON of the quality benchmark. Each run is saved at its end: an interrupted program can continue."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from ..common import report
from ..common.streams import place
from .contestant import Contestant, Setting
from .summary import Entry, summarize

#: One run as JSON, with the number of its environment.
Record: TypeAlias = dict[str, Any]


def same_versions(contestant: Contestant, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two environments are equal in everything that affects a contestant's results."""
    if contestant.ours and before["library"] != now["library"]:
        return False
    return all(before["versions"].get(name) == now["versions"][name] for name in contestant.packages)


def _key(stream: str, model: str, setting: Setting, seed: int | None) -> tuple[str, str, str, int | None]:
    return stream, model, json.dumps(setting, sort_keys=True), seed


class Results:
    """Runs of this program and, with `keep`, of earlier ones.

    Parameters
    ----------
    name : str
        Name of the program.
    path : path
        Path of the JSON.
    facts : dict
        `Stream.describe` by name of stream.
    contestants : sequence of Contestant
        All contestants, also those that do not run now.
    quick : bool
        Whether the streams are shortened.
    save_every : float
        Least seconds between two saves by `add`.
    place : callable of (str, dict)
        Place of a stream in the tables, from its name and facts.

    Attributes
    ----------
    parts : dict
        Further results, which the file contains by name.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        facts: Mapping[str, Any],
        contestants: Sequence[Contestant],
        *,
        quick: bool = False,
        save_every: float = 5.0,
        place: Callable[[str, Mapping[str, Any]], Any] = place,
    ) -> None:
        self.parts: dict[str, Any] = {}
        self._place_of = place
        self._name = name
        self._path = path
        self._contestants = {contestant.name: contestant for contestant in contestants}
        self._quick = quick
        self._save_every = save_every
        self._environments: list[dict[str, Any]] = [report.environment()]
        self._facts = dict(facts)
        self._runs: dict[tuple[str, str, str, int | None], Record] = {}
        self._saved = time.monotonic()

    def keep(self) -> None:
        """Take over the runs in the file whose samples are the same and whose settings are still tried."""
        if not self._path.exists():
            return
        content = json.loads(self._path.read_text(encoding="utf-8"))
        self.parts = content.get("parts", {})
        for name, facts in content["streams"].items():
            self._facts.setdefault(name, facts)
        before = len(self._environments)
        self._environments += content["environments"]
        for record in content["runs"]:
            name, contestant = record["stream"], self._contestants.get(record["model"])
            if self._facts[name] != content["streams"][name] or contestant is None:
                continue
            if record["setting"] in contestant.settings(self._facts[name]):
                self._put({**record, "environment": before + record["environment"]})

    def _put(self, record: Record) -> None:
        key = _key(record["stream"], record["model"], record["setting"], record["seed"])
        self._runs[key] = record

    def has(self, stream: str, contestant: Contestant, setting: Setting, seed: int | None) -> bool:
        """Return whether there is a run with the current versions."""
        record = self._runs.get(_key(stream, contestant.name, setting, seed))
        if record is None:
            return False
        return same_versions(contestant, self._environments[record["environment"]], self._environments[0])

    def add(self, record: Record) -> None:
        """Add a run, and save all runs if the last save is some seconds old."""
        self._put({**record, "environment": 0})
        if time.monotonic() - self._saved > self._save_every:
            self.save()

    def entries(self) -> list[Entry]:
        """Return the summary of the streams that most models have finished."""
        return summarize(self._records(), self.facts, list(self._contestants.values()))

    @property
    def facts(self) -> dict[str, Any]:
        """`Stream.describe` by name, in the order of the tables."""
        return {name: self._facts[name] for name in sorted(self._facts, key=self._place)}

    def _place(self, name: str) -> Any:
        return self._place_of(name, self._facts[name])

    @property
    def unfinished(self) -> list[str]:
        """Streams that some model has not finished."""
        entries = self.entries()
        finished = Counter(entry.stream for entry in entries)
        taking_part = [self._contestants[name] for name in {entry.model for entry in entries}]
        facts = self.facts
        expected = {name: sum(bool(c.settings(of)) for c in taking_part) for name, of in facts.items()}
        return [name for name in facts if finished[name] < max(expected[name], 1)]

    def _records(self) -> list[Record]:
        """Return the runs ordered by stream, model, setting and seed."""
        models = list(self._contestants)
        names = list(self.facts)

        def order(record: Record) -> tuple[int, int, int, int]:
            contestant = self._contestants[record["model"]]
            settings = contestant.settings(self._facts[record["stream"]])
            return (
                names.index(record["stream"]),
                models.index(record["model"]),
                settings.index(record["setting"]),
                record["seed"] or 0,
            )

        return sorted(self._runs.values(), key=order)

    def save(self) -> None:
        """Write the file."""
        runs = self._records()
        used = list(dict.fromkeys(record["environment"] for record in runs))
        content = {
            "benchmark": self._name,
            "quick": self._quick,
            "environments": [self._environments[i] for i in used],
            "streams": self.facts,
            "models": {
                c.name: {"about": c.about, "packages": c.packages, "grid": c.grid}
                for c in self._contestants.values()
            },
            "summary": [asdict(entry) for entry in self.entries()],
            "runs": [{**record, "environment": used.index(record["environment"])} for record in runs],
        }
        if self.parts:
            content["parts"] = self.parts
        report.write_json(self._path, content)
        self._saved = time.monotonic()


def read(path: Path) -> tuple[list[Entry], dict[str, Any]]:
    """Return the summary, and `Stream.describe` by name, in a JSON of `Results`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = [Entry(**{**entry, "by_seed": tuple(entry["by_seed"])}) for entry in content["summary"]]
    return entries, content["streams"]
