"""Coalesced reads: many requests share few reads, and no result is older than its request."""

import asyncio
import threading

import pytest

from api.services.coalescing import Coalescer


def test_requests_during_a_read_share_the_next_one() -> None:
    began: list[int] = []
    gate = threading.Event()

    def work() -> int:
        began.append(len(began))
        assert gate.wait(5)
        return began[-1]

    async def main() -> tuple[int, set[int]]:
        coalescer = Coalescer()
        first = asyncio.create_task(coalescer.run("k", work))
        while not began:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(coalescer.run("k", work)) for _ in range(20)]
        await asyncio.sleep(0.01)
        gate.set()
        return await first, set(await asyncio.gather(*others))

    assert asyncio.run(main()) == (0, {1})
    assert began == [0, 1]


def test_keys_are_separate_and_an_error_reaches_all() -> None:
    def fail() -> int:
        raise ValueError("no")

    async def main() -> list[object]:
        coalescer = Coalescer()
        asked = [coalescer.run("a", lambda: 1), coalescer.run("b", lambda: 2), coalescer.run("c", fail)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(ValueError, match="no"):
            await coalescer.run("c", fail)
        assert await coalescer.run("a", lambda: 3) == 3, "nothing is kept"
        return list(found)

    one, two, error = asyncio.run(main())
    assert (one, two) == (1, 2)
    assert isinstance(error, ValueError)
