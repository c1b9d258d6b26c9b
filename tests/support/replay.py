"""Independent replay of an event log: plain SQLite and the public estimators, without code of the server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jiter
import numpy as np
import orjson

from bnp_online import BNPClassifier, BNPRegressor, NonFiniteStateError, SampleError, checkpoint, load
from bnp_online.evaluation.drift import ADWIN, PageHinkley
from bnp_online.evaluation.prequential import PrequentialMetrics
from bnp_online.mixture import MAX_LOSS
from bnp_online.values import ExpertPredictions
from tests.support.run_rows import lines_of

Json = dict[str, Any]
SAMPLES = ("learn", "label", "predict")
#: Setting of the drift detection without any field.
_DRIFT: Json = {"detector": "adwin", "delta": None, "threshold": 50.0, "action": "none"}
#: Kinds of events that retention removes.
_PRUNED = (*SAMPLES, "import")
_CHECKPOINT = re.compile(r"step(\d+)-branch(\d+)-event(\d+)-head(\d+)")


class UnreachableError(Exception):
    """Neither the beginning of the log nor a usable checkpoint is retained."""


class Row(NamedTuple):
    """Row of the table ``event``, or an event of a run in one."""

    seq: int
    model: int
    branch: int
    kind: str
    id: str | None
    body: bytes
    refused: str | None
    step: int | None


class Log(NamedTuple):
    """Content of the log: rows by name of their model, and the event before which each model was pruned."""

    rows: dict[str, list[Row]]
    pruned: dict[int, int]


class Kept(NamedTuple):
    """A checkpoint file."""

    path: Path
    branch: int
    seq: int
    head: int


class Upgrade(NamedTuple):
    """The latest upgrade in the current events of a model."""

    seq: int = 0
    request: int = 0
    after: int = 0
    spec: Json | None = None


def read_log(folder: Path) -> Log:
    """Return the events of the models that exist."""
    with contextlib.closing(sqlite3.connect(folder / "events.sqlite3", timeout=30.0)) as database:
        database.execute("BEGIN")
        columns = ", ".join(Row._fields)
        stored = database.execute(f"SELECT {columns}, count FROM event ORDER BY seq").fetchall()  # noqa: S608
        found = [each for row in stored for each in events_of(Row(*row[:-1]), row[-1])]
        found.sort(key=lambda row: row.seq)
        pruned = dict(database.execute("SELECT model, before FROM pruned"))
    return by_model(found, pruned)


def by_model(found: Sequence[Row], pruned: dict[int, int]) -> Log:
    """Return the rows of the models that exist: a deleted model has no first event."""
    names = {row.model: str(jiter.from_json(row.body)["name"]) for row in found if row.kind == "create"}
    rows: dict[str, list[Row]] = {name: [] for name in names.values()}
    for row in found:
        if row.model in names:
            rows[names[row.model]].append(row)
    return Log(rows, pruned)


def events_of(row: Row, count: int) -> Iterator[Row]:
    """Return the events in a row."""
    if count == 1:
        yield row
    elif row.refused is None:
        first, before = row.seq - count + 1, None if row.step is None else row.step - count
        for i, (line, identifier) in enumerate(lines_of(row.body)):
            step = None if before is None else before + i + 1
            yield row._replace(seq=first + i, id=identifier, body=line, step=step)


def spans(rows: Sequence[Row]) -> list[tuple[int, int, float]]:
    """Return branch, first (exclusive) and last number of the current events of a model."""
    parents: dict[int, tuple[int | None, int]] = {0: (None, 0)}
    for row in rows:
        if row.kind == "rollback":
            body = json.loads(row.body)
            parents[row.branch] = body["parent"], body["fork"]
    branch: int | None = max(parents)
    end, found = math.inf, []
    while branch is not None:
        parent, fork = parents[branch]
        found.append((branch, fork, end))
        end, branch = min(end, fork), parent
    return found


def current(rows: Sequence[Row]) -> list[Row]:
    """Return the rows on the way from the creation to the newest branch."""
    on_way = spans(rows)
    return [row for row in rows if _contain(on_way, row)]


def forgotten(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return the removal and the number of each forgotten event that would be current."""
    on_way = spans(rows)
    return [
        (row.seq, seq)
        for row in rows
        if row.kind == "forget"
        for branch, seq in json.loads(row.body)["events"]
        if any(branch == other and low < seq <= high for other, low, high in on_way)
    ]


