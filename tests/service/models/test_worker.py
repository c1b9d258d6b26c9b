"""Rules of the writer of a model, against a fake event log: what an error, a refused commit and a model that
diverges change, and what they leave."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from bnp_online import BNPClassifier
from bnp_online.errors import DeviceLostError, DeviceMemoryError, NonFiniteStateError, SampleError
from bnp_online.values import Array, Sample
from service.errors import (
    BatchRefusedError,
    DeviceFailedError,
    ModelFailedError,
    OutcomeUnknownError,
    PositionMovedError,
    QueueFullError,
    ShuttingDownError,
    StorageFailedError,
    StorageFullError,
    UnknownModelError,
)
from service.models import pipeline
from service.models.checkpointer import Checkpointer
from service.models.hosted import HostedModel
from service.models.pipeline import Pipeline
from service.models.scheduling import FairTurns
from service.models.threads import Threads
from service.models.validation import Label, Learn, Predict, SampleEvent
from service.models.worker import Asked, Worker
from service.schemas import ModelSpec
from service.settings import Settings
from service.storage.history import History
from service.storage.interfaces import Advance, Event, Position
from service.storage.log_writer import LogWriter
from service.telemetry.metrics import LogMetrics
from tests.support.logs import FakeCheckpoints, FakeLog

SETTINGS = Settings(device="cpu", checkpoint_every=1_000_000)
#: A value that the fake divergence check takes for one that leaves no finite prediction.
POISON = 666.0


class Writer:
    """A worker with a fake log, on the running event loop."""

    def __init__(self, queue_size: int = 100, group_size: int = 8, **spec: Any) -> None:
        self.spec = ModelSpec(hidden=(4,), replay=0, **spec)
        self.log = FakeLog()
        self.log_writer = LogWriter(self.log, LogMetrics(CollectorRegistry()))
        self.threads = Threads()
        self.history = History(self.log, self.log.create(Event("create", b"")))
        self.checkpointer = Checkpointer(
            self.history, FakeCheckpoints(), SETTINGS, self.threads.checkpoints, lambda kept: None
        )
        self.drifts: list[int] = []
        self.rebuild: Callable[[int], HostedModel] = self._rebuild
        self.worker = Worker(
            self._model(),
            self.history,
            self.log_writer,
            self.checkpointer,
            self.threads,
            FairTurns(),
            lambda upto: self.rebuild(upto),
            queue_size,
            group_size,
            lambda **told: self.drifts.append(told["step"]),
        )

    def _model(self) -> HostedModel:
        return HostedModel(self.spec, SETTINGS, self.log.now)

    def _rebuild(self, upto: int) -> HostedModel:
        model = self._model()
        records = [record for record in self.log.records if record.seq <= upto and record.event.body]
        entries, _ = model.readmit(records, model.estimator.preview())
        model.apply(entries)
        model.sequence = upto
        return model

    async def learn(self, *samples: tuple[dict[str, Any], Any]) -> list[Any]:
        """Queue samples in order; return for each the answer or the error."""
        waiting = [asyncio.ensure_future(self.worker.learn(Learn(x, y))) for x, y in samples]
        return await asyncio.gather(*waiting, return_exceptions=True)

    async def settle(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(30.0):
            while not condition():
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.log.open()
        await self.worker.close()
        await asyncio.to_thread(self.log_writer.close)
        self.threads.close()

    @property
    def fingerprint(self) -> str:
        return self.worker.model.estimator.fingerprint()


def run(test: Callable[[Writer], Awaitable[None]], **options: Any) -> None:
    """Run a test with a writer of its own."""

    async def go() -> None:
        writer = Writer(**options)
        try:
            await test(writer)
        finally:
            await writer.close()

    asyncio.run(go())


def steps(outcomes: Sequence[Any]) -> list[Any]:
    """Return the step of each answer, and the type of each error."""
    return [each["step"] if isinstance(each, dict) else type(each) for each in outcomes]


def test_a_sample_is_logged_before_it_is_learned() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        waiting = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.log.arrived == 1)
        assert writer.worker.model.step == 0
        writer.log.open()
        assert steps(await waiting) == [1]

    run(test)


def test_learned_samples_leave_no_objects() -> None:
    async def test(writer: Writer) -> None:
        def left() -> list[SampleEvent]:
            gc.collect()
            events = [each for each in gc.get_objects() if type(each) is SampleEvent]
            return [each for each in events if b"alone" in each.event.body]  # other tests may have left some

        await writer.learn(*[({"alone": float(i)}, "cat") for i in range(20)])
        await writer.settle(lambda: not left())  # the thread of the log ends its last call

    run(test)


def test_a_group_is_checked_while_the_one_before_is_on_its_way_to_the_log() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        first = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.log.arrived == 1)
        second = asyncio.ensure_future(writer.learn(({"a": 1.0}, 7)))  # another type of label: refused
        third = asyncio.ensure_future(writer.learn(({"a": 2.0}, "dog")))
        await writer.settle(lambda: writer.worker.refusals["label_type"] == 1)
        writer.log.open()
        outcomes = [*await first, *await second, *await third]
        assert [each["step"] for each in outcomes if isinstance(each, dict)] == [1, 2]
        assert getattr(outcomes[1], "code", None) == "label_type"

    run(test)


def test_what_a_refused_commit_held_is_refused_and_changes_nothing() -> None:
    async def test(writer: Writer) -> None:
        await writer.learn(({"a": 1.0}, "cat"))
        before = writer.fingerprint
        writer.log.refuse(StorageFullError("the disk is full"))
        assert steps(await writer.learn(({"a": 2.0}, "dog"), ({"b": 2.0}, "cow"))) == [StorageFullError] * 2
        assert writer.fingerprint == before
        assert not writer.worker.failed
        assert steps(await writer.learn(({"a": 2.0}, "dog"))) == [2]

    run(test)


def advance(before: int | None, after: int) -> list[Advance]:
    return [Advance("kafka:t", 0, before, after)]


def test_messages_are_logged_with_the_position_after_them() -> None:
    async def test(writer: Writer) -> None:
        worker, number = writer.worker, writer.history.model
        writer.log.hold()
        alone = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        batches = [
            worker.queue_messages([Learn({"a": 2.0}, "dog"), Learn({"a": 2.0}, 7)], advance(None, 5)),
            worker.queue_messages([], advance(5, 9)),
            worker.queue_messages([Learn({"a": 3.0}, "dog")], advance(7, 10)),  # its commit fails
            worker.queue_messages([Learn({"a": 4.0}, "dog")], advance(9, 10)),
        ]
        assert worker.samples_waiting >= 5
        writer.log.open()
        assert steps(await alone) == [3]
        outcomes = [steps(await batch) if i != 1 else await batch for i, batch in enumerate(batches)]
        assert outcomes == [[1, SampleError], [{}], [PositionMovedError], [2]]
        assert writer.log.positions(number) == [Position("kafka:t", 0, 10)]
        assert worker.samples_waiting == 0

    run(test)


def without_memory(writer: Writer, times: int) -> None:
    """Let the GPU of the model lack memory for the samples with the feature "wide", some times."""
    estimator, left = writer.worker.model.estimator, times
    learn = estimator.learn_samples

    def learn_samples(given: Sequence[Sample]) -> list[Any]:
        nonlocal left
        for i, each in enumerate(given):
            if left and "wide" in cast(Any, each.features).values:
                left -= 1
                return [
                    *(learn(given[:i]) if i else []),
                    DeviceMemoryError("cuda:0 has too little free memory"),
                ]
        return learn(given)

    cast(Any, estimator).learn_samples = learn_samples


def test_a_sample_for_which_there_is_no_memory_is_refused_and_can_be_repeated() -> None:
    async def test(writer: Writer) -> None:
        without_memory(writer, 1)
        narrow, wide = ({"a": 1.0}, "cat"), ({"wide": 1.0}, "dog")
        assert steps(await writer.learn(narrow, wide, narrow)) == [1, DeviceMemoryError, 2]
        assert writer.worker.refusals["device_memory_full"] == 1
        refused = writer.log.records[2].seq
        assert writer.log.corrections[:1] == [(refused, "device_memory_full")]
        assert steps(await writer.learn(wide)) == [3]
        local = BNPClassifier(device="cpu", **{**writer.spec.options(), "hidden": (4,)})
        for sample in (narrow, narrow, wide):
            local.learn_one(*sample)
        assert writer.fingerprint == local.fingerprint()

    run(test)


def test_a_message_for_which_there_is_no_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its position is stored, and no client would send it again."""
    monkeypatch.setattr(pipeline, "_RETRY", 0.001)

    async def test(writer: Writer) -> None:
        without_memory(writer, 3)
        messages = [Learn({"a": 1.0}, "cat"), Learn({"wide": 1.0}, "dog"), Learn({"a": 2.0}, "cat")]
        assert steps(await writer.worker.queue_messages(messages, advance(None, 3))) == [1, 2, 3]
        assert writer.log.corrections == []

    run(test)


