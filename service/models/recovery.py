"""Recovery of models from checkpoints and the event log.

`Recovery` restores one model after any event: at the start of the server, for a rollback, after a divergence,
or without forgotten samples. `open_folder` opens the data folder and recovers all models.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from bnp_online.errors import (
    BackboneError,
    BNPError,
    ConfigurationError,
    DeviceLostError,
    DeviceMemoryError,
    StateError,
)
from bnp_online.learner import Preview
from bnp_online.lines import Lines

from ..blocks import LineReader
from ..errors import (
    DamagedEventError,
    IncompleteLogError,
    NotKeptError,
    StorageError,
    UnknownModelError,
)
from ..settings import Settings
from ..storage import event_codec
from ..storage.data_dir import FolderInUseError
from ..storage.history import History, Upgrade
from ..storage.interfaces import LAST, Checkpoint, Checkpoints, EventLog, Form, Record, Run, RunRecord
from ..telemetry.progress import progress
from . import snapshot
from .block_learning import apply_entries
from .divergence import apply_one_by_one
from .hosted import Applied, HostedModel, Replay, Shadow
from .ledger import Ledger
from .model_file import imported
from .shadows import add_shadow, diverge, new_shadow, promote, remove_shadow
from .stores import Store, open_store
from .validation import BlockEvent, Entry, SampleEvent

Logged: TypeAlias = Record | RunRecord
Advance: TypeAlias = Callable[[int], None]
"""Called between two batches with the number of events replayed so far."""

#: Events that are applied in one call, and about how many bytes.
_BATCH, _BATCH_BYTES = 500, 2**22
_SAMPLES = frozenset({"learn", "label", "predict"})
#: Errors that prevent the start. Their messages say what to do.
START_ERRORS = (
    *(FolderInUseError, StorageError, DamagedEventError, NotKeptError, OSError),
    *(ConfigurationError, DeviceMemoryError, DeviceLostError),
)
#: Errors of one model that cannot be restored: its log or its checkpoints are damaged, or were written by a
#: later version.
UNREADABLE = (DamagedEventError, NotKeptError, IncompleteLogError, BNPError, ValidationError)

_logger = logging.getLogger(__name__)


def start_failure(error: Exception, settings: Settings) -> str:
    """Return the message for one of `START_ERRORS`."""
    if isinstance(error, ConfigurationError) and error.field == "device":
        return f"BNP_DEVICE is {settings.device}: {error.message}"
    if isinstance(error, DeviceMemoryError):
        return f"{error}: end other programs that use the GPU, or set BNP_DEVICE=cpu. The log has all samples"
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
        self._lines = LineReader(settings.max_body_bytes)

    @property
    def history(self) -> History:
        """History of the model."""
        return self._history

    def another(self) -> Recovery:
        """Return a recovery of the same model for another thread, with templates of its own."""
        return Recovery(self._history, self._checkpoints, self._settings)

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
        for records in _batches(self._history.read_runs(model.sequence, upto)):
            if upgrade is not None and records[0].seq < upgrade.seq:
                model, step = self._relearn(model, _single(records), upgrade, step)
            else:
                model = self._replay(model, records)
            events += sum(record.content.samples for record in records)
            size += sum(record.content.size for record in records)
            advance(events - before)
        model.replay = Replay(events, size, seconds + time.perf_counter() - start)
        return model

    def catch_up(self, model: HostedModel, shadow: Shadow, upto: int) -> None:
        """Apply the events up to event `upto`, which a model has applied, to one of its shadows.

        Raises
        ------
        NotKeptError
            If the log no longer has the events.
        DamagedEventError
            If the checksum of an event does not match.
        """
        self.require_kept(shadow)
        for records in _batches(self._history.read_runs(shadow.model.sequence, upto)):
            if not shadow.diverged:
                self._follow(model, shadow, records)

    def require_kept(self, shadow: Shadow) -> None:
        """Raise `NotKeptError` if the log no longer has the events that a shadow has not applied."""
        if not self._history.reaches(shadow.model.sequence):
            raise NotKeptError(
                f"the log no longer has all samples that the shadow {shadow.name!r} has not learned: "
                "delete the shadow, and create it again"
            )

    def follow(self, model: HostedModel, shadow: Shadow, records: Sequence[Logged]) -> None:
        """Apply the next events, which a model has applied, to one of its shadows.

        A shadow that diverges ends there: it has no state any more (`Shadow.diverged`).

        Raises
        ------
        DeviceMemoryError
            If the GPU has too little free memory. The events before were applied.
        """
        for batch in _batches(records):
            if not shadow.diverged:
                self._follow(model, shadow, batch)

    def _follow(self, model: HostedModel, shadow: Shadow, records: list[Logged]) -> None:
        event, own = records[0].content, shadow.model
        assert model.ledger is not None  # noqa: S101 (of a model with shadows)
        if isinstance(event, Run) or event.kind in _SAMPLES:
            entries, refused = self._entries(own, _learned(records, model.ledger), shadow)
            applied = apply_entries(own, entries)
            own.acted.clear()  # the log has the actions of the champion
            if applied is None:
                diverge(shadow)
                return
            shadow.skipped += len(refused) + len(applied.refused)
            if applied.shortage is not None:
                raise applied.shortage
        elif event.kind == "rollback":
            own.drift.dismiss()
        elif event.kind == "promote":
            shadow.restart()
        own.sequence = records[-1].seq
        shadow.compare(model.ledger)

    def advance(self, model: HostedModel, records: Sequence[Record]) -> HostedModel:
        """Return the model after its next events: samples, drift actions and changes of limits.

        It copies no state, since it is called for few events at a time. After a divergence the state before
        is rebuilt from the log.

        Raises
        ------
        NotKeptError, DamagedEventError
            As `run`, after a divergence.
        """
        for batch in _batches(records):
            model = self._replay(model, batch, copied=False)
        return model

    def prepare(self, model: HostedModel) -> int:
        """Remove tainted checkpoints; return the number of events since the newest usable one."""
        self.remove_tainted()
        kept = self._history.states(self._checkpoints.list(self._history.model))
        return self._history.count(kept[0].seq) if kept else self.left(model) + model.sequence

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
            entries, refused = model.readmit(records, model.estimator.preview())
            model, _ = self._apply(model, entries)
            if step is not None:
                samples = [each for each in entries if isinstance(each, SampleEvent)]
                numbered = enumerate(samples, step + 1)
                steps = {each.seq: at for at, each in numbered if each.event.step != at}
                step += len(samples)
                if refused or steps:
                    self._history.correct(refused, steps)
        elif event.kind == "patch" and records[0].seq > upgrade.request:
            model.patch(event_codec.loads(event.body))
        model.sequence = records[-1].seq
        return model, step

    def _apply(
        self, model: HostedModel, entries: list[Entry], *, copied: bool = True
    ) -> tuple[HostedModel, Applied]:
        """Return the model after samples, and the result; see `_replay`."""
        before = snapshot.taking(model, alone=True) if copied else None
        sequence, acted = model.sequence, model.acted[:]
        applied = apply_entries(model, entries)
        if applied is None:
            if before is None:
                model = self.run(sequence)
            else:
                diverged, model = model, snapshot.restore(before(), self._settings, self._history.log.now)
                model.adopt(diverged)
            model.acted = acted
            alone: list[Entry] = []
            for entry in entries:
                if isinstance(entry, BlockEvent):
                    alone += model.samples_of(entry, 0, entry.size)[0]
                else:
                    alone.append(entry)
            model, applied = apply_one_by_one(model, alone)
        if applied.shortage is not None:  # a refusal would lose a sample that was acknowledged
            raise applied.shortage
        return model, applied

    def _entries(
        self, model: HostedModel, batch: Sequence[Logged], owner: object
    ) -> tuple[list[Entry], dict[int, str]]:
        """Return entries for logged samples, in blocks where they are like earlier ones, and refusals.

        The templates of lines end with their owner.
        """
        entries: list[Entry] = []
        refused: dict[int, str] = {}
        preview, alone = model.estimator.preview(), list[Record]()
        for some in _consecutive(batch):
            records: list[Record] = []
            if isinstance(some, RunRecord):
                last: Logged = some
                lines = some.run.lines
            else:
                records, last = some, some[-1]
                lines = Lines.of(each.event.body for each in some)
            source, i = self._lines.open(owner, lines), 0
            while i < len(lines):
                block = None if source is None else source.read(model.estimator, i)
                if block is None:
                    records = records or [*last.records()]
                    alone.append(records[i])
                    i += 1
                    continue
                self._readmit(model, alone, preview, entries, refused, owner)
                alone = []
                i += len(block)
                left, step = len(lines) - i, last.content.step
                run = Run(block.lines, {}, None if step is None else step - left, Form.OBJECTS)
                times = [each.time for each in some[i - len(block) : i]] if isinstance(some, list) else None
                entries.append(BlockEvent(run, block, {}, times, seq=last.seq - left, time=last.time))
        self._readmit(model, alone, preview, entries, refused, owner)
        return entries, refused

    def _readmit(
        self,
        model: HostedModel,
        records: list[Record],
        preview: Preview,
        entries: list[Entry],
        refused: dict[int, str],
        owner: object,
    ) -> None:
        """Add entries for samples that no template fits, and take a template from the last one."""
        found, errors = model.readmit(records, preview)
        entries += found
        refused |= errors
        if found and isinstance(last := found[-1], SampleEvent) and last.event.body[:1] == b"{":
            self._lines.note(owner, model.estimator, last.event.body, event_codec.loads(last.event.body))

    def _replay(self, model: HostedModel, records: list[Logged], *, copied: bool = True) -> HostedModel:
        """Return the model after a batch of samples, or after one event of another kind.

        Parameters
        ----------
        model : HostedModel
            The model before, which may be changed.
        records : list of Record or RunRecord
            The batch.
        copied : bool
            Whether to copy the state before, in case the model diverges. Otherwise it is rebuilt then.
        """
        event = records[0].content
        if isinstance(event, Run) or event.kind in _SAMPLES:
            entries, refused = self._entries(model, records, self)
            model, applied = self._apply(model, entries, copied=copied)
            if refused or applied.refused or applied.steps:
                self._history.correct(refused | applied.refused, applied.steps)
        elif event.kind == "import":
            now, spec = self._history.log.now, model.spec
            model = imported(event.body, spec.name, spec.drift, self._settings, now, device=spec.device)
        elif event.kind == "patch":
            model.patch(event_codec.loads(event.body))
        elif event.kind == "rollback":
            model.drift.dismiss()
        elif event.kind == "action":  # the samples before it took the action; the rest is not logged yet
            noted = event_codec.loads(event.body)
            model.acted = [done for done in model.acted if done["step"] != noted["step"]]
        elif event.kind == "shadow":
            made = event_codec.loads(event.body)
            shadow = new_shadow(made["name"], snapshot.specification(made["spec"]), model)
            add_shadow(model, shadow, records[0].seq)
        elif event.kind == "unshadow":
            remove_shadow(model, event_codec.loads(event.body)["name"])
        elif event.kind == "promote":
            model = self._promote(model, event_codec.loads(event.body)["name"], records[0].seq - 1)
            if event.step != model.step:  # a sample was unlearned since
                self._history.correct({}, {records[0].seq: model.step})
        elif event.kind == "upgraded" and event.step != model.step:  # a sample was unlearned since
            self._history.correct({}, {records[0].seq: model.step})
        model.sequence = records[-1].seq
        return model

    def _promote(self, model: HostedModel, name: str, upto: int) -> HostedModel:
        self.catch_up(model, model.shadows[name], upto)
        return promote(model, name)

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
        expected, found = snapshot.signature(state), log.checksum(kept.model, kept.seq)
        if log.first_kept(kept.model) > kept.seq:  # the event may have been replaced by a repair
            return
        if None not in (expected, found) and expected != found:
            raise IncompleteLogError(
                f"checkpoint {kept.name} of model {kept.model} belongs to another log: "
                f"event {kept.seq} differs"
            )


def _learned(records: Sequence[Logged], ledger: Ledger) -> list[Logged]:
    """Return the events of a batch that their model applied: it may have refused samples."""
    found: list[Logged] = []
    for record in records:
        count = record.content.samples
        if isinstance(record, RunRecord) and ledger.count(record.seq - count + 1, record.seq) == count:
            found.append(record)
            continue
        found += [each for each in record.records() if each.event.kind == "predict" or ledger.has(each.seq)]
    return found


def _batches(records: Iterable[Logged]) -> Iterator[list[Logged]]:
    """Yield consecutive samples in batches, which are limited in bytes too, and every other event alone.

    A batch has whole runs, so that a correction of their steps does not divide them.
    """
    batch: list[Logged] = []
    count = size = 0
    for record in records:
        sample = isinstance(record, RunRecord) or record.event.kind in _SAMPLES
        if batch and not (sample and count < _BATCH and size < _BATCH_BYTES):
            yield batch
            batch, count, size = [], 0, 0
        if sample:
            batch.append(record)
            count += record.content.samples
            size += record.content.size
        else:
            yield [record]
    if batch:
        yield batch


def _single(records: Iterable[Logged]) -> list[Record]:
    """Return the events one by one."""
    return [each for record in records for each in record.records()]


def _consecutive(records: Iterable[Logged]) -> Iterator[list[Record] | RunRecord]:
    """Yield runs, and single samples with consecutive steps together."""
    some: list[Record] = []
    for record in records:
        if isinstance(record, RunRecord) and record.run.step is not None:
            if some:
                yield some
                some = []
            yield record
            continue
        for each in record.records():
            if some and not _follows(some[-1], each):
                yield some
                some = []
            some.append(each)
    if some:
        yield some


def _follows(before: Record, record: Record) -> bool:
    one, other = before.event, record.event
    plain = one.kind == other.kind == "learn" and before.refused is None is record.refused
    steps = one.step is not None and other.step == one.step + 1
    return plain and steps and record.seq == before.seq + 1


class Recovered(NamedTuple):
    """A model that was restored from the log, or created there, with its history and its recovery."""

    history: History
    recovery: Recovery
    model: HostedModel


@dataclass(frozen=True, slots=True)
class Opened:
    """An open store with its models.

    Attributes
    ----------
    store : Store
        Log and checkpoints.
    made : list of Record
        The creation of each model.
    models : list of Recovered
        The recovered models: all, or with a limit of the models in memory only those with work to resume.
    failures : dict of int to str
        Why models, by number, could not be recovered although the others can.
    """

    store: Store
    made: list[Record]
    models: list[Recovered]
    failures: dict[int, str]


def open_folder(settings: Settings) -> Opened:
    """Open the store of the settings and recover its models, with a progress bar.

    With a limit of the models in memory, a model is recovered when a request needs it. A model whose frozen
    backbone is missing does not prevent the start: a request to it gets an error until the file is back.

    Raises
    ------
    FolderInUseError
        If another server uses the folder.
    StorageError
        If the store cannot be read or written, or if another server uses it.
    DamagedEventError, NotKeptError
        If a model cannot be recovered.
    """
    store = open_store(settings, serving=True)
    log, checkpoints = store.log, store.checkpoints
    try:
        made = log.models()
        models: list[Recovered] = []
        failures: dict[int, str] = {}
        for record in made:
            with store.reported(), _backbone_required(record, failures):
                if settings.models_in_memory is None or _resumes(log, record.model, checkpoints, settings):
                    models.append(recover(log, record.model, checkpoints, settings))
            gc.freeze()  # later garbage collections would visit all models that are loaded
        unknown = set(checkpoints.models()) - {record.model for record in made}
        checkpoints.tidy(model for model in unknown if log.changes(model, "delete"))
    except BaseException:
        store.close()
        raise
    return Opened(store, made, models, failures)


@contextlib.contextmanager
def _backbone_required(made: Record, failures: dict[int, str]) -> Iterator[None]:
    """Note and log that the backbone of a model is missing."""
    try:
        yield
    except BackboneError as error:
        name = event_codec.loads(made.event.body)["name"]
        _logger.critical("model %r cannot be restored: %s", name, error)
        failures[made.model] = str(error)


def _resumes(log: EventLog, model: int, checkpoints: Checkpoints, settings: Settings) -> bool:
    """Return whether a model has an upgrade to resume; remove what a killed server left of its unlearning."""
    history = History(log, model)
    if log.changes(model, "forget"):
        Recovery(history, checkpoints, settings).remove_tainted()
    return history.upgrading is not None


@contextlib.contextmanager
def opened(settings: Settings, name: str) -> Iterator[tuple[Recovered, Checkpoints]]:
    """Open the store of the settings, and recover one model, for the block.

    Raises
    ------
    UnknownModelError
        If it has no model of this name.
    FolderInUseError, StorageError, DamagedEventError, NotKeptError
        As `open_folder`.
    """
    store = open_store(settings)
    with contextlib.closing(store):
        log = store.log
        numbers = {event_codec.loads(each.event.body)["name"]: each.model for each in log.models()}
        if name not in numbers:
            raise UnknownModelError(
                f"{store.place} has no model {name!r}: the models are {', '.join(numbers) or 'none'}"
            )
        with store.reported():
            yield recover(log, numbers[name], store.checkpoints, settings), store.checkpoints


def _ignore(done: int) -> None:
    """Show no progress."""


def recover(
    log: EventLog,
    number: int,
    checkpoints: Checkpoints,
    settings: Settings,
    *,
    shown: bool = True,
    owned: bool = True,
) -> Recovered:
    """Recover one model, by its number.

    Parameters
    ----------
    log, checkpoints : EventLog, Checkpoints
        Log and checkpoints of all models.
    number : int
        Number of the model.
    settings : Settings
        Limits and device.
    shown : bool
        Whether to show the progress on a terminal.
    owned : bool
        Whether this process owns the model. Otherwise nothing is written or removed.

    Raises
    ------
    DamagedEventError, NotKeptError
        If the model cannot be recovered.
    """
    history = History(log, number)
    recovery = Recovery(history, checkpoints, settings)
    if owned:
        recovery.remove_tainted()
    try:
        model = recovery.base()
    except NotKeptError as error:
        raise NotKeptError(
            f"{error}. Put back the checkpoints that were stored with this log, in "
            f"{checkpoints.place(history.model)}. Or start without any model: "
            "`bnp-online repair --from nothing` moves the log and all checkpoints to a folder aside-..."
        ) from None
    start, left = model.step, recovery.left(model)
    showing = progress(f"replaying {model.name}", left) if shown else contextlib.nullcontext(_ignore)
    with showing as advance:
        model = recovery.run_on(model, advance=advance)
    _logger.log(
        logging.INFO if shown else logging.DEBUG,
        "model %r recovered: step %d (checkpoint at step %d, %d events replayed)",
        model.name,
        model.step,
        start,
        left,
    )
    return Recovered(history, recovery, model)
