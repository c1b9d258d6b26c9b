"""Who has much to do takes turns, and lets others in between."""

from __future__ import annotations

import asyncio
from typing import Any

from service.models.scheduling import FairTurns


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
