"""Queue of a model: order, groups, limits, answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from service.errors import ModelFailedError, QueueFullError
from service.models.queue import Capacity, Job, JobQueue
from service.models.validation import Learn

Test = Callable[[JobQueue], Awaitable[None]]


def run(test: Test, size: int = 8, group_size: int = 4) -> None:
    """Run a test with a queue of its own, on an event loop."""

    async def go() -> None:
        async with asyncio.timeout(30.0):
            await test(JobQueue(size, group_size))

    asyncio.run(go())


def sample(number: int) -> Learn:
    return Learn({"a": float(number)}, "cat")


def contents(jobs: Sequence[Job]) -> list[list[int]]:
    """Return the numbers of the samples of each job; none for an operation."""
    return [[int(each.x["a"]) for each in job.parts if isinstance(each, Learn)] for job in jobs]


def test_jobs_are_taken_together_in_order_up_to_the_size_of_a_group() -> None:
    async def test(queue: JobQueue) -> None:
        for number in range(6):
            queue.add_request(sample(number))
        assert contents(queue.take()) == [[0], [1], [2], [3]]
        assert contents(queue.take()) == [[4], [5]]

    run(test)


def test_a_job_is_never_split_and_a_larger_one_is_taken_alone() -> None:
    async def test(queue: JobQueue) -> None:
        queue.add_requests([sample(n) for n in range(3)])
        queue.add_requests([sample(n) for n in range(3, 5)])
        queue.add_requests([sample(n) for n in range(5, 11)])
        assert contents(queue.take()) == [[0, 1, 2]]
        assert contents(queue.take()) == [[3, 4]]
        assert contents(queue.take()) == [[5, 6, 7, 8, 9, 10]]

    run(test, size=20)


def test_an_operation_is_taken_alone_between_the_samples_around_it() -> None:
    async def test(queue: JobQueue) -> None:
        queue.add_request(sample(0))
        queue.add_operation(lambda: None)
        queue.add_request(sample(1))
        assert contents(queue.take()) == [[0]]
        assert contents(queue.take()) == [[]]
        assert contents(queue.take()) == [[1]]

    run(test)


def test_answers_reach_the_jobs_in_the_order_of_taking() -> None:
    async def test(queue: JobQueue) -> None:
        one, stream = queue.add_request(sample(0)), queue.add_requests([sample(1), sample(2)])
        queue.take()
        queue.answer(["first"])
        queue.answer(["second", error := ValueError("third")])
        assert await one == ["first"]
        assert await stream == ["second", error]

    run(test)


def test_items_count_until_they_are_answered() -> None:
    async def test(queue: JobQueue) -> None:
        queue.add_requests([sample(0), sample(1)])
        queue.add_request(sample(2))
        queue.take()
        assert queue.items == 3
        queue.answer(["a", "b"])
        assert queue.items == 1

    run(test)


def test_a_full_queue_refuses_requests_but_no_operation() -> None:
    async def test(queue: JobQueue) -> None:
        waiting = [queue.add_request(sample(number)) for number in range(2)]
        with pytest.raises(QueueFullError):
            queue.add_request(sample(2))
        operation = queue.add_operation(lambda: None)
        assert queue.items == 3
        queue.abandon(lambda: ModelFailedError("failed"))
        await asyncio.gather(*waiting, operation)

    run(test, size=2)


def test_a_stream_may_fill_half_of_the_queue_and_waits_for_capacity_then() -> None:
    async def test(queue: JobQueue) -> None:
        assert await queue.wait_for_share() == 4
        queue.add_requests([sample(n) for n in range(4)])
        waiting = asyncio.ensure_future(queue.wait_for_share())
        await asyncio.sleep(0)
        assert not waiting.done()
        single = queue.add_request(sample(4))  # the other half is for single requests
        queue.take()
        queue.answer(["a"] * 4)
        assert await waiting == 3
        queue.abandon(lambda: ModelFailedError("failed"))
        assert [type(each) for each in await single] == [ModelFailedError]

    run(test)


def test_a_stream_queues_no_more_than_a_group() -> None:
    async def test(queue: JobQueue) -> None:
        assert await queue.wait_for_share() == 4

    run(test, size=100)


def test_all_streams_that_wait_are_woken() -> None:
    async def test(queue: JobQueue) -> None:
        queue.add_requests([sample(0)])
        waiting = [asyncio.ensure_future(queue.wait_for_share()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.take()
        queue.answer(["a"])
        assert await asyncio.gather(*waiting) == [1, 1, 1]

    run(test, size=2)


def test_a_stream_waits_for_as_many_places_as_it_wants_up_to_an_eighth() -> None:
    async def test() -> None:
        capacity = Capacity(80, taken=36)
        assert await capacity.wait_for_share(3) == 4

        async def take(wanted: int) -> int:
            share = await capacity.wait_for_share(wanted)
            capacity.taken += min(share, wanted)
            return share

        first, second = asyncio.ensure_future(take(100)), asyncio.ensure_future(take(1))
        for left in range(6, 0, -1):
            await asyncio.sleep(0)
            assert not first.done(), left
            capacity.free(1)
        assert await first == 10
        assert not second.done()  # in turn
        capacity.free(1)
        assert await second == 1

    asyncio.run(test())


def test_a_client_that_left_holds_up_nobody() -> None:
    async def test(queue: JobQueue) -> None:
        gone, here = queue.add_request(sample(0)), queue.add_request(sample(1))
        queue.take()
        gone.cancel()
        await asyncio.sleep(0)
        queue.answer(["a"])
        queue.answer(["b"])
        assert await here == ["b"]
        assert queue.items == 0

    run(test)


def test_a_stream_that_left_while_it_waited_holds_up_nobody() -> None:
    async def test(queue: JobQueue) -> None:
        queue.add_requests([sample(n) for n in range(4)])
        gone, here = (
            asyncio.ensure_future(queue.wait_for_share()),
            asyncio.ensure_future(queue.wait_for_share()),
        )
        await asyncio.sleep(0)
        gone.cancel()
        queue.take()
        queue.answer(["a"] * 4)
        assert await here == 4

    run(test)


def test_abandoning_answers_jobs_that_are_taken_and_jobs_that_wait() -> None:
    async def test(queue: JobQueue) -> None:
        taken, stream = queue.add_request(sample(0)), queue.add_requests([sample(1), sample(2)])
        queue.take()
        waiting, operation = queue.add_request(sample(3)), queue.add_operation(lambda: None)
        queue.abandon(lambda: ModelFailedError("failed"))
        outcomes = [each for job in (taken, stream, waiting, operation) for each in await job]
        assert [type(each) for each in outcomes] == [ModelFailedError] * 5
        assert queue.items == 0

    run(test)


def test_capacity_is_given_back_when_a_read_fails() -> None:
    capacity = Capacity(1)

    def fail() -> None:
        with capacity.place():
            assert capacity.taken == 1
            with pytest.raises(QueueFullError):
                capacity.enter()
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        fail()
    assert capacity.taken == 0