def test_a_lost_gpu_answers_what_waits_and_what_may_be_in_the_log() -> None:
    async def test(writer: Writer) -> None:
        def fail(given: object) -> None:
            raise DeviceLostError("cuda:0 failed")

        cast(Any, writer.worker.model.estimator).learn_samples = fail
        writer.log.hold()
        logged = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.log.arrived == 1)
        operation = asyncio.ensure_future(writer.worker.exclusive(lambda: None))
        waiting = asyncio.ensure_future(writer.learn(({"a": 2.0}, "cat")))
        await asyncio.sleep(0.01)
        writer.worker.lose(
            lambda: DeviceFailedError("ends"), lambda: OutcomeUnknownError("may be in the log")
        )
        writer.log.open()
        assert steps(await logged) == [OutcomeUnknownError]
        assert steps(await waiting) == [DeviceFailedError]
        with pytest.raises((DeviceFailedError, OutcomeUnknownError)):
            await operation
        with pytest.raises(DeviceFailedError):
            await writer.worker.learn(Learn({"a": 3.0}, "cat"))
        with pytest.raises(DeviceFailedError):
            await writer.worker.predict(Asked({"a": 3.0}))

    run(test)


def test_of_a_whole_batch_no_message_is_learned_if_one_is_refused() -> None:
    async def test(writer: Writer) -> None:
        worker, number = writer.worker, writer.history.model
        await writer.learn(({"a": 1.0}, "cat"))
        before = writer.fingerprint
        samples = [Learn({"a": 2.0}, "dog", id="1"), Learn({"a": 2.0}, 7), Learn({"b": 2.0}, "cow", id="2")]
        refused = await worker.queue_messages(samples, advance(None, 3), whole=True)
        assert steps(refused) == [BatchRefusedError, SampleError, BatchRefusedError]
        assert writer.fingerprint == before
        assert writer.log.positions(number) == []
        rest = [samples[0], samples[2], samples[0]]
        assert steps(await worker.queue_messages(rest, advance(None, 3), whole=True)) == [2, 3, 2]
        assert writer.log.positions(number) == [Position("kafka:t", 0, 3)]

    run(test)


