"""Recovery of models from checkpoints and the event log.

`Recovery` restores one model after any event: at the start of the server, for a rollback, after a divergence,
or without forgotten samples. `open_folder` opens the data folder and recovers all models.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

from pydantic import ValidationError

from bnp_online import checkpoint as file_format
from bnp_online.errors import CheckpointError, StateError

from ..errors import DamagedEventError, IncompleteLogError, InvalidSpecError, NotKeptError, StorageError
from ..schemas import DriftSpec, ModelSpec
from ..settings import Settings
from ..storage import event_codec
from ..storage.checkpoints import FOLDER, CheckpointFiles
from ..storage.data_dir import FolderInUseError, lock
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Checkpoints, Record
from ..storage.sqlite import SqliteLog
from ..telemetry.progress import progress
from . import snapshot
from .continuation import open_log, reported
from .divergence import apply_one_by_one
from .hosted import HostedModel, Replay

Advance: TypeAlias = Callable[[int], None]
"""Called between two batches with the number of events replayed so far."""

#: Events that are applied in one call, and about how many bytes.
_BATCH, _BATCH_BYTES = 500, 2**22
_SAMPLES = frozenset({"learn", "label", "predict"})
#: Limits of the header of an imported file: bytes, and values. Within them, its parsing stops the event loop
#: for less than 0.1 s. A model with 4,096 features has a header of 0.1 to 1 MB with 4,400 values.
_HEADER_BYTES, _HEADER_VALUES = 2**22, 100_000
#: Errors that prevent the start. Their messages say what to do.
START_ERRORS = (FolderInUseError, StorageError, DamagedEventError, NotKeptError, OSError)

_logger = logging.getLogger(__name__)


def start_failure(error: Exception, settings: Settings) -> str:
    """Return the message for one of `START_ERRORS`."""
    if isinstance(error, OSError):
        return f"the data folder {settings.data_dir}: {error.strerror}: set BNP_DATA_DIR to another folder"
    return str(error)


class Recovery:
    """Restores one model after any event of its history that is retained.

    Parameters
    ----------
    history : History
        History of the model.
    checkpoints : Checkpoints
        Checkpoints of all models.
    settings : Settings
        Limits and device.

    """

    def __init__(self, history: History, checkpoints: Checkpoints, settings: Settings) -> None:
        self._history = history
        self._checkpoints = checkpoints
        self._settings = settings

    def run(self, upto: int | None = None, advance: Advance = lambda done: None) -> HostedModel:
        """Return the model after event `upto`, by default the last one.

        The model is loaded from the newest intact checkpoint, and the events after it are applied. The replay
        adds missing refusals and steps to the log.

        Raises
        ------
        NotKeptError
            If neither the beginning of the log nor a checkpoint before the event is retained.
        DamagedEventError
            If the checksum of an event does not match.
        """
        return self.run_on(self.base(upto), upto, advance)

    def run_on(
        self, model: HostedModel, upto: int | None = None, advance: Advance = lambda done: None
    ) -> HostedModel:
        """Apply the missing events, up to event `upto`, to a model, and return the model."""
        events, size, seconds = model.replay
        before, start = events, time.perf_counter()
        for records in _batches(self._history.read(model.sequence, upto)):
            model = self._replay(model, records)
            events += len(records)
            size += sum(len(record.event.body) for record in records)
            advance(events - before)
        model.replay = Replay(events, size, seconds + time.perf_counter() - start)
        return model

    def left(self, model: HostedModel) -> int:
        """Return the number of events that are not applied to a model."""
        return self._history.count(model.sequence)

    def reaches(self, upto: int) -> bool:
        """Return whether the model can be restored after event `upto`."""
        kept = self._history.states(self._checkpoints.list(self._history.model), upto)
        return bool(kept) or self._history.reaches(self._history.model)

    def _replay(self, model: HostedModel, records: list[Record]) -> HostedModel:
        """Return the model after a batch of samples, or after one event of another kind."""
        event = records[0].event
        if event.kind in _SAMPLES:
            entries, refused = model.readmit(records)
            before, acted = snapshot.taking(model), model.acted[:]
            applied = model.apply(entries)
            if not model.is_sound(entries):
                model = snapshot.restore(before(), self._settings, self._history.log.now)
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
        elif event.kind == "action":  # the samples before it took the action; the rest is not logged yet
            noted = event_codec.loads(event.body)
            model.acted = [done for done in model.acted if done["step"] != noted["step"]]
        model.sequence = records[-1].seq
        return model

    def base(self, upto: int | None = None) -> HostedModel:
        """Return the newest state before event `upto`, from a checkpoint or the creation; raises as `run`."""
        clock = self._history.log.now
        for kept in self._history.states(self._checkpoints.list(self._history.model), upto):
            try:
                state = self._checkpoints.load(kept)
                self._require_same_log(kept, state)
                return snapshot.restore(state, self._settings, clock)
            except (StateError, OSError) as error:
                _logger.warning("skipping checkpoint %s of model %d: %s", kept.name, kept.model, error)
        made = self._history.made()
        if not self._history.reaches(made.seq):
            raise NotKeptError(
                f"model {self._history.model} cannot be rebuilt: the log begins after its creation, and no "
                "earlier checkpoint is intact"
            )
        spec = snapshot.specification(event_codec.loads(made.event.body))
        model = HostedModel(spec, self._settings, clock)
        model.sequence = made.seq
        return model

    def remove_tainted(self) -> None:
        """Remove checkpoints with forgotten samples: a server was killed while it unlearned them.

        Raises
        ------
        IncompleteLogError
            If one of them belongs to another log. It is retained.
        """
        for kept in self._history.tainted(self._checkpoints.list(self._history.model)):
            with contextlib.suppress(StateError, OSError):  # damaged: it belongs to no log
                self._require_same_log(kept, self._checkpoints.load(kept))
            self._checkpoints.delete(kept)

    def _require_same_log(self, kept: Checkpoint, state: snapshot.State) -> None:
        """Raise `IncompleteLogError` if a checkpoint belongs to another log."""
        log = self._history.log
        expected, found = snapshot.signature(state), log.checksum(kept.seq)
        if log.first_kept(kept.model) > kept.seq:  # the event may have been replaced by a repair
            return
        if None not in (expected, found) and expected != found:
            raise IncompleteLogError(
                f"checkpoint {kept.name} of model {kept.model} belongs to another log: "
                f"event {kept.seq} differs"
            )


def imported(
    body: bytes,
    name: str,
    drift: DriftSpec,
    settings: Settings,
    clock: Callable[[], float],
    admit: Callable[[ModelSpec], object] = lambda spec: None,
    *,
    untrusted: bool = False,
) -> HostedModel:
    """Return a hosted model from the file of an estimator.

    Parameters
    ----------
    body : bytes
        Content of the file.
    name : str
        Name of the model.
    drift : DriftSpec
        Drift detection, which the file does not have.
    settings, clock
        See `HostedModel`.
    admit : callable
        Called with the specification before the model is created; may raise.
    untrusted : bool
        Whether a client sent the file now, so that its header is limited. The log has accepted files only.

    Raises
    ------
    CheckpointError, StateError
        If the file is damaged or has no estimator.
    InvalidSpecError
        If the server cannot create this model.
    """
    if untrusted:
        state = file_format.loads(body, longest_header=_HEADER_BYTES, most_values=_HEADER_VALUES)
    else:
        state = file_format.loads(body)
    task = {"BNPClassifier": "classification", "BNPRegressor": "regression"}.get(str(state.get("estimator")))
    parameters = state.get("parameters")
    _check_text(state)
    if task is None or not isinstance(parameters, dict):
        raise CheckpointError("the file has no estimator of this library")
    known = {key: value for key, value in parameters.items() if key in ModelSpec.model_fields}
    spec = {**known, "name": name, "task": task, "drift": drift.model_dump(mode="json")}
    try:
        valid = snapshot.specification(spec)
    except ValidationError as error:
        fields = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise InvalidSpecError(f"the server cannot create this model: {fields}") from None
    admit(valid)
    model = HostedModel(valid, settings, clock)
    model.estimator.load_state_dict(state)
    return model


def _check_text(state: dict[str, Any]) -> None:
    """Refuse strings that are not Unicode: a file may have them, but a response cannot."""
    header = {key: value for key, value in state.items() if key != "tensors"}
    try:
        json.dumps(header, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CheckpointError("the file has a string that is not Unicode") from None


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Yield consecutive samples in batches, which are limited in bytes too, and every other event alone."""
    batch: list[Record] = []
    size = 0
    for record in records:
        sample = record.event.kind in _SAMPLES
        if batch and not (sample and len(batch) < _BATCH and size < _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        if sample:
            batch.append(record)
            size += len(record.event.body)
        else:
            yield [record]
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class Opened:
    """An open data folder.

    Attributes
    ----------
    folder : file
        Lock on the folder, until it is closed.
    log, checkpoints
        Content of the folder.
    models : list of (History, Recovery, HostedModel)
        The recovered models, with their history and recovery.
    """

    folder: IO[str]
    log: SqliteLog
    checkpoints: CheckpointFiles
    models: list[tuple[History, Recovery, HostedModel]]

    def close(self) -> None:
        """Close the log and release the data folder."""
        self.log.close()
        self.folder.close()


def open_folder(settings: Settings) -> Opened:
    """Open the data folder and recover all models, with a progress bar.

    Raises
    ------
    FolderInUseError
        If another server uses the folder.
    StorageError
        If the folder cannot be read or written.
    DamagedEventError, NotKeptError
        If a model cannot be recovered.
    """
    folder, log = lock(settings.data_dir), None
    try:
        checkpoints = CheckpointFiles(settings.data_dir / FOLDER)
        log = open_log(settings, checkpoints)
        made = log.models()
        models = []
        for record in made:
            with reported(settings.data_dir, checkpoints):
                models.append(_recover(History(log, record.model), checkpoints, settings))
            gc.freeze()  # later garbage collections would visit all models that are loaded
        unknown = set(checkpoints.models()) - {record.model for record in made}
        checkpoints.tidy(model for model in unknown if log.changes(model, "delete"))
    except BaseException:
        if log is not None:
            log.close()
        folder.close()
        raise
    return Opened(folder, log, checkpoints, models)


def _recover(
    history: History, checkpoints: CheckpointFiles, settings: Settings
) -> tuple[History, Recovery, HostedModel]:
    recovery = Recovery(history, checkpoints, settings)
    recovery.remove_tainted()
    try:
        model = recovery.base()
    except NotKeptError as error:
        raise NotKeptError(
            f"{error}. Put back the checkpoints that were stored with this log, in "
            f"{checkpoints.folder(history.model)}. Or start without any model: "
            "`bnp-online repair --from nothing` moves the log and all checkpoints to a folder aside-..."
        ) from None
    start, left = model.step, recovery.left(model)
    with progress(f"replaying {model.name}", left) as advance:
        model = recovery.run_on(model, advance=advance)
    _logger.info(
        "model %r recovered: step %d (checkpoint at step %d, %d events replayed)",
        model.name,
        model.step,
        start,
        left,
    )
    return history, recovery, model
