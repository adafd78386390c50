"""Calls that have been announced are waited for, but not for long."""

import asyncio

import pytest
from glyph_serving.arrivals import Arrivals


async def until(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


def test_the_last_that_comes_ends_the_waiting() -> None:
    async def come() -> None:
        here = asyncio.Event()
        arrivals = Arrivals(here.set)
        arrivals.announce(1)
        arrivals.announce(2)
        arrivals.arrived(1)
        assert not here.is_set()
        assert arrivals.expected == {2}
        arrivals.arrived(2)
        assert here.is_set()

    asyncio.run(come())


def test_one_that_does_not_come_is_not_waited_for() -> None:
    async def come() -> None:
        here = asyncio.Event()
        arrivals = Arrivals(here.set)
        for late in (1, 2):  # the second, too, and while the first is still not here
            arrivals.announce(late)
            arrivals.announce("in time")
            arrivals.arrived("in time")
            assert not here.is_set()
            await until(here)
            here.clear()
        arrivals.arrived(1)
        assert here.is_set()  # it is taken when it comes after all

    asyncio.run(come())


@pytest.mark.parametrize("announced", [1, 3])
def test_one_that_is_announced_later_is_given_its_own_time(announced: int) -> None:
    async def come() -> None:
        here = asyncio.Event()
        arrivals = Arrivals(here.set)
        arrivals.announce("late")
        arrivals.announce("in time")
        arrivals.arrived("in time")
        await asyncio.sleep(0)
        later = [f"later {number}" for number in range(announced)]
        for call in later:
            arrivals.announce(call)
        await until(here)
        assert not arrivals.expected
        for call in later:
            arrivals.arrived(call)

    asyncio.run(come())