def latest_upgrade(events: Sequence[Row]) -> Upgrade:
    """Return the latest upgrade in current events; one of number 0 if there is none."""
    for row in reversed(events):
        if row.kind == "upgraded":
            request = json.loads(row.body)["request"]
            [asked] = [json.loads(each.body) for each in events if each.seq == request]
            return Upgrade(row.seq, request, asked["after"], asked["spec"])
    return Upgrade()


def _contain(on_way: list[tuple[int, int, float]], event: Row | Kept) -> bool:
    return any(event.branch == branch and low < event.seq <= high for branch, low, high in on_way)


class Replica:
    """State of one model, from its events.

    Parameters
    ----------
    spec : dict
        Specification of the model.

    Attributes
    ----------
    steps : dict of int to int
        Step after each learned sample, by number of its event.
    pending : dict of str to ExpertPredictions or None
        What the experts predicted, by id, of predictions without a label.
    """

    def __init__(self, spec: Json) -> None:
        options = {"learner": 1, **{key: value for key, value in spec.items() if value is not None}}
        make: Any = BNPClassifier if options.pop("task") == "classification" else BNPRegressor
        self.name = options.pop("name")
        self.setting = options.pop("drift")
        self.estimator = make(**_tuples(options), device="cpu")
        self._begin()

    def _begin(self) -> None:
        self.score = PrequentialMetrics(self.estimator.task)
        self.detector = _detector(self.setting)
        self.drift: Json = {"detections": 0, "actions": 0, "last": None, "due": False}
        self.steps: dict[int, int] = {}
        self.pending: dict[str, ExpertPredictions | None] = {}

    @classmethod
    def of_checkpoint(cls, path: Path) -> Replica:
        """Return the state in a checkpoint file of the server."""
        state = checkpoint.load(path)
        tensors = dict(state["tensors"])
        service = json.loads(checkpoint.unpack(tensors.pop("service")))
        replica = cls(state["service"]["spec"])
        replica.estimator.load_state_dict({**state, "tensors": tensors})
        replica.score.load_state_dict(service["score"])
        replica.drift = {key: service["drift"][key] for key in replica.drift}
        if replica.detector is not None:
            replica.detector.load_state_dict(service["drift"]["detector"])
        for name, _, _, labelled, *experts in service["pending"]:
            if not labelled:
                replica.pending[name] = replica._unpacked(*experts)
        return replica

    def fingerprint(self) -> Json:
        """Return what ``GET /models/{m}/fingerprint`` must answer."""
        alone = self.estimator.fingerprint()
        detector = None if self.detector is None else self.detector.state_dict()
        state = orjson.dumps([self.score.state_dict(), {"detector": detector, **self.drift}])
        whole = hashlib.sha256(alone.encode() + state).hexdigest()
        return {"step": self.estimator.step, "sha256": whole, "model_sha256": alone}

    def apply(self, row: Row) -> None:
        """Apply a current event."""
        if row.refused is not None:
            return
        if row.kind in ("learn", "label"):
            self._learn(row)
        elif row.kind == "predict":
            self.pending[str(row.id)] = self._experts(jiter.from_json(row.body)[0])
        elif row.kind == "rollback":
            self.drift["due"] = False
        elif row.kind == "patch":
            self._patch(jiter.from_json(row.body))
        elif row.kind == "import":
            with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
                file.write(row.body)
                file.flush()
                self.estimator = load(file.name)
            self._begin()

    @classmethod
    def relearned(cls, events: Sequence[Row], upgrade: Upgrade) -> Replica:
        """Return the state that an upgrade gives: of samples, and of changes since its request."""
        assert upgrade.spec is not None
        replica = cls(upgrade.spec)
        for row in events:
            sample = row.kind in SAMPLES or (row.kind == "patch" and row.seq > upgrade.request)
            if sample and upgrade.after < row.seq < upgrade.seq:
                replica.apply(row)
        replica.steps.clear()  # the log has those of the model before
        return replica

    def _unpacked(self, experts: str | None = None) -> ExpertPredictions | None:
        """Return predictions of the experts from a checkpoint."""
        if experts is None:
            return None
        body = base64.b64decode(experts)
        rows = int.from_bytes(body[:8], "little")
        values: Any = np.frombuffer(body[8:], np.float64).reshape(rows, -1)
        known = () if self.estimator.task == "regression" else self.estimator.labels[: values.shape[1]]
        return ExpertPredictions(known, values)

    def _experts(self, x: Any) -> ExpertPredictions | None:
        try:
            found: ExpertPredictions | None = self.estimator.predict_experts_one(x)
        except (SampleError, NonFiniteStateError):
            return None
        return found

    def _learn(self, row: Row) -> None:
        x, y, w, given = _sample(row)
        estimator = self.estimator
        if self.drift["due"] and estimator.step % 32 == 0:
            getattr(estimator, self.setting["action"])()
            self.drift.update(due=False, actions=self.drift["actions"] + 1)
        prediction, probabilities = estimator.predict(x)
        late = None if given is None else self.pending.pop(str(row.id), None)
        estimator.learn_one(x, y, w=w, given=late)
        self.steps[row.seq] = estimator.step
        if given is not None:
            prediction, probabilities = given
        loss = self.score.update(y, prediction, probabilities)
        if loss is not None and self.detector is not None:
            if estimator.task == "regression":
                variance = self.score.target_variance or 0.0
                loss = math.sqrt(loss / variance) if variance > 0.0 else 0.0
            if self.detector.update(min(loss, MAX_LOSS)) > 0.0:
                acts = self.setting["action"] != "none"
                self.drift.update(detections=self.drift["detections"] + 1, last=estimator.step, due=acts)

    def _patch(self, changes: Json) -> None:
        setting = _DRIFT | changes.pop("drift", self.setting)
        self.estimator.set_limits(**changes)
        if setting == self.setting:
            return
        before, self.setting = self.setting, setting
        if {**setting, "action": None} == {**before, "action": None}:
            self.drift["due"] = self.drift["due"] and setting["action"] == before["action"]
        else:
            self.detector = _detector(setting)
            self.drift["due"] = False


