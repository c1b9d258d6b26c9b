"""Scheduling: exclusive access to a model, the length of a call, fair turns on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from service.models.scheduling import CallLength, EagerTask, FairTurns, ModelAccess
from service.models.threads import Threads


def with_access(test: Callable[[ModelAccess], Awaitable[None]]) -> None:
    """Run a test with an access of its own, on an event loop."""

    async def go() -> None:
        threads = Threads()
        access = ModelAccess(threads)
        async with asyncio.timeout(30.0):
            await test(access)
            await access.close()
        threads.close()

    asyncio.run(go())


class Held:
    """An operation that runs in the thread of the model until it is released."""

    def __init__(self, access: ModelAccess) -> None:
        self._access = access
        self._reached, self._release = threading.Event(), threading.Event()

    def _operation(self) -> str:
        self._reached.set()
        self._release.wait(30)
        return "held"

    async def __aenter__(self) -> Held:
        self.task = asyncio.ensure_future(self._access.run(self._operation))
        await asyncio.to_thread(self._reached.wait, 30)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._release.set()
        await asyncio.gather(self.task, return_exceptions=True)


def test_short_operations_run_on_the_event_loop_and_long_ones_in_a_thread() -> None:
    async def test(access: ModelAccess) -> None:
        assert await access.run(threading.current_thread, short=True) is threading.current_thread()
        assert (await access.run(threading.current_thread)).name.startswith("steps")

    with_access(test)


def test_operations_exclude_each_other_in_order_of_arrival() -> None:
    async def test(access: ModelAccess) -> None:
        done: list[int] = []
        async with Held(access):
            waiting = []
            for n in range(4):
                waiting.append(asyncio.ensure_future(access.run(partial(done.append, n), short=n % 2 == 0)))
                await asyncio.sleep(0.01)  # a long one starts a task of its own before it waits
            assert done == []
        await asyncio.gather(*waiting)
        assert done == [0, 1, 2, 3]

    with_access(test)


@pytest.mark.parametrize("short", [True, False])
def test_an_error_is_raised_and_the_access_is_free_again(short: bool) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    async def test(access: ModelAccess) -> None:
        with pytest.raises(ZeroDivisionError):
            await access.run(broken, short=short)
        assert await access.run(lambda: "next", short=short) == "next"

    with_access(test)


def test_an_operation_in_the_thread_keeps_the_access_if_its_caller_is_cancelled() -> None:
    async def test(access: ModelAccess) -> None:
        async with Held(access) as held:
            held.task.cancel()
            next_one = asyncio.ensure_future(access.run(lambda: "next", short=True))
            await asyncio.sleep(0.01)
            assert not next_one.done()
        assert held.task.cancelled()
        assert await next_one == "next"

    with_access(test)


def test_a_caller_that_is_cancelled_while_it_waits_holds_nobody_up() -> None:
    async def test(access: ModelAccess) -> None:
        async with Held(access):
            gone = asyncio.ensure_future(access.run(lambda: "gone", short=True))
            here = asyncio.ensure_future(access.run(lambda: "here", short=True))
            await asyncio.sleep(0)
            gone.cancel()
        assert await here == "here"

    with_access(test)


def test_closing_waits_for_the_operation_that_runs() -> None:
    async def test(access: ModelAccess) -> None:
        async with Held(access) as held:
            closing = asyncio.ensure_future(access.close())
            await asyncio.sleep(0.01)
            assert not closing.done()
        await closing
        assert held.task.result() == "held"

    with_access(test)


def test_one_goes_on_in_each_pass_in_the_order_in_which_they_came() -> None:
    fair_turns, log = FairTurns(), list[tuple[int, str]]()
    now = 0

    async def work(name: str, slices: int) -> None:
        for _ in range(slices):
            await fair_turns.next()
            log.append((now, name))

    async def count_passes(until: asyncio.Future[Any]) -> None:
        nonlocal now
        while not until.done():
            now += 1
            await asyncio.sleep(0)

    async def main() -> None:
        await count_passes(asyncio.gather(work("a", 3), work("b", 2), work("c", 3)))

    asyncio.run(main())
    assert [name for _, name in log] == ["a", "b", "c", "a", "b", "c", "a", "c"]
    when = [pass_ for pass_, _ in log]
    assert when == sorted(set(when))  # never two in one


def test_who_waits_alone_has_every_pass() -> None:
    async def main() -> int:
        fair_turns, others = FairTurns(), 0

        async def other() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(10):
            await fair_turns.next()
        task.cancel()
        return others

    assert 9 <= asyncio.run(main()) <= 11


def test_one_that_is_cancelled_holds_nobody_up() -> None:
    async def main() -> None:
        fair_turns = FairTurns()
        waiting = [asyncio.create_task(fair_turns.next()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        await asyncio.wait_for(waiting[2], 5)

    asyncio.run(main())


class Work:
    """Work of an `EagerTask`: moves numbers from one list to another; waits for a future if there is one."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: list[int] = []
        self.todo: list[int] = []
        self.waits: asyncio.Future[Any] | None = None
        self.error: Exception | None = None
        self.failures = 0
        self.lock = asyncio.Lock()
        self.reported: list[BaseException] = []
        self.loop.set_exception_handler(lambda _, context: self.reported.append(context["exception"]))
        self.task = EagerTask(self._run, self._fail)

    async def _run(self) -> None:
        while self.todo:
            if self.waits is not None:
                try:
                    async with self.lock:
                        await self.waits
                except ValueError as error:
                    self.reported.append(error)
            if self.error is not None:
                raise self.error
            self.done.append(self.todo.pop(0))

    def _fail(self) -> None:
        self.failures += 1

    def add(self, number: int) -> None:
        self.todo.append(number)
        self.task.wake()