def test_what_was_checked_after_a_refused_commit_is_checked_again() -> None:
    """A class that was never logged counts for nothing: neither for the limit nor for its type."""

    async def test(writer: Writer) -> None:
        writer.log.hold()
        writer.log.refuse(StorageFailedError("the disk does not answer"))
        first = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.log.arrived == 1)
        writer.log.open()
        assert steps(await first) == [StorageFailedError]
        assert steps(await writer.learn(({"a": 1.0}, 7), ({"a": 1.0}, 8))) == [1, 2]
        assert writer.worker.model.estimator.labels == (7, 8)  # type: ignore[union-attr]  # a classifier

    run(test)


def test_a_step_that_the_log_cannot_take_is_recorded_before_the_next_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A start from the checkpoint would not find it again."""

    async def test(writer: Writer) -> None:
        recorded, full = dict[int, int](), True

        def correct(model: int, refused: Mapping[int, str], steps: Mapping[int, int]) -> None:
            if full:
                raise StorageFullError("the disk is full")
            recorded.update(steps)

        monkeypatch.setattr(writer.log, "correct", correct)
        writer.log.hold()
        writer.log.refuse(StorageFullError("the disk is full"))
        first = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.log.arrived == 1)
        second = asyncio.ensure_future(writer.learn(({"a": 2.0}, "dog")))  # checked as step 2
        await asyncio.sleep(0.1)
        writer.log.open()
        assert steps([*await first, *await second]) == [StorageFullError, 1]
        model = writer.worker.model
        with pytest.raises(StorageFullError):
            await asyncio.wrap_future(writer.checkpointer.take(model))
        full = False
        await asyncio.wrap_future(writer.checkpointer.take(model))
        assert recorded == {model.sequence: 1}

    run(test)


def test_an_id_of_a_refused_commit_is_free_again() -> None:
    async def test(writer: Writer) -> None:
        writer.log.refuse(StorageFullError("the disk is full"))
        request = Learn({"a": 1.0}, "cat", id="e-1")
        with pytest.raises(StorageFullError):
            await writer.worker.learn(request)
        assert (await writer.worker.learn(request))["duplicate"] is False
        assert (await writer.worker.learn(request))["duplicate"] is True

    run(test)


def test_a_repeated_sample_of_a_commit_that_is_refused_is_refused_with_it() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        request = Learn({"a": 1.0}, "cat", id="e-1")
        first = asyncio.ensure_future(writer.worker.learn(request))
        await writer.settle(lambda: writer.log.arrived == 1)
        second = asyncio.ensure_future(writer.worker.learn(request))
        await writer.settle(lambda: writer.worker.samples_waiting == 2)
        writer.log.refuse(StorageFullError("the disk is full"))
        writer.log.open()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert steps(outcomes) == [StorageFullError] * 2
        assert writer.worker.model.step == 0

    run(test)


def test_an_unexpected_error_fails_the_model_and_answers_all_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    async def test(writer: Writer) -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        await writer.learn(({"a": 1.0}, "cat"))
        before = writer.fingerprint
        writer.log.hold()
        monkeypatch.setattr(HostedModel, "apply", broken)
        waiting = asyncio.ensure_future(writer.learn(*[({"a": 1.0}, "cat")] * 20))
        await writer.settle(lambda: writer.log.arrived >= 2)
        writer.log.open()
        assert steps(await waiting) == [ModelFailedError] * 20
        assert writer.worker.failed
        assert writer.worker.state == "failed"
        assert writer.worker.queue_depth == 0
        assert steps(await writer.learn(({"a": 1.0}, "cat"))) == [ModelFailedError]
        with pytest.raises(ModelFailedError):
            await writer.worker.exclusive(lambda: None)
        assert writer.fingerprint == before
        await writer.settle(lambda: len(reported) == 1)
        assert isinstance(reported[0]["exception"], ZeroDivisionError)

    run(test)


def test_an_error_while_checking_fails_the_model_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    async def test(writer: Writer) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        monkeypatch.setattr("service.models.validation.Validator.take", broken)
        assert steps(await writer.learn(({"a": 1.0}, "cat"))) == [ModelFailedError]
        assert writer.worker.failed

    run(test)


def test_a_sample_after_which_no_prediction_is_finite_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(writer: Writer) -> None:
        await writer.learn(({"a": 1.0}, "cat"), ({"a": 2.0}, "dog"))
        outcomes = await writer.learn(
            ({"a": 1.0}, "cat"), ({"a": POISON}, "dog"), ({"a": 3.0}, "dog"), ({"a": 4.0}, "cat")
        )
        assert [each["step"] for each in outcomes if isinstance(each, dict)] == [3, 4, 5]
        assert isinstance(outcomes[1], NonFiniteStateError)
        assert [code for _, code in writer.log.corrections] == ["non_finite_state"]
        assert not writer.worker.diverged
        expected = writer.fingerprint
        monkeypatch.undo()
        other = Writer()
        try:
            for a, y in ((1.0, "cat"), (2.0, "dog"), (1.0, "cat"), (3.0, "dog"), (4.0, "cat")):
                await other.learn(({"a": a}, y))
            assert other.fingerprint == expected
        finally:
            await other.close()

    monkeypatch.setattr(HostedModel, "is_sound", _is_sound)
    run(test)


def _is_sound(model: HostedModel, entries: Sequence[Any]) -> bool:
    """Take every state that includes the value POISON for one that cannot predict."""
    samples = [entry.event.body for entry in entries if getattr(entry, "sample", None) is not None]
    return not any(b"666" in body for body in samples)


def test_a_sample_that_only_the_diverged_call_refused_is_learned_and_so_are_its_repetitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learn = BNPClassifier.learn_samples

    def refuse_behind(model: BNPClassifier, samples: Sequence[Sample]) -> list[Any]:
        """Refuse the samples behind POISON in a call, as a state without finite weights does."""
        outcomes: list[Any] = list(learn(model, samples))
        poisoned = [POISON in cast(Array, sample.features).values for sample in samples]
        first = poisoned.index(True) if True in poisoned else len(samples)
        return [*outcomes[: first + 1], *(NonFiniteStateError("diverged") for _ in samples[first + 1 :])]

    async def test(writer: Writer) -> None:
        await writer.learn(({"a": 1.0, "b": 0.0}, "cat"), ({"a": 2.0, "b": 0.0}, "dog"))
        again = Learn({"a": 3.0, "b": 0.0}, "dog", id="e-1")
        writer.worker._pipeline.learn_length.samples = 8
        requests = [Learn({"a": POISON, "b": 0.0}, "dog"), again, again]
        outcomes = await asyncio.gather(*map(writer.worker.learn, requests), return_exceptions=True)
        assert steps(outcomes) == [NonFiniteStateError, 3, 3]
        assert outcomes[2]["duplicate"]  # type: ignore[index]  # not an error, as the line above says

    monkeypatch.setattr(HostedModel, "is_sound", _is_sound)
    monkeypatch.setattr(BNPClassifier, "learn_samples", refuse_behind)
    run(test)


def test_predictions_are_refused_while_the_state_is_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(writer: Writer) -> None:
        await writer.learn(({"a": 1.0}, "cat"))
        reached, release = threading.Event(), threading.Event()
        rebuild = writer.rebuild

        def slow(upto: int) -> HostedModel:
            reached.set()
            release.wait(30)
            return rebuild(upto)

        writer.rebuild = slow
        waiting = asyncio.ensure_future(writer.learn(({"a": POISON}, "cat")))
        await asyncio.to_thread(reached.wait, 30)
        assert writer.worker.state == "rebuilding"
        release.set()
        await waiting
        assert writer.worker.state == "ready"

    monkeypatch.setattr(HostedModel, "is_sound", _is_sound)
    run(test)


def test_closing_answers_what_waits_and_refuses_what_comes_later() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        waiting = asyncio.ensure_future(writer.learn(*[({"a": 1.0}, "cat")] * 20))
        await writer.settle(lambda: writer.worker.samples_waiting == 20)
        closing = asyncio.ensure_future(writer.worker.close())
        await asyncio.sleep(0)
        assert steps(await writer.learn(({"a": 1.0}, "cat"))) == [ShuttingDownError]
        writer.log.open()
        assert steps(await waiting) == list(range(1, 21))
        await closing
        with pytest.raises(ShuttingDownError):
            await writer.worker.exclusive(lambda: None)

    run(test)


def test_deleting_answers_what_came_before_and_refuses_what_waits_behind() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        before = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.log.arrived == 1)
        deleted: list[int] = []
        deleting = asyncio.ensure_future(writer.worker.delete(lambda: deleted.append(1)))
        await writer.settle(lambda: writer.worker.samples_waiting == 2)
        behind = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.worker.samples_waiting == 3)
        writer.log.open()
        assert steps(await before) == [1]
        assert steps(await behind) == [UnknownModelError]
        await deleting
        assert deleted == [1]

    run(test)


def test_a_refused_deletion_changes_nothing() -> None:
    def refuse() -> None:
        raise StorageFullError("the disk is full")

    async def test(writer: Writer) -> None:
        with pytest.raises(StorageFullError):
            await writer.worker.delete(refuse)
        assert steps(await writer.learn(({"a": 1.0}, "cat"))) == [1]

    run(test)


def test_an_operation_sees_all_samples_before_it_and_none_behind() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        before = asyncio.ensure_future(writer.learn(*[({"a": 1.0}, "cat")] * 10))
        await writer.settle(lambda: writer.worker.samples_waiting == 10)
        operation = asyncio.ensure_future(writer.worker.exclusive(lambda: writer.worker.model.step))
        await writer.settle(lambda: writer.worker.samples_waiting == 11)
        behind = asyncio.ensure_future(writer.learn(({"a": 2.0}, "dog")))
        await writer.settle(lambda: writer.worker.samples_waiting == 12)
        writer.log.open()
        assert steps(await before) == list(range(1, 11))
        assert await operation == 10
        assert steps(await behind) == [11]

    run(test)


def test_an_operation_that_is_refused_leaves_the_writer_at_work() -> None:
    def refuse() -> None:
        raise StorageFullError("the disk is full")

    async def test(writer: Writer) -> None:
        with pytest.raises(StorageFullError):
            await writer.worker.exclusive(refuse)
        assert steps(await writer.learn(({"a": 1.0}, "cat"))) == [1]

    run(test)


def test_a_client_that_leaves_does_not_undo_its_sample() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        waiting = asyncio.ensure_future(writer.worker.learn(Learn({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.log.arrived == 1)
        waiting.cancel()
        writer.log.open()
        await writer.settle(lambda: writer.worker.model.step == 1)
        assert steps(await writer.learn(({"a": 1.0}, "cat"))) == [2]
        assert writer.worker.queue_depth == 0

    run(test)


def test_a_full_queue_refuses_and_streams_leave_half_of_it_free() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        count, outcomes = await writer.worker.queue_samples([Learn({"a": 1.0}, "cat")] * 9)
        assert count == 5
        single = [asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat"))) for _ in range(5)]
        await writer.settle(lambda: writer.worker.samples_waiting == 10)
        assert steps(await writer.learn(({"a": 1.0}, "cat"))) == [QueueFullError]
        writer.log.open()
        assert steps(await outcomes) == [1, 2, 3, 4, 5]
        answered = [step for each in await asyncio.gather(*single) for step in steps(each)]
        assert sorted(answered) == [6, 7, 8, 9, 10]

    run(test, queue_size=10)


def test_a_prediction_that_cannot_be_logged_is_refused_and_not_kept() -> None:
    async def test(writer: Writer) -> None:
        await writer.learn(({"a": 1.0}, "cat"))
        writer.log.refuse(StorageFullError("the disk is full"))
        with pytest.raises(StorageFullError):
            await writer.worker.learn(Predict({"a": 1.0}, "t-1"))
        assert writer.worker.model.pending == 0
        answer = await writer.worker.learn(Predict({"a": 1.0}, "t-1"))
        assert answer["prediction"] == "cat"
        assert (await writer.worker.learn(Label("t-1", "cat")))["step"] == 2

    run(test)


def test_reading_the_log_may_fail_without_failing_the_model() -> None:
    async def test(writer: Writer) -> None:
        await writer.learn(({"a": 1.0}, "cat"))
        writer.log.refuse_reads(StorageFailedError("the disk does not answer"))
        with pytest.raises(StorageFailedError):
            await writer.worker.learn(Learn({"a": 1.0}, "cat", id="e-1"))
        writer.log.refuse_reads(None)
        assert (await writer.worker.learn(Learn({"a": 1.0}, "cat", id="e-1")))["step"] == 2

    run(test)


def test_samples_after_a_checkpoint_within_their_group_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint before a drift action does not include its group, so another one must follow."""
    apply = Pipeline._apply_part

    async def take_before(self: Pipeline, part: Any) -> Any:
        await self._access.run(self._checkpoint)
        return await apply(self, part)

    async def test(writer: Writer) -> None:
        await writer.learn(*[({"a": 0.0}, 0)] * 2)
        monkeypatch.setattr(Pipeline, "_apply_part", take_before)
        monkeypatch.setattr(Pipeline, "_is_short", lambda *_: False)  # else it takes another way
        await writer.learn(({"a": 1.0}, 1))
        await writer.settle(lambda: writer.worker.model.step == 3)
        await writer.settle(lambda: writer.checkpointer.changed)
        assert (writer.checkpointer.events, writer.checkpointer.changed) == (1, True)

    run(test)


