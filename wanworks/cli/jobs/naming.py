"""What a job is called, and why it has no video, in a sentence that says what to do."""

import shlex
from collections.abc import Sequence

from wanworks.cli import screen
from wanworks.cli.ids import short_ids
from wanworks.client.shapes import Job, artifacts_of, ended, succeeded, why_not

_KINDS = {
    "download": "download",
    "integrity_check": "integrity check",
    "cleanup": "cleanup",
    "prepare": "preparation",
    "benchmark": "benchmark",
    "lora_fetch": "LoRA fetch",
    "bulk": "bulk action",
}
_WHOLE_PROMPT = 5000


def title(job: Job) -> str:
    """Return a job's title: its prompt, or what it does, as the live page has it."""
    params = job["params"]
    kind = _kind(job)
    kind = f"{kind[0].upper()}{kind[1:]}"
    match job["type"]:
        case "generation":
            return screen.shortened(params.get("prompt"), _WHOLE_PROMPT) or ""
        case "bulk":
            action = str(params.get("action") or "act on").replace("_", " ")
            return f"{action[0].upper()}{action[1:]}: all jobs that match"
        case "cleanup":
            return f"{kind} of node {params.get('node')}"
        case "lora_fetch":
            return f"{kind} of {params.get('name')}"
        case "integrity_check" if job["model_id"] is None:
            return f"{kind} of all models"
    return f"{kind} of {job['model_id']}" if job["model_id"] else kind


def no_video(job: Job) -> str:
    """Return why the job has no video, and what to do."""
    if job["type"] != "generation":
        article = "an" if _kind(job)[0] in "aeiou" else "a"
        return (
            f"job {job['id']} is {article} {_kind(job)} and has no video; "
            "`wanworks jobs --type generation` lists the jobs that make one"
        )
    if not ended(job):
        return (
            f"job {job['id']} is {job['status']} and has no video yet; `wanworks watch {job['id']}` waits for its end"
        )
    if not succeeded(job):
        return f"{why_not(job)}; it has no video, and `wanworks retry {job['id']}` submits it again"
    return f"job {job['id']} has no video"


def no_such_file(job: Job, name: str) -> str:
    """Return that the job has no file of that name, and which it has."""
    there = ", ".join(one["name"] for one in artifacts_of(job)) or "none"
    return f"--file {name}: job {job['id']} has no such file; it has: {there}"


def how_to_share(jobs: Sequence[Job], options: Sequence[str]) -> list[str]:
    """Return lines that say how to share the videos of these jobs; `options` are those by which they are found."""
    command = " ".join(["wanworks share", *(shlex.quote(word) for word in options)])
    ids = short_ids([job["id"] for job in jobs])
    if len(ids) == 1:
        return [f"share it: {command} {ids[0]}"]
    return ["share one:", *(f"  {command} {each}" for each in ids)]


def _kind(job: Job) -> str:
    return _KINDS.get(job["type"], job["type"].replace("_", " "))
