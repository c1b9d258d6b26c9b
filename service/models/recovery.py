"""From log and checkpoints to a model: at the start, for a rollback, and without what was forgotten.

The start of a server: its data folder is opened, and every model is brought to where it was.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from bnp_online import checkpoint as file_format
from bnp_online.errors import CheckpointError, StateError

from ..errors import DamagedEventError, InvalidSpecError, NotKeptError, StorageError
from ..schemas import DriftSpec, ModelSpec
from ..settings import Settings
from ..storage import event_codec
from ..storage.checkpoints import CheckpointFiles
from ..storage.data_dir import FolderInUseError, lock
from ..storage.history import History
from ..storage.interfaces import Checkpoints, Record
from ..storage.sqlite import SqliteLog
from ..telemetry.progress import progress
from . import snapshot
from .divergence import apply_one_by_one
from .hosted import HostedModel

Advance: TypeAlias = Callable[[int], None]
"""Called now and then with the number of events that were replayed."""

#: Events that are learned in one call.
_BATCH = 500
_SAMPLES = frozenset({"learn", "label", "predict"})

_logger = logging.getLogger(__name__)


class Replay(NamedTuple):
    """How many events were replayed, and for how many seconds."""

    events: int = 0
    seconds: float = 0.0


class Recovery:
    """Brings one model to any event of its history that is kept.

    Parameters
    ----------
    history : History
        Of the model.
    checkpoints : Checkpoints
        Of all models.
    settings : Settings
        Limits, and the device.

    Attributes
    ----------
    latest : Replay
        The last one.
    """

    def __init__(self, history: History, checkpoints: Checkpoints, settings: Settings) -> None:
        self.latest = Replay()
        self._history = history
        self._checkpoints = checkpoints
        self._settings = settings

    def run(self, upto: int | None = None, advance: Advance = lambda done: None) -> HostedModel:
        """Return the model as it was after event `upto`, by default as it is now.

        The newest checkpoint that is intact, and the events after it. What came of these is corrected in the
        log where it differs.

        Raises
        ------
        NotKeptError
            If neither the beginning of the log nor a checkpoint before that event is kept.
        DamagedEventError
            If an event is not as it was written.
        """
        return self.run_on(self.base(upto), upto, advance)

    def run_on(
        self, model: HostedModel, upto: int | None = None, advance: Advance = lambda done: None
    ) -> HostedModel:
        """Return a model after the events that it does not include yet, up to event `upto`."""
        done, start = 0, time.perf_counter()
        for records in _batches(self._history.read(model.sequence, upto)):
            model = self._replay(model, records)
            done += len(records)
            advance(done)
        self.latest = Replay(done, time.perf_counter() - start)
        return model

    def left(self, model: HostedModel) -> int:
        """Return how many events a model does not include yet."""
        return self._history.count(model.sequence)

    def reaches(self, upto: int) -> bool:
        """Return whether there is a state from which event `upto` can be reached."""
        kept = self._history.states(self._checkpoints.list(self._history.model), upto)
        return bool(kept) or self._history.reaches(self._history.model)

    def _replay(self, model: HostedModel, records: list[Record]) -> HostedModel:
        """Return the model after further events: all samples, or one event of another kind."""
        event = records[0].event
        if event.kind in _SAMPLES:
            entries, refused = model.readmit(records)
            before, acted = snapshot.take(model), model.acted[:]
            applied = model.apply(entries)
            if not model.is_sound(entries):
                model = snapshot.restore(before, self._settings, self._history.log.now)
                model.acted = acted
                model, applied = apply_one_by_one(model, entries)
            if refused or applied.refused or applied.steps:
                self._history.log.correct(refused | applied.refused, applied.steps)
        elif event.kind == "import":
            now, drift = self._history.log.now, model.spec.drift
            model = imported(event.body, model.name, drift, self._settings, now)
        elif event.kind == "patch":
            model.patch(event_codec.loads(event.body))
        elif event.kind == "rollback":
            model.drift.dismiss()
        elif event.kind == "action":  # it was taken with the samples before; what is left is not noted yet
            noted = event_codec.loads(event.body)
            model.acted = [done for done in model.acted if done["step"] != noted["step"]]
        model.sequence = records[-1].seq
        return model

    def base(self, upto: int | None = None) -> HostedModel:
        """Return the newest state from which event `upto` can be reached; raises as `run`."""
        clock = self._history.log.now
        for kept in self._history.states(self._checkpoints.list(self._history.model), upto):
            try:
                return snapshot.restore(self._checkpoints.load(kept), self._settings, clock)
            except (StateError, OSError) as error:
                _logger.warning("skipping checkpoint %s of model %d: %s", kept.name, kept.model, error)
        made = self._history.made()
        if not self._history.reaches(made.seq):
            raise NotKeptError(
                f"model {self._history.model} cannot be rebuilt: the log begins after it was made, and no "
                "checkpoint before that is intact"
            )
        spec = ModelSpec.model_validate_json(made.event.body)
        model = HostedModel(spec, self._settings, clock)
        model.sequence = made.seq
        return model


def imported(
    body: bytes,
    name: str,
    drift: DriftSpec,
    settings: Settings,
    clock: Callable[[], float],
    admit: Callable[[ModelSpec], object] = lambda spec: None,
) -> HostedModel:
    """Return the model in a file that an estimator wrote.

    Parameters
    ----------
    body : bytes
        Of the file.
    name : str
        Of the model.
    drift : DriftSpec
        How its loss is watched, which the file does not say.
    settings, clock
        As `HostedModel` has them.
    admit : callable
        Sees the spec before anything is made of it, and may refuse it.

    Raises
    ------
    CheckpointError, StateError
        If it is no such file, or is damaged.
    InvalidSpecError
        If it is of a model that a server cannot make.
    """
    state = file_format.loads(body)
    task = {"BNPClassifier": "classification", "BNPRegressor": "regression"}.get(str(state.get("estimator")))
    parameters = state.get("parameters")
    _check_text(state)
    if task is None or not isinstance(parameters, dict):
        raise CheckpointError("holds no estimator of this library")
    known = {key: value for key, value in parameters.items() if key in ModelSpec.model_fields}
    spec = {**known, "name": name, "task": task, "drift": drift.model_dump(mode="json")}
    try:
        valid = ModelSpec.model_validate_json(event_codec.dumps(spec))
    except ValidationError as error:
        fields = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise InvalidSpecError(f"a server cannot make this model: {fields}") from None
    admit(valid)
    model = HostedModel(valid, settings, clock)
    model.estimator.load_state_dict(state)
    return model


def _check_text(state: dict[str, Any]) -> None:
    """Refuse strings that are not Unicode: a file can hold them, but no answer can say what is in it."""
    header = {key: value for key, value in state.items() if key != "tensors"}
    try:
        json.dumps(header, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CheckpointError("holds a string that is not Unicode") from None


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Put samples that follow on each other together; every other event stands alone."""
    for samples, run in itertools.groupby(records, lambda record: record.event.kind in _SAMPLES):
        while batch := list(itertools.islice(run, _BATCH if samples else 1)):
            yield batch


