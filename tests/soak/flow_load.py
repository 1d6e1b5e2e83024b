"""The clients of flows: they submit small trees, cancel a job of some, and retry what has ended badly once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.soak.history import Recorder
from tests.soak.receiver import Receiver

_FLOWS = "/api/v1/flows"
_POLL_SECONDS = 2.0
_ENDS = ("succeeded", "failed", "cancelled")
_JOBS_OF_ONE = 25  # one flow for so many jobs of the load
_SHOT = {"model_id": "T2V-A14B", "resolution": "64x64", "frames": 9, "steps": 2}

Ask = Callable[..., Awaitable[httpx.Response | None]]


class FlowLoad:
    """The flows of one run."""

    def __init__(self, ask: Ask, recorder: Recorder, receiver: Receiver, deadline: Callable[[], float]) -> None:
        self._ask = ask
        self._recorder = recorder
        self._receiver = receiver
        self._deadline = deadline

    async def run(self, seed: int, jobs: int, seconds: float) -> None:
        choose = random.Random(f"{seed} flows")
        count = max(2, jobs // _JOBS_OF_ONE)
        plans = [(number, choose.uniform(0.0, seconds / 2), choose.random() < 0.5) for number in range(count)]
        await asyncio.gather(*(self._carry_out(seed, *plan) for plan in plans))

    async def _carry_out(self, seed: int, number: int, at: float, cancels: bool) -> None:
        await asyncio.sleep(max(0.0, at - self._recorder.now))
        body = {"jobs": _tree(), "webhook_url": self._receiver.url("good", 100_000 + number)}
        answer = await self._ask("POST", _FLOWS, json=body, headers={"Idempotency-Key": f"soak-flow-{seed}-{number}"})
        if answer is None or answer.status_code not in (200, 202):
            return
        flow = answer.json()
        self._recorder.note("flow", flow["id"], code=answer.status_code)
        if cancels:
            await self._ask("POST", f"/api/v1/jobs/{flow['jobs'][1]['id']}/cancel")
        state = await self._until_ended(flow["id"])
        if state in ("failed", "cancelled"):
            await self._ask("POST", f"{_FLOWS}/{flow['id']}/retry")
            await self._until_ended(flow["id"])

    async def _until_ended(self, flow_id: str) -> str:
        while self._recorder.now < self._deadline():
            answer = await self._ask("GET", f"{_FLOWS}/{flow_id}")
            if answer is not None and answer.status_code == 200 and answer.json()["state"] in _ENDS:
                return str(answer.json()["state"])
            await asyncio.sleep(_POLL_SECONDS)
        return ""


def _tree() -> list[dict[str, Any]]:
    """Return a root, two branches of which the second may fail without consequence, and what needs both."""
    nodes = (
        ("root", [], "skip"),
        ("left", ["root"], "skip"),
        ("right", ["root"], "continue"),
        ("end", ["left", "right"], "skip"),
    )
    return [
        {"name": name, "depends_on": after, "on_failure": on_failure, "params": {**_SHOT, "prompt": name, "seed": 5}}
        for name, after, on_failure in nodes
    ]
