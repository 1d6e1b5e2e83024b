"""Coalesce equal reads: requests that arrive while a read is running share the next one.

A result is never stale: its read started after the request arrived.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import anyio.to_thread

T = TypeVar("T")


class Coalescer:
    def __init__(self) -> None:
        self._next: dict[Hashable, list[asyncio.Future[Any]]] = {}  # the callers that wait for the next read, by key
        self._rounds: set[asyncio.Task[None]] = set()

    async def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Run `work` in a thread, shared with callers of the same key, and return its result or raise its error."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if key in self._next:
            self._next[key].append(answer)
        else:
            self._next[key] = []
            task = asyncio.create_task(self._run_rounds(key, work, [answer]))
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)
        return await answer

    async def _run_rounds(self, key: Hashable, work: Callable[[], Any], waiting: list[asyncio.Future[Any]]) -> None:
        while waiting:
            began = time.monotonic()
            try:
                answer = await anyio.to_thread.run_sync(work)
            except Exception as error:
                for one in waiting:
                    if not one.done():
                        one.set_exception(error)
            else:
                for one in waiting:
                    if not one.done():
                        one.set_result(answer)
            if self._next[key]:
                # Reads take at most half of the time, which leaves the other half for sending responses.
                await asyncio.sleep(time.monotonic() - began)
            waiting, self._next[key] = self._next[key], []
        del self._next[key]