#: What keeps a server from starting, and says what to do.
START_ERRORS = (FolderInUseError, StorageError, DamagedEventError, NotKeptError, OSError)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a server stands on.

    Attributes
    ----------
    folder : file
        The data folder is this server's until it is closed.
    log, checkpoints
        What is in it.
    models : list of (History, Recovery, HostedModel)
        As they were when the last server ended, and what brought them there.
    """

    folder: IO[str]
    log: SqliteLog
    checkpoints: CheckpointFiles
    models: list[tuple[History, Recovery, HostedModel]]

    def close(self) -> None:
        """Let go of the data folder."""
        self.log.close()
        self.folder.close()


def open_folder(settings: Settings) -> Opened:
    """Open the data folder; what was not learned from the log yet is learned now, with a progress bar.

    Raises
    ------
    FolderInUseError
        If another server uses it.
    StorageError
        If it cannot be read or written.
    DamagedEventError, NotKeptError
        If a model cannot be brought to where it was.
    """
    folder = lock(settings.data_dir)
    try:
        log = SqliteLog(settings.data_dir, relaxed=settings.durability == "relaxed")
        checkpoints = CheckpointFiles(settings.data_dir / "checkpoints")
        made = log.models()
        checkpoints.tidy({record.model for record in made})
        models = [_recover(History(log, record.model), checkpoints, settings) for record in made]
    except BaseException:
        folder.close()
        raise
    return Opened(folder, log, checkpoints, models)


def _recover(
    history: History, checkpoints: CheckpointFiles, settings: Settings
) -> tuple[History, Recovery, HostedModel]:
    for kept in history.tainted(checkpoints.list(history.model)):
        checkpoints.delete(kept)  # a server that was killed while it unlearned has left it
    recovery = Recovery(history, checkpoints, settings)
    model = recovery.base()
    start, left = model.step, recovery.left(model)
    with progress(f"replaying {model.name}", left) as advance:
        model = recovery.run_on(model, advance=advance)
    _logger.info("model %r is at step %d: %d, and %d events", model.name, model.step, start, left)
    return history, recovery, model
