"""Reads that many ask for at once are done once: whoever asks while one is under way shares the next.

An answer is never older than its question: the work behind it began after the question was asked.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import anyio.to_thread

T = TypeVar("T")


class Together:
    def __init__(self) -> None:
        self._next: dict[Hashable, list[asyncio.Future[Any]]] = {}  # who waits for the round after this one, by key
        self._rounds: set[asyncio.Task[None]] = set()

    async def ask(self, key: Hashable, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, in a thread; the same key must mean the same work."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if key in self._next:
            self._next[key].append(answer)
        else:
            self._next[key] = []
            task = asyncio.create_task(self._go_round(key, work, [answer]))
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)
        return await answer

    async def _go_round(self, key: Hashable, work: Callable[[], Any], asking: list[asyncio.Future[Any]]) -> None:
        while asking:
            began = time.monotonic()
            try:
                answer = await anyio.to_thread.run_sync(work)
            except Exception as error:
                for one in asking:
                    if not one.done():
                        one.set_exception(error)
            else:
                for one in asking:
                    if not one.done():
                        one.set_result(answer)
            if self._next[key]:
                # Rounds take half of the time at most: the other half belongs to those who are answered.
                await asyncio.sleep(time.monotonic() - began)
            asking, self._next[key] = self._next[key], []
        del self._next[key]
