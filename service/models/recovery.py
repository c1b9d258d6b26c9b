"""Recovery of models from checkpoints and the event log.

`Recovery` restores one model after any event: at the start of the server, for a rollback, after a divergence,
or without forgotten samples. `open_folder` opens the data folder and recovers all models.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

from bnp_online.errors import StateError

from ..errors import (
    DamagedEventError,
    IncompleteLogError,
    NotKeptError,
    StorageError,
    UnknownModelError,
)
from ..settings import Settings
from ..storage import event_codec
from ..storage.checkpoints import FOLDER, CheckpointFiles
from ..storage.data_dir import FolderInUseError, lock
from ..storage.history import History, Upgrade
from ..storage.interfaces import LAST, Checkpoint, Checkpoints, Record
from ..storage.sqlite import SqliteLog
from ..telemetry.progress import progress
from . import snapshot
from .continuation import open_log, reported
from .divergence import apply_one_by_one
from .hosted import Applied, HostedModel, Replay
from .model_file import imported
from .validation import Entry, SampleEvent

Advance: TypeAlias = Callable[[int], None]
"""Called between two batches with the number of events replayed so far."""

#: Events that are applied in one call, and about how many bytes.
_BATCH, _BATCH_BYTES = 500, 2**22
_SAMPLES = frozenset({"learn", "label", "predict"})
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
        self,
        model: HostedModel,
        upto: int | None = None,
        advance: Advance = lambda done: None,
        upgrade: Upgrade | None = None,
    ) -> HostedModel:
        """Apply the missing events, up to event `upto`, to a model, and return the model.

        The model is of the latest upgrade before the event, or of one that is given because it is not
        completed.
        """
        upgrade = upgrade or self._history.upgrade(upto)
        events, size, seconds = model.replay
        before, start = events, time.perf_counter()
        step = None
        if upgrade is not None and upgrade.seq < LAST and upgrade.after == model.sequence:
            step = upgrade.step
        for records in _batches(self._history.read(model.sequence, upto)):
            if upgrade is not None and records[0].seq < upgrade.seq:
                model, step = self._relearn(model, records, upgrade, step)
            else:
                model = self._replay(model, records)
            events += len(records)
            size += sum(len(record.event.body) for record in records)
            advance(events - before)
        model.replay = Replay(events, size, seconds + time.perf_counter() - start)
        return model

    def left(self, model: HostedModel) -> int:
        """Return the number of events that are not applied to a model."""
        return self._history.count(model.sequence)

    def reaches(self, before: int) -> bool:
        """Return whether the current model can be restored from a state before event `before`."""
        kept = self._history.states(self._checkpoints.list(self._history.model))
        return any(each.seq < before for each in kept) or self._history.reaches(self._history.start)

    def _relearn(
        self, model: HostedModel, records: list[Record], upgrade: Upgrade, step: int | None
    ) -> tuple[HostedModel, int | None]:
        """Apply events before the upgrade of a model, which the model before has answered.

        The model learns the samples, and gets the changes of its specification since the request. What the
        model before did, such as drift actions, has no effect. Refusals and steps in the log are those of the
        model before; unlearning changes these steps.

        Parameters
        ----------
        step : int or None
            Step of the model before, if the logged steps are to be corrected.

        Returns
        -------
        HostedModel, int or None
            The model, and the step after the events.
        """
        event = records[0].event
        if event.kind in _SAMPLES:
            entries, refused = model.readmit(records)
            model, _ = self._apply(model, entries)
            if step is not None:
                samples = [each for each in entries if isinstance(each, SampleEvent)]
                numbered = enumerate(samples, step + 1)
                steps = {each.seq: at for at, each in numbered if each.event.step != at}
                step += len(samples)
                if refused or steps:
                    self._history.log.correct(refused, steps)
        elif event.kind == "patch" and records[0].seq > upgrade.request:
            model.patch(event_codec.loads(event.body))
        model.sequence = records[-1].seq
        return model, step

    def _apply(self, model: HostedModel, entries: list[Entry]) -> tuple[HostedModel, Applied]:
        """Return the model after samples, and the result."""
        before, acted = snapshot.taking(model), model.acted[:]
        applied = model.apply(entries)
        if not model.is_sound(entries):
            model = snapshot.restore(before(), self._settings, self._history.log.now)
            model.acted = acted
            model, applied = apply_one_by_one(model, entries)
        return model, applied

    def _replay(self, model: HostedModel, records: list[Record]) -> HostedModel:
        """Return the model after a batch of samples, or after one event of another kind."""
        event = records[0].event
        if event.kind in _SAMPLES:
            entries, refused = model.readmit(records)
            model, applied = self._apply(model, entries)
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
        elif event.kind == "upgraded" and event.step != model.step:  # a sample was unlearned since
            self._history.log.correct({}, {records[0].seq: model.step})
        model.sequence = records[-1].seq
        return model

    def base(self, upto: int | None = None) -> HostedModel:
        """Return the newest state up to event `upto`, from a checkpoint or untrained; raises as `run`."""
        clock = self._history.log.now
        for kept in self._history.states(self._checkpoints.list(self._history.model), upto):
            try:
                state = self._checkpoints.load(kept)
                self._require_same_log(kept, state)
                return snapshot.restore(state, self._settings, clock)
            except (StateError, OSError) as error:
                _logger.warning("skipping checkpoint %s of model %d: %s", kept.name, kept.model, error)
        upgrade = self._history.upgrade(upto)
        return self._created() if upgrade is None else self.begin(upgrade)

    def begin(self, upgrade: Upgrade) -> HostedModel:
        """Return the untrained model of an upgrade; raises as `run`."""
        return self._untrained(upgrade.spec, upgrade.after)

    def _created(self) -> HostedModel:
        made = self._history.made()
        return self._untrained(event_codec.loads(made.event.body), made.seq)

    def _untrained(self, spec: dict[str, Any], after: int) -> HostedModel:
        """Return an untrained model, which the events after a number train."""
        if not self._history.reaches(after):
            raise NotKeptError(
                f"model {self._history.model} cannot be rebuilt: the log begins after its creation, and no "
                "earlier checkpoint is intact"
            )
        model = HostedModel(snapshot.specification(spec), self._settings, self._history.log.now)
        model.sequence = after
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


@contextlib.contextmanager
def opened(settings: Settings, name: str) -> Iterator[tuple[History, Recovery, HostedModel, CheckpointFiles]]:
    """Open a data folder, and recover one model, for the block.

    Raises
    ------
    UnknownModelError
        If the folder has no model of this name.
    FolderInUseError, StorageError, DamagedEventError, NotKeptError
        As `open_folder`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(settings.data_dir))
        checkpoints = CheckpointFiles(settings.data_dir / FOLDER)
        log = stack.enter_context(contextlib.closing(open_log(settings, checkpoints)))
        numbers = {event_codec.loads(each.event.body)["name"]: each.model for each in log.models()}
        if name not in numbers:
            raise UnknownModelError(
                f"{settings.data_dir} has no model {name!r}: the models are {', '.join(numbers) or 'none'}"
            )
        with reported(settings.data_dir, checkpoints):
            yield *_recover(History(log, numbers[name]), checkpoints, settings), checkpoints


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
