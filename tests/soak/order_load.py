"""The clients that use the other controls of the queue: batches, start times, pauses, actions on many jobs."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.soak.history import Recorder
from tests.soak.receiver import Receiver

_BATCHES = "/api/v1/batches"
_POLL_SECONDS = 2.0
_JOBS_OF_ONE = 50  # one batch for so many jobs of the load
_PAUSE_EVERY_SECONDS = 45.0
_TINY = {"resolution": "64x64", "frames": 9, "steps": 2, "seed": 5}
_MODELS = ("T2V-A14B", "TI2V-5B")

Ask = Callable[..., Awaitable[httpx.Response | None]]


class OrderLoad:
    """The batches and pauses of one run."""

    def __init__(self, ask: Ask, recorder: Recorder, receiver: Receiver, deadline: Callable[[], float]) -> None:
        self._ask = ask
        self._recorder = recorder
        self._receiver = receiver
        self._deadline = deadline

    async def run(self, seed: int, jobs: int, seconds: float) -> None:
        choose = random.Random(f"{seed} order")
        count = max(2, jobs // _JOBS_OF_ONE)
        plans = [(number, choose.uniform(0.0, seconds / 2), choose.randrange(3)) for number in range(count)]
        pauses = [
            (at, choose.choice(_MODELS), choose.uniform(2.0, 6.0)) for at in _every(_PAUSE_EVERY_SECONDS, seconds)
        ]
        await asyncio.gather(*(self._batch(seed, *plan) for plan in plans), *(self._pause(*pause) for pause in pauses))

    async def _batch(self, seed: int, number: int, at: float, fate: int) -> None:
        """Submit a batch of four jobs, one of which starts later. `fate` 1: cancel it; 2: cancel its queued jobs."""
        await asyncio.sleep(max(0.0, at - self._recorder.now))
        later = (datetime.now(UTC) + timedelta(seconds=6)).isoformat()
        jobs: list[dict[str, Any]] = [
            {"params": {**_TINY, "model_id": _MODELS[place % 2], "prompt": f"of a batch, {place}"}}
            for place in range(4)
        ]
        jobs[3]["params"]["start_after"] = later
        body = {"jobs": jobs, "webhook_url": self._receiver.url("good", 200_000 + number)}
        answer = await self._ask(
            "POST", _BATCHES, json=body, headers={"Idempotency-Key": f"soak-batch-{seed}-{number}"}
        )
        if answer is None or answer.status_code not in (200, 202):
            return
        batch_id = answer.json()["id"]
        self._recorder.note("batch", batch_id, code=answer.status_code)
        if fate == 1:
            await self._ask("POST", f"{_BATCHES}/{batch_id}/cancel")
        if fate == 2:
            chosen = {"action": "cancel", "filter": {"batch_id": batch_id, "status": "queued"}}
            await self._ask("POST", "/api/v1/jobs/bulk", json=chosen)
        while self._recorder.now < self._deadline():
            answer = await self._ask("GET", f"{_BATCHES}/{batch_id}")
            if answer is not None and answer.status_code == 200 and answer.json()["finished_at"] is not None:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _pause(self, at: float, model_id: str, lasts: float) -> None:
        """Pause a model. The pause ends by itself too, in case the server is away when it is to be resumed."""
        await asyncio.sleep(max(0.0, at - self._recorder.now))
        until = (datetime.now(UTC) + timedelta(seconds=2 * lasts)).isoformat()
        body = {"model_id": model_id, "reason": "soak", "until": until, "running": "finish"}
        answer = await self._ask("POST", "/api/v1/queues/pause", json=body)
        self._recorder.note("pause", None, model_id=model_id, code=answer.status_code if answer is not None else None)
        await asyncio.sleep(lasts)
        await self._ask("POST", "/api/v1/queues/resume", json={"model_id": model_id})


def _every(pause: float, seconds: float) -> list[float]:
    return [pause * place for place in range(1, int(seconds / pause) + 1)]
