"""Models without a server or a thread, and specifications and samples for them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bnp_online import checkpoint
from bnp_online.checkpoint import pack, unpack
from service.models import report, snapshot
from service.models.hosted import HostedModel
from service.models.recovery import Recovery
from service.models.validation import Learn, PredictionEvent, Request, SampleEvent
from service.schemas import ModelSpec
from service.settings import Settings
from service.storage import event_codec
from service.storage.checkpoints import CheckpointFiles
from service.storage.history import History
from service.storage.interfaces import Event, Group
from service.storage.sqlite import SqliteLog
from tests.support.running import Json

#: A small model.
SPEC = {"hidden": [4], "replay": 1, "memory": 20}


def default(task: str, **more: Any) -> ModelSpec:
    """Return the specification of a small model."""
    return ModelSpec.model_validate_json(json.dumps({**SPEC, "task": task, **more}))


def lines(task: str, count: int) -> list[Json]:
    """Return samples whose relation flips in the middle; every seventh has an id."""
    rng, found = np.random.default_rng(4), []
    for i in range(count):
        a, b = rng.normal(size=2).tolist()
        value = a if i < count // 2 else -a
        y: Any = ("cat" if value > 0 else "dog") if task == "classification" else value
        named = {"id": f"e{i}"} if i % 7 == 0 else {}
        found.append({"x": {"a": a, "b": b}, "y": y, **named})
    return found


class Model:
    """A model with a real log, and what its writer does, without a thread."""

    def __init__(self, folder: Path, spec: ModelSpec, **settings: Any) -> None:
        self.settings = Settings(device="cpu", **settings)
        self.log = SqliteLog(folder)
        self.now: float | None = None
        made = self.log.create(Event("create", spec.model_dump_json().encode(), step=0))
        self.history = History(self.log, made)
        self.hosted = HostedModel(spec, self.settings, self.clock)
        self.refusals: Counter[str] = Counter()

    def clock(self) -> float:
        return self.log.now() if self.now is None else self.now

    def learn(self, *requests: Request) -> list[Any]:
        """Learn a group, and return what came of each request."""
        ids = {request.id for request in requests if isinstance(request, Learn) and request.id is not None}
        validator = self.hosted.validator(self.hosted.predict_pending, self.refusals)
        validator.look_up(*self.history.look_up(ids))
        entries = validator.take(requests)
        logged = [entry for entry in entries if isinstance(entry, SampleEvent | PredictionEvent)]
        if logged:
            now, events = self.clock(), [entry.event for entry in logged]
            [last] = self.log.append([Group(self.history.model, self.history.branch, events, time=now)])
            for seq, entry in enumerate(logged, last - len(logged) + 1):
                entry.seq, entry.time = seq, now
        applied = self.hosted.apply(entries)
        self.history.correct(applied.refused, applied.steps)
        return applied.outcomes

    def one(self, request: Request) -> Any:
        [outcome] = self.learn(request)
        return outcome

    def events(self) -> list[tuple[str, int | None, str | None]]:
        return [(r.event.kind, r.event.step, r.refused) for r in self.history.read()]

    def fingerprint(self) -> Any:
        return report.fingerprint(self.hosted)

    def earlier(self, part: str) -> tuple[Any, HostedModel, HostedModel]:
        """Return a part of the state of the service, the model without it, and the model with it."""
        state = checkpoint.loads(checkpoint.dumps(snapshot.take(self.hosted)))
        service = event_codec.loads(unpack(state["tensors"]["service"]))
        removed = service.pop(part)
        earlier = {**state, "tensors": {**state["tensors"], "service": pack(event_codec.dumps(service))}}
        opened, same = (snapshot.restore(each, self.settings, self.clock) for each in (earlier, state))
        return removed, opened, same

    def followed(self, folder: Path) -> tuple[HostedModel, HostedModel]:
        """Return the model after a recovery, and on a node that followed the log in parts."""
        recovery = Recovery(self.history, CheckpointFiles(folder), self.settings)
        recovered, following = recovery.run(), recovery.base()
        records = list(self.history.read(self.history.model))
        for start in range(0, len(records), 32):
            following = recovery.advance(following, records[start : start + 32])
        return recovered, following