def try_at_once(writer: Writer, a: float) -> asyncio.Future[list[Any]] | None:
    """Take a sample at once, if it can be."""
    return writer.worker.take_at_once([Learn({"a": a}, "cat")])


def taken(writer: Writer, a: float, y: Any = "cat", *, wake: bool = True) -> asyncio.Future[list[Any]]:
    """Take a sample at once; return its outcome."""
    outcomes = writer.worker.take_at_once([Learn({"a": a}, y)], wake=wake)
    assert outcomes is not None
    return outcomes


def test_a_sample_is_taken_at_once_beside_those_on_their_way() -> None:
    """It has its place among those that are queued: in the log, in the model and in the answers."""

    async def test(writer: Writer) -> None:
        writer.log.hold()
        queued = asyncio.ensure_future(writer.learn(({"a": 1.0}, "cat")))
        await writer.settle(lambda: writer.log.arrived == 1)
        first, refused, second = taken(writer, 2.0, "dog"), taken(writer, 3.0, 7), taken(writer, 4.0)
        later = asyncio.ensure_future(writer.learn(({"a": 5.0}, "dog")))
        await writer.settle(lambda: writer.worker.samples_waiting == 5)
        assert try_at_once(writer, 6.0) is None  # too many are on their way
        writer.log.open()
        outcomes = [*await queued, *await first, *await second, *await later]
        assert steps(outcomes) == [1, 2, 3, 4]
        assert [each.code for each in await refused] == ["label_type"]
        assert writer.worker.samples_waiting == 0
        bodies = [each.event.body for each in writer.log.records if each.event.kind == "learn"]
        assert [b"%d.0" % i in body for i, body in zip((1, 2, 4, 5), bodies, strict=True)] == [True] * 4
        assert writer.fingerprint == await alone((1.0, "cat"), (2.0, "dog"), (4.0, "cat"), (5.0, "dog"))

    run(test)