class Replayer:
    """Replays models, and continues each one from its latest replay if the events before it are unchanged.

    Parameters
    ----------
    folder : path
        The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: dict[int, tuple[list[Row], Replica]] = {}

    def run(self, log: Log, name: str) -> tuple[Replica, list[str]]:
        """Return the state of a model, and a description of each checkpoint that differs from its replay."""
        rows = log.rows[name]
        number, events = rows[0].seq, current(rows)
        checkpoints = self.usable(rows)
        pruned, gone = log.pruned.get(number, 0), forgotten(rows)
        replica, rest = self._start(events, checkpoints, pruned, gone)
        differences = []
        for row in rest:
            while checkpoints and checkpoints[0].seq < row.seq:
                differences += _differences(checkpoints.pop(0), replica, row.seq)
            replica.apply(row)
        for kept in checkpoints:
            differences += _differences(kept, replica, None)
        self._before[number] = events, replica
        return replica, differences

    def _start(
        self, events: list[Row], checkpoints: list[Kept], pruned: int, gone: list[tuple[int, int]]
    ) -> tuple[Replica, list[Row]]:
        """Return a state to continue from, and the events after it; drop checkpoints before it."""
        before, replica = self._before.get(events[0].seq, ([], None))
        last = before[-1].seq if before else 0
        old, new = (_retained((row for row in rows if row.seq <= last), pruned) for rows in (before, events))
        # A forgotten event below the first retained one is missing in both.
        same = old == new and not {row.seq for row in before}.intersection(seq for _, seq in gone)
        upgrade = latest_upgrade(events)
        if replica is not None and same and pruned <= last + 1 and last >= upgrade.seq:
            pass
        elif pruned <= upgrade.after + 1 and upgrade.seq:
            replica, last = Replica.relearned(events, upgrade), upgrade.seq
        elif pruned == 0:
            replica, last = Replica(jiter.from_json(events[0].body)), events[0].seq
        else:
            bases = [kept for kept in checkpoints if kept.seq + 1 >= pruned and kept.seq >= upgrade.seq]
            if not bases:
                raise UnreachableError(
                    f"it was pruned before event {pruned}, and has no checkpoint to start from"
                )
            base = bases[0]
            replica, last = Replica.of_checkpoint(base.path), base.seq
        checkpoints[:] = [kept for kept in checkpoints if kept.seq >= last]
        return replica, [row for row in events if row.seq > last]

    def usable(self, rows: Sequence[Row]) -> list[Kept]:
        """Return the checkpoints whose last event is current, and that have no forgotten sample, in order."""
        on_way, gone = spans(rows), forgotten(rows)
        upgrade = latest_upgrade(current(rows))
        return [
            kept
            for kept in self.checkpoints(rows[0].seq)
            if _contain(on_way, kept)
            and not any(
                removal > kept.head and seq <= kept.seq and (seq > upgrade.after or kept.seq < upgrade.seq)
                for removal, seq in gone
            )
        ]

    def checkpoints(self, number: int) -> list[Kept]:
        """Return the checkpoint files of a model, in order of their events."""
        found = []
        for path in (self._folder / "checkpoints" / str(number)).glob("step*.safetensors"):
            match = _CHECKPOINT.fullmatch(path.stem)
            if match is not None:
                _, branch, seq, head = map(int, match.groups())
                found.append(Kept(path, branch, seq, head))
        return sorted(found, key=lambda kept: (kept.seq, kept.head))


def _retained(rows: Iterable[Row], pruned: int) -> list[tuple[Any, ...]]:
    """Return what identifies rows, without those that may have been pruned."""
    return [(row.seq, row.refused) for row in rows if row.seq >= pruned or row.kind not in _PRUNED]


def _differences(kept: Kept, replica: Replica, upto: int | None) -> list[str]:
    """Describe how a checkpoint differs from a replay of the same events."""
    try:
        found = Replica.of_checkpoint(kept.path).fingerprint()
    except FileNotFoundError:  # the server removed it after the folder was listed
        return []
    expected = replica.fingerprint()
    before = "" if upto is None else f" before event {upto}"
    return [] if found == expected else [f"{kept.path.name} has {found}, the replay{before} {expected}"]


def _sample(row: Row) -> tuple[Any, Any, float, tuple[Any, Any] | None]:
    """Return x, y, weight, and for a label the earlier prediction with its probabilities."""
    body = jiter.from_json(row.body)
    if isinstance(body, dict):
        return body["x"], body["y"], 1.0 if body.get("w") is None else body["w"], None
    if row.kind == "learn":
        return (*body, None)
    x, y, prediction, pairs = body
    return x, y, 1.0, (prediction, None if pairs is None else dict(pairs))


def _detector(setting: Json) -> ADWIN | PageHinkley | None:
    if setting["detector"] == "none":
        return None
    delta = {} if setting.get("delta") is None else {"delta": setting["delta"]}
    if setting["detector"] == "adwin":
        return ADWIN(**delta)
    return PageHinkley(threshold=setting["threshold"], **delta)


def _tuples(options: Json) -> Json:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
