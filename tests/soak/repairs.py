"""An operator for the run: releases quarantined devices after a while."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx

from tests.soak.history import Recorder

_REPAIR_SECONDS = 4.0

Ask = Callable[[str, str], Awaitable[httpx.Response | None]]


async def release_quarantined(ask: Ask, recorder: Recorder, over: asyncio.Event) -> None:
    """Release every device that is found quarantined, until `over` is set."""
    while not over.is_set():
        answer = await ask("GET", "/api/v1/workers")
        devices = answer.json()["devices"] if answer is not None and answer.status_code == 200 else []
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), _REPAIR_SECONDS)
        for device in devices:
            if device["quarantined_at"] is None:
                continue
            key, asked = f"{device['node']}/{device['index']}", recorder.now
            recorder.note("release_asked", device=key)
            answer = await ask("DELETE", f"/api/v1/nodes/{device['node']}/devices/{device['index']}/quarantine")
            if answer is not None:
                recorder.note("release", asked=asked, device=key, code=answer.status_code)