async def alone(*samples: tuple[float, str]) -> str:
    """Return the fingerprint of a model that learned samples, each after the one before."""
    other = Writer()
    try:
        for a, y in samples:
            await other.learn(({"a": a}, y))
        return other.fingerprint
    finally:
        await other.close()


def test_samples_taken_without_a_wake_are_one_commit() -> None:
    async def test(writer: Writer) -> None:
        waiting = [taken(writer, float(i), wake=False) for i in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert writer.log.arrived == 0
        writer.worker.commit()
        assert [steps(await each) for each in waiting] == [[1], [2], [3]]
        assert writer.log.arrived == 1

    run(test)


def test_the_end_of_a_commit_does_not_begin_one_of_samples_taken_without_a_wake() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        first = taken(writer, 0.0)
        await writer.settle(lambda: writer.log.arrived == 1)
        waiting = [taken(writer, 1.0, wake=False)]
        writer.log.open()
        assert steps(await first) == [1]
        for _ in range(20):
            await asyncio.sleep(0.001)
        waiting += [taken(writer, 2.0, wake=False), taken(writer, 3.0)]
        assert [steps(await each) for each in waiting] == [[2], [3], [4]]
        assert writer.log.arrived == 2

    run(test)


def test_no_more_samples_are_taken_at_once_than_groups_may_wait() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        waiting = [taken(writer, float(i)) for i in range(4)]
        assert try_at_once(writer, 4.0) is None
        writer.log.open()
        assert [steps(await each) for each in waiting] == [[1], [2], [3], [4]]

    run(test)


def test_a_refused_commit_of_a_sample_taken_at_once_changes_nothing() -> None:
    async def test(writer: Writer) -> None:
        await writer.learn(({"a": 1.0}, "cat"))
        before = writer.fingerprint
        writer.log.refuse(StorageFullError("the disk is full"))
        assert steps(await taken(writer, 2.0, "dog")) == [StorageFullError]
        assert writer.fingerprint == before
        assert try_at_once(writer, 3.0) is None  # the next check begins anew from the model
        assert steps(await writer.learn(({"a": 3.0}, "cow"))) == [2]
        assert steps(await taken(writer, 4.0)) == [3]

    run(test)


def test_a_sample_taken_at_once_that_diverges_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(writer: Writer) -> None:
        await writer.learn(({"a": 1.0}, "cat"), ({"a": 2.0}, "dog"))
        waiting = [taken(writer, a) for a in (3.0, POISON, 4.0)]
        outcomes = [outcome for each in waiting for outcome in await each]
        assert steps(outcomes) == [3, NonFiniteStateError, 4]
        assert [code for _, code in writer.log.corrections] == ["non_finite_state"]
        expected = writer.fingerprint
        monkeypatch.undo()
        assert await alone((1.0, "cat"), (2.0, "dog"), (3.0, "cat"), (4.0, "cat")) == expected

    def is_short(pipeline: Pipeline, entries: Sequence[Any]) -> bool:
        return len(entries) == 1 and not pipeline._careful

    monkeypatch.setattr(HostedModel, "is_sound", _is_sound)
    monkeypatch.setattr(Pipeline, "_is_short", is_short)
    run(test)


def test_no_sample_is_taken_at_once_during_an_operation_or_after_the_end() -> None:
    async def test(writer: Writer) -> None:
        assert writer.worker.take_at_once([Learn({"a": 1.0}, "cat", id="e-1")]) is None
        assert writer.worker.take_at_once([Learn({"a": 1.0}, "cat")] * 2) is None
        begun, go_on = threading.Event(), threading.Event()

        def operate() -> None:
            begun.set()
            go_on.wait(30)

        operation = asyncio.ensure_future(writer.worker.exclusive(operate))
        await asyncio.to_thread(begun.wait)
        assert try_at_once(writer, 1.0) is None
        go_on.set()
        await operation
        await writer.settle(lambda: not writer.worker.samples_waiting)
        last = taken(writer, 1.0)
        closing = asyncio.ensure_future(writer.worker.close())
        await asyncio.sleep(0)
        assert try_at_once(writer, 2.0) is None
        assert steps(await last) == [1]
        await closing

    run(test)


def test_streams_leave_half_of_the_queue_free_of_samples_taken_at_once() -> None:
    async def test(writer: Writer) -> None:
        writer.log.hold()
        waiting = [taken(writer, 1.0), taken(writer, 2.0)]
        assert try_at_once(writer, 3.0) is None
        writer.worker.reserve()
        last = writer.worker.queue_reserved([Learn({"a": 3.0}, "cat")])
        writer.log.open()
        assert [steps(await each) for each in waiting] == [[1], [2]]
        assert steps(await last) == [3]
        assert writer.worker.samples_waiting == 0

    run(test, queue_size=4)
