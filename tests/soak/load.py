"""The clients: run the plan's scripts over HTTP and record each request with its response.

A client asks again when an answer was lost, under the same key, as the documents say it should. It judges nothing: an
answer that looks wrong is noted like any other.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from tests.soak import repairs
from tests.soak.flow_load import FlowLoad
from tests.soak.history import Recorder
from tests.soak.order_load import OrderLoad
from tests.soak.plan import Drain, Pause, Plan, Script
from tests.soak.receiver import Receiver
from tests.support.stack import ENDS

_JOBS = "/api/v1/jobs"
_NODE = "/api/v1/nodes/here/drain"
_AGAIN_AFTER_SECONDS = (0.2, 0.5, 1.0, 2.0)
_AWAY = (429, 502, 503, 504, 507)  # ask again later
_ANSWER_SECONDS = 20.0
_POLL_SECONDS = 2.0
_LIST_SECONDS = 4.0
_PAUSED_SECONDS = 40.0  # by when an acknowledged pause has to be seen


class Load:
    """The clients of one run. `run` returns when every script has ended, or at the run's deadline."""

    def __init__(self, plan: Plan, url: str, recorder: Recorder, receiver: Receiver) -> None:
        self._plan = plan
        self._recorder = recorder
        self._receiver = receiver
        self._url = url
        self._over = asyncio.Event()
        self._deadline = float("inf")
        self._listed: dict[str, tuple[str, int]] = {}
        self.unended: dict[str, str] = {}  # accepted jobs that nobody has seen at their end or deleted, by status

    async def run(self, deadline: float) -> None:
        """`deadline` on the recorder's clock; it may be moved meanwhile."""
        self._deadline = deadline
        async with self._clients():
            watching = asyncio.gather(
                self._list_again_and_again(), repairs.release_quarantined(self._ask, self._recorder, self._over)
            )
            todo = [self._carry_out(script) for script in self._plan.scripts]
            todo += [self._drain(drain) for drain in self._plan.drains]
            flows = FlowLoad(self._ask, self._recorder, self._receiver, lambda: self._deadline)
            todo.append(flows.run(self._plan.seed, len(self._plan.scripts), self._plan.seconds))
            order = OrderLoad(self._ask, self._recorder, self._receiver, lambda: self._deadline)
            todo.append(order.run(self._plan.seed, len(self._plan.scripts), self._plan.seconds))
            await asyncio.gather(*todo)
            await self._settle()
            self._over.set()
            await watching

    def set_deadline(self, deadline: float) -> None:
        self._deadline = deadline

    async def look_at_everything(self) -> None:
        """Each job once more at the very end, with its files; then nothing is asked any more."""
        async with self._clients():
            found = {event.job for event in self._recorder.events() if event.kind == "submit" and event.job}
            gate = asyncio.Semaphore(8)

            async def look(job: str) -> None:
                async with gate:
                    await self._look_finally(job)

            await asyncio.gather(*(look(job) for job in sorted(found)))

    async def replay_dead_messages(self) -> int:
        """Messages that were given up are sent again; how many."""
        async with self._clients():
            found = await self._ask("GET", "/api/v1/webhooks/messages?state=dead&limit=100")
            dead = found.json()["data"] if found is not None and found.status_code == 200 else []
            for message in dead:
                await self._ask("POST", f"/api/v1/webhooks/messages/{message['id']}/replay")
            return len(dead)

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[None]:
        # The pool counts a connection that was given up while it was being made for ever: with a limit, and a server
        # that is killed again and again, nobody gets one in the end. The scripts limit how much is asked at once.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        timeout = httpx.Timeout(_ANSWER_SECONDS, connect=5.0, pool=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=timeout, limits=limits, trust_env=False) as http:
            self._http = http
            yield

    # --- one script

    async def _carry_out(self, script: Script) -> None:
        await self._sleep_until(script.at)
        body = dict(script.body)
        if script.webhook is not None:
            body["webhook_url"] = self._receiver.url(script.webhook, script.number)
        key = f"soak-{self._plan.seed}-{script.number}"
        job = await self._submit(script, body, key, "first")
        if job is None:
            return
        accepted = self._recorder.now
        together = [self._watch(job, script.watch)]
        if script.repeats:
            together.append(self._submit(script, body, key, "again"))
        if script.mismatches:
            together.append(self._submit(script, {**body, "prompt": "something else"}, key, "other_body"))
        together += [self._pause(job, script, pause, accepted) for pause in script.pauses]
        if script.cancel_after is not None:
            together.append(self._cancel(job, accepted + script.cancel_after))
        if script.delete_after is not None and not (script.repeats or script.mismatches):
            together.append(self._delete(job, accepted + script.delete_after))
        await asyncio.gather(*together)
        if not (script.deletes_at_end or script.retries_at_end):
            return
        status = await self._until_ended(job)
        if status in ENDS and script.retries_at_end:
            again = await self._submit(script, None, f"{key}-retry", "retry", of=job)
            if again is not None:
                await self._watch(again, "long_poll")
        elif status in ENDS:
            await self._delete(job, self._recorder.now)

    async def _submit(
        self, script: Script, body: Mapping[str, Any] | None, key: str, by: str, of: str | None = None
    ) -> str | None:
        path = f"{_JOBS}/{script.path}" if of is None else f"{_JOBS}/{of}/retry"
        asked = self._recorder.now
        answer = await self._ask("POST", path, json=body, headers={"Idempotency-Key": key}, job=of)
        if answer is None:
            self._recorder.note("unanswered", None, asked=asked, key=key)
            return None
        said = _content(answer)
        job = said.get("id") if answer.status_code in (200, 202) else None
        self._recorder.note(
            "submit",
            job,
            asked=asked,
            by=by,
            of=of,
            key=key,
            code=answer.status_code,
            replayed=answer.headers.get("Idempotency-Replayed"),
            status=said.get("status"),
            type=said.get("type"),
            webhook=script.webhook is not None and script.is_generation,
            script=script.number,
        )
        if job is not None:
            self.unended.setdefault(job, str(said.get("status")))
        return job

    async def _watch(self, job: str, how: str) -> None:
        match how:
            case "poll":
                await self._until_ended(job)
            case "long_poll":
                await self._until_ended(job, wait=10)
            case "events":
                await self._listen(job)

    async def _until_ended(self, job: str, wait: int | None = None) -> str:
        """The end that it was seen in; empty where it is gone, or the leg is over."""
        options: dict[str, Any] = {"headers": {"Prefer": f"wait={wait}"}} if wait else {}
        while self._recorder.now < self._deadline:
            status = await self._see(job, "long_poll" if wait else "poll", **options)
            if status is None or status in ENDS:
                return status or ""
            await asyncio.sleep(0.2 if wait else _POLL_SECONDS)
        return ""

    async def _see(self, job: str, by: str, **options: Any) -> str | None:
        """The job's status now; None: it is not there."""
        asked = self._recorder.now
        answer = await self._ask("GET", f"{_JOBS}/{job}", job=job, **options)
        if answer is None:
            return None
        said = _content(answer)
        if answer.status_code == 404:
            self._recorder.note("see", job, asked=asked, by=by, code=404)
            self.unended.pop(job, None)
            return None
        self._note_seen(job, by, said, asked)
        return str(said.get("status"))

    def _note_seen(self, job: str, by: str, said: Mapping[str, Any], asked: float) -> None:
        status = str(said.get("status"))
        self._recorder.note(
            "see", job, asked=asked, by=by, code=200, status=status, attempt=said.get("attempt"),
            finished_at=said.get("finished_at"),
        )  # fmt: skip
        if job in self.unended:
            if status in ENDS:
                del self.unended[job]
            else:
                self.unended[job] = status

    async def _listen(self, job: str) -> None:
        """Server-Sent Events to the end, coming back where the stream was cut, as a browser does."""
        seen: str | None = None
        while self._recorder.now < self._deadline:
            headers = {"Last-Event-ID": seen} if seen else {}
            asked = self._recorder.now
            with suppress(httpx.HTTPError):
                async with self._http.stream("GET", f"{_JOBS}/{job}/events", headers=headers) as stream:
                    if stream.status_code == 404:
                        self._recorder.note("see", job, asked=asked, by="events", code=404)
                        self.unended.pop(job, None)
                        return
                    if stream.status_code != 200 and stream.status_code not in _AWAY:
                        self._refused(f"GET events of {job}", stream.status_code, "", job)
                    name = ""
                    async for line in stream.aiter_lines():
                        if line.startswith("id:"):
                            seen = line[3:].strip()
                        elif line.startswith("event:"):
                            name = line[6:].strip()
                        elif line.startswith("data:") and name in ("snapshot", "end"):
                            said = json.loads(line[5:])
                            if said.get("deleted"):
                                return
                            # An end is told as it is when it comes; a snapshot may be as old as the question.
                            when = asked if name == "snapshot" else self._recorder.now
                            self._note_seen(job, "events", said, when)
                            if name == "end":
                                return
                        if self._recorder.now > self._deadline:
                            return
            await asyncio.sleep(1.0)

    async def _cancel(self, job: str, at: float) -> None:
        await self._sleep_until(at)
        asked = self._recorder.now
        answer = await self._ask("POST", f"{_JOBS}/{job}/cancel", job=job)
        if answer is not None:
            said = _content(answer)
            self._recorder.note("cancel", job, asked=asked, code=answer.status_code, status=said.get("status"))

    async def _delete(self, job: str, at: float) -> None:
        await self._sleep_until(at)
        asked = self._recorder.now
        self._recorder.note("delete_asked", job)
        answer = await self._ask("DELETE", f"{_JOBS}/{job}", job=job)
        if answer is None:
            return
        self._recorder.note("delete", job, asked=asked, code=answer.status_code)
        self.unended.pop(job, None)
        await self._see(job, "after_delete")

    async def _pause(self, job: str, script: Script, pause: Pause, accepted: float) -> None:
        await self._sleep_until(accepted + pause.after)
        model = script.body["model_id"]
        if not await self._manage(job, model, "pause"):
            return
        until = self._recorder.now + _PAUSED_SECONDS
        while self._recorder.now < until:
            status = await self._see(job, "poll")
            if status is None or status in ENDS or status == "paused":
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(pause.lasts)
        await self._see(job, "poll")
        await self._manage(job, model, "resume")

    async def _manage(self, job: str, model: str, action: str) -> bool:
        """Whether it was acknowledged."""
        asked = self._recorder.now
        if action == "resume":
            self._recorder.note("resume_asked", job)
        body = {"model_id": model, "action": action, "node": "here"}
        answer = await self._ask("POST", "/api/v1/models/download/manage", json=body, job=job)
        if answer is None:
            return False
        said = _content(answer)
        self._recorder.note(
            "manage", job, asked=asked, action=action, code=answer.status_code, success=said.get("success"),
            current_status=said.get("current_status"),
        )  # fmt: skip
        return answer.status_code == 200

    # --- what concerns all

    async def _drain(self, drain: Drain) -> None:
        await self._sleep_until(drain.at)
        asked = self._recorder.now
        answer = await self._ask("POST", _NODE)
        if answer is not None:
            self._recorder.note("drain", asked=asked, node="here", code=answer.status_code)
        await self._sleep_until(self._recorder.now + drain.lasts)
        await self._undrain()

    async def _undrain(self) -> None:
        asked = self._recorder.now
        self._recorder.note("undrain_asked", node="here")
        answer = await self._ask("DELETE", _NODE)
        if answer is not None:
            self._recorder.note("undrain", asked=asked, node="here", code=answer.status_code)

    async def _settle(self) -> None:
        """Waits until every accepted job has ended, or the deadline; downloads that are still paused are resumed."""
        models = {script.number: str(script.body.get("model_id")) for script in self._plan.scripts}
        of_script = {
            event.job: event.facts["script"]
            for event in self._recorder.events()
            if event.kind == "submit" and event.job is not None
        }
        await self._undrain()
        while self.unended and self._recorder.now < self._deadline:
            for job in list(self.unended):
                if await self._see(job, "poll") == "paused":
                    await self._manage(job, models[of_script[job]], "resume")
            await asyncio.sleep(1.0)

    async def _list_again_and_again(self) -> None:
        """An observer of the list: notes what has changed since it looked last."""
        while not self._over.is_set() and self._recorder.now < self._deadline:
            after: str | None = None
            for _ in range(10):
                asked = self._recorder.now
                path = f"{_JOBS}?limit=100" + (f"&after={after}" if after else "")
                answer = await self._ask("GET", path)
                if answer is None or answer.status_code != 200:
                    break
                page = answer.json()
                for said in page["data"]:
                    now = (said["status"], said["attempt"])
                    if self._listed.get(said["id"]) != now:
                        self._listed[said["id"]] = now
                        self._note_seen(said["id"], "list", said, asked)
                after = page["next"]
                if after is None or all(said["finished_at"] for said in page["data"]):
                    break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _LIST_SECONDS)

    async def _look_finally(self, job: str) -> None:
        asked = self._recorder.now
        answer = await self._ask("GET", f"{_JOBS}/{job}", job=job)
        if answer is None:
            return
        if answer.status_code == 404:
            self._recorder.note("see", job, asked=asked, by="final", code=404)
            return
        said = _content(answer)
        self._note_seen(job, "final", said, asked)
        if said.get("status") != "succeeded" or said.get("type") != "generation":
            return
        for artifact in said["result"]["artifacts"]:
            asked = self._recorder.now
            served = await self._ask("GET", artifact["url"], job=job)
            if served is not None:
                self._recorder.note(
                    "artifact", job, asked=asked, name=artifact["name"], code=served.status_code,
                    sha256=hashlib.sha256(served.content).hexdigest(), promised=artifact["sha256"],
                )  # fmt: skip

    async def _ask(self, method: str, path: str, job: str | None = None, **options: Any) -> httpx.Response | None:
        """The answer, asked for until there is one; None: not before the leg's deadline."""
        tries = 0
        while self._recorder.now < self._deadline:
            try:
                answer = await self._http.request(method, path, **options)
            except httpx.TransportError as error:
                self._recorder.note("lost", job, to=f"{method} {path}", error=type(error).__name__)
            else:
                if answer.status_code not in _AWAY:
                    if answer.status_code >= 500:
                        self._refused(f"{method} {path}", answer.status_code, answer.text[:300], job)
                        return None if method == "GET" else answer
                    return answer
            pause = _AGAIN_AFTER_SECONDS[min(tries, len(_AGAIN_AFTER_SECONDS) - 1)]
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            tries += 1
        return None

    def _refused(self, to: str, code: int, text: str, job: str | None) -> None:
        self._recorder.note("refused", job, to=to, code=code, text=text)

    async def _sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, min(at, self._deadline) - self._recorder.now))


def _content(answer: httpx.Response) -> dict[str, Any]:
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
