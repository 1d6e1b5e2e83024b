"""Many questions, few rounds, and no answer older than its question."""

import asyncio
import threading

import pytest

from api.services.coalescing import Together


def test_who_asks_during_a_round_shares_the_next_one() -> None:
    began: list[int] = []
    gate = threading.Event()

    def work() -> int:
        began.append(len(began))
        assert gate.wait(5)
        return began[-1]

    async def main() -> tuple[int, set[int]]:
        together = Together()
        first = asyncio.create_task(together.ask("k", work))
        while not began:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(together.ask("k", work)) for _ in range(20)]
        await asyncio.sleep(0.01)
        gate.set()
        return await first, set(await asyncio.gather(*others))

    assert asyncio.run(main()) == (0, {1})
    assert began == [0, 1]


def test_keys_do_not_mix_and_an_error_reaches_all() -> None:
    def fail() -> int:
        raise ValueError("no")

    async def main() -> list[object]:
        together = Together()
        asked = [together.ask("a", lambda: 1), together.ask("b", lambda: 2), together.ask("c", fail)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(ValueError, match="no"):
            await together.ask("c", fail)
        assert await together.ask("a", lambda: 3) == 3, "nothing is kept"
        return list(found)

    one, two, error = asyncio.run(main())
    assert (one, two) == (1, 2)
    assert isinstance(error, ValueError)