def with_work(test: Callable[[Work], Awaitable[None]]) -> None:
    async def go() -> None:
        async with asyncio.timeout(30.0):
            await test(Work())

    asyncio.run(go())


def test_work_without_a_wait_runs_in_the_next_pass_and_no_task() -> None:
    async def test(work: Work) -> None:
        work.add(1)
        work.add(2)
        assert work.done == []
        await asyncio.sleep(0)
        assert work.done == [1, 2]
        work.todo.append(3)
        work.task.start()
        assert work.done == [1, 2, 3]
        assert len(asyncio.all_tasks()) == 1

    with_work(test)


@pytest.mark.parametrize("fails", [False, True])
def test_work_that_waits_goes_on_in_a_task_and_is_woken_again_after_it(fails: bool) -> None:
    async def test(work: Work) -> None:
        work.waits = waited = work.loop.create_future()
        work.add(1)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 2
        work.add(2)  # while it waits
        await asyncio.sleep(0)
        assert work.done == []
        work.waits = None
        if fails:
            waited.set_exception(ValueError("of the future"))
        else:
            waited.set_result(None)
        while len(work.done) < 2:
            await asyncio.sleep(0)
        assert [str(error) for error in work.reported] == ["of the future"] * fails
        work.add(3)  # the work returned; its task may not have ended
        await asyncio.sleep(0)
        assert work.done == [1, 2, 3]
        assert work.failures == 0

    with_work(test)


@pytest.mark.parametrize("waits", [False, True])
def test_an_unexpected_error_is_reported_once(waits: bool) -> None:
    async def test(work: Work) -> None:
        work.error = ZeroDivisionError("a bug")
        if waits:
            work.waits = work.loop.create_future()
            work.loop.call_soon(work.waits.set_result, None)
        work.add(1)
        while not work.reported:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert work.reported == [work.error]
        assert work.failures == 1

    with_work(test)


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_work_that_is_stopped_never_goes_on_and_holds_nothing(passes: int) -> None:
    async def test(work: Work) -> None:
        work.waits = work.loop.create_future()
        work.add(1)
        for _ in range(passes):
            await asyncio.sleep(0)
        await work.task.stop()
        assert not work.lock.locked()
        work.waits = None
        work.add(2)
        work.task.start()
        await asyncio.sleep(0)
        assert work.done == []
        assert work.failures == 0
        assert len(asyncio.all_tasks()) == 1

    with_work(test)


def test_a_cancelled_future_cancels_the_work_that_waits_for_it() -> None:
    async def test(work: Work) -> None:
        work.waits = waited = work.loop.create_future()
        work.add(1)
        await asyncio.sleep(0)
        waited.cancel()
        while work.lock.locked():
            await asyncio.sleep(0)
        await work.task.stop()
        assert work.done == []

    with_work(test)


async def pause() -> None:
    """Wait for a pass of the event loop: the task yields None instead of a future."""
    await asyncio.sleep(0)


async def timed_out() -> None:
    """Wait for a pass, and then longer than a timeout: the task has become the current one."""
    await asyncio.sleep(0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(30)


@pytest.mark.parametrize("wait", [pause, timed_out])
def test_the_first_wait_may_be_a_pass_and_later_ones_may_have_timeouts(
    wait: Callable[[], Awaitable[None]],
) -> None:
    async def go() -> None:
        done: list[asyncio.Task[Any] | None] = []

        async def work() -> None:
            assert asyncio.current_task() is None
            for _ in range(3):
                await wait()
                done.append(asyncio.current_task())

        task = EagerTask(work, pytest.fail)
        task.wake()
        async with asyncio.timeout(30.0):
            while len(done) < 3:
                await asyncio.sleep(0.001)
        assert None not in done
        assert len(set(done)) == 1

    asyncio.run(go())


def test_work_has_no_context_variables_of_those_who_wake_it() -> None:
    request = ContextVar("request", default="none")

    async def go() -> None:
        seen: list[str] = []

        async def work() -> None:
            seen.append(request.get())
            await asyncio.sleep(0)
            seen.append(request.get())

        request.set("of a request")
        task = EagerTask(work, pytest.fail)
        task.wake()
        while len(seen) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(task.start, context=task.context)
        future.set_result(None)
        while len(seen) < 4:
            await asyncio.sleep(0)
        assert seen == ["none"] * 4

    asyncio.run(go())


@pytest.mark.parametrize("waits", [False, True])
def test_work_that_ended_leaves_no_object(waits: bool) -> None:
    class Held:
        """An object that only the work refers to."""

    async def go() -> None:
        held: list[weakref.ref[Held]] = []

        async def work() -> None:
            local = Held()
            held.append(weakref.ref(local))
            if waits:
                await asyncio.sleep(0)

        task = EagerTask(work, pytest.fail)
        gc.disable()
        try:
            for count in range(1, 4):
                task.wake()
                while len(held) < count or len(asyncio.all_tasks()) > 1:
                    await asyncio.sleep(0)
            assert [each() for each in held] == [None] * 3
        finally:
            gc.enable()

    asyncio.run(go())


def test_calls_of_a_model_on_a_gpu_are_longer_and_never_on_the_event_loop() -> None:
    length = CallLength(seconds=0.001)
    length.add(1, 0.0001, 0.005)
    assert (length.short, length.samples) == (False, 50)
    length.add(1, 0.0001)  # another model in its place, on the CPU
    assert (length.short, length.samples) == (True, 10)
    length.forget()
    assert (length.short, length.samples) == (False, 1)
