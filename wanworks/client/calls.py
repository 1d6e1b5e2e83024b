"""Every call of the API with its request and its result, described once; `client.py` carries them out."""

import base64
import uuid
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, cast
from urllib.parse import quote

from wanworks.client.refusals import body_of
from wanworks.client.shapes import (
    Alert,
    ArtifactLink,
    DeviceRow,
    GenerationFields,
    Job,
    JobFilter,
    JobPage,
    Node,
    NodeLog,
    Pause,
    PriorityName,
    Queues,
    SharedLink,
    Workers,
)
from wanworks.client.steps import Blocking, Call, Emit, Emitting, Send, Step

_JOBS = "/api/v1/jobs"
_MODELS = "/api/v1/models"
_ALERTS = "/api/v1/dashboard/alerts"
_NODES = "/api/v1/nodes"
_QUEUES = "/api/v1/queues"
_CLEANUP_SECONDS = 60.0  # the API itself waits for 30
_PAGE = 100


def generate(
    *,
    image: Path | bytes | None = None,
    last_image: Path | bytes | None = None,
    idempotency_key: str | None = None,
    **fields: Unpack[GenerationFields],
) -> Call[Job]:
    """Submit a video. `image` and `last_image` are each a PNG, JPEG or WebP: a path, or the file's bytes.

    With `count`, the result is the first of so many jobs, `job_ids` are all of them, and `wait_for_batch` waits for
    all. However often it is sent, one job comes of it; the same `idempotency_key` later gives the same job again.
    Raises BadRequest naming each wrong field; OSError for a file that cannot be read.
    """
    body = yield from _generation(image, last_image, fields)
    return cast(Job, (yield from made(f"{_JOBS}/generation", body, idempotency_key)))


def dry_run(
    *, image: Path | bytes | None = None, last_image: Path | bytes | None = None, **fields: Unpack[GenerationFields]
) -> Call[dict[str, Any]]:
    """Return what `generate` would: settled parameters, cost, expected start and end, memory. Creates no job.

    Raises what `generate` would raise.
    """
    body = yield from _generation(image, last_image, fields)
    request = Send("POST", f"{_JOBS}/generation", json=body, query={"dry_run": "true"})
    return cast(dict[str, Any], (yield from result_of(request)))


def job(job_id: str) -> Call[Job]:
    """Return one job. Raises NotThere."""
    return cast(Job, (yield from result_of(Send("GET", f"{_JOBS}/{segment(job_id)}"))))


def jobs_page(*, limit: int = 20, after: str | None = None, **which: Unpack[JobFilter]) -> Call[JobPage]:
    """Return at most `limit` (1 to 100) jobs, newest first. `next` of a page is `after` of the following one."""
    query = given({**which, "limit": limit, "after": after})
    return cast(JobPage, (yield from result_of(Send("GET", _JOBS, query=query))))


def jobs(**which: Unpack[JobFilter]) -> Emitting[Job]:
    """Yield all jobs, newest first; pages are requested as needed."""
    after: str | None = None
    while True:
        page = yield from jobs_page(limit=_PAGE, after=after, **which)
        for each in page["data"]:
            yield Emit(each)
        after = page["next"]
        if not page["has_more"]:
            return


def cancel(job_id: str) -> Call[Job]:
    """Cancel a job. Raises StateForbids if it has ended otherwise."""
    return cast(Job, (yield from result_of(Send("POST", f"{_JOBS}/{segment(job_id)}/cancel"))))


def retry(job_id: str, *, new_seed: bool = False, idempotency_key: str | None = None) -> Call[Job]:
    """Submit the same request again, as a new job. `new_seed`: with another seed, so it makes another video."""
    path = f"{_JOBS}/{segment(job_id)}/retry{'?new_seed=true' if new_seed else ''}"
    return cast(Job, (yield from made(path, None, idempotency_key)))


def share(artifact: ArtifactLink, expires_in_seconds: int = 3600) -> Call[SharedLink]:
    """Create a link to an artifact that needs no key, valid for at most a week. Its `url` is a path."""
    request = Send("POST", f"{artifact['url']}/link", json={"expires_in_seconds": expires_in_seconds})
    return cast(SharedLink, (yield from result_of(request)))


def delete(job_id: str) -> Call[None]:
    """Cancel the job if it has not ended, and remove it with its files."""
    yield from result_of(Send("DELETE", f"{_JOBS}/{segment(job_id)}"))


def workers() -> Call[Workers]:
    """Return the devices and nodes with loaded models and running jobs."""
    return cast(Workers, (yield from result_of(Send("GET", "/api/v1/workers"))))


def nodes() -> Call[list[Node]]:
    """Return the nodes with their devices and drain states."""
    return cast(list[Node], (yield from result_of(Send("GET", _NODES)))["nodes"])


def drain(node: str) -> Call[Node]:
    """Drain a node: it finishes its running jobs and takes no new ones until `undrain`. Raises NotThere."""
    return cast(Node, (yield from result_of(Send("POST", f"{_NODES}/{segment(node)}/drain"))))


def undrain(node: str) -> Call[Node]:
    """End a node's drain. Raises NotThere."""
    return cast(Node, (yield from result_of(Send("DELETE", f"{_NODES}/{segment(node)}/drain"))))


def release(device: str) -> Call[DeviceRow]:
    """Release a quarantined device, named NODE/INDEX, so that it takes jobs again. Raises NotThere."""
    node, _, index = device.rpartition("/")
    path = f"{_NODES}/{segment(node)}/devices/{segment(index)}/quarantine"
    return cast(DeviceRow, (yield from result_of(Send("DELETE", path))))


def node_log(node: str, process: str | None = None, lines: int = 100) -> Call[NodeLog]:
    """Return the last lines of a node's logs, of one process or all. Raises NotThere and ServerFault."""
    query = given({"process": process, "lines": lines})
    return cast(NodeLog, (yield from result_of(Send("GET", f"{_NODES}/{segment(node)}/log", query=query))))


def remove_node(node: str) -> Call[None]:
    """Remove a node that is gone for good. Raises NotThere; StateForbids while it is alive."""
    yield from result_of(Send("DELETE", f"{_NODES}/{segment(node)}"))


def pause_queue(
    *,
    model_id: str | None = None,
    device: str | None = None,
    node: str | None = None,
    key: str | None = None,
    job_type: str | None = None,
    reason: str = "",
    until: str | None = None,
    running: str = "finish",
) -> Call[list[Pause]]:
    """Start no more jobs of one model, device, node, key or type, or of any. Return what is paused then.

    `until`: a time such as 2026-01-31T12:00:00Z at which the pause ends by itself. `running`: `finish`, or `yield`:
    running generations and downloads then return to the queue soon.
    """
    scope = {"model_id": model_id, "device": device, "node": node, "key": key, "job_type": job_type}
    body = given({**scope, "reason": reason or None, "until": until, "running": running})
    return cast(list[Pause], (yield from result_of(Send("POST", f"{_QUEUES}/pause", json=body)))["pauses"])


def resume_queue(
    *,
    model_id: str | None = None,
    device: str | None = None,
    node: str | None = None,
    key: str | None = None,
    job_type: str | None = None,
) -> Call[list[Pause]]:
    """End the pause of exactly this scope. Return what is still paused."""
    body = given({"model_id": model_id, "device": device, "node": node, "key": key, "job_type": job_type})
    return cast(list[Pause], (yield from result_of(Send("POST", f"{_QUEUES}/resume", json=body)))["pauses"])


def move_to_front(job_id: str) -> Call[Job]:
    """Move a queued job before all others. Raises StateForbids if it is not queued."""
    return cast(Job, (yield from result_of(Send("POST", f"{_JOBS}/{segment(job_id)}/move-to-front"))))


def move_back(job_id: str) -> Call[Job]:
    """Return a job from the front to its place in the queue. Raises StateForbids if it is not queued."""
    return cast(Job, (yield from result_of(Send("DELETE", f"{_JOBS}/{segment(job_id)}/move-to-front"))))


def queues() -> Call[Queues]:
    """Return the queued and running jobs, by model and priority."""
    return cast(Queues, (yield from result_of(Send("GET", _QUEUES))))


def models() -> Call[dict[str, Any]]:
    """Return every model of the catalogue with its replicas, as in the API's detailed status."""
    return cast(dict[str, Any], (yield from result_of(Send("GET", f"{_MODELS}/status/detailed"))))


def fetch_model(
    model_id: str,
    *,
    node: str | None = None,
    revision: str | None = None,
    priority: PriorityName | None = None,
    bandwidth_limit_mbps: float | None = None,
    idempotency_key: str | None = None,
) -> Call[Job]:
    """Download a model to a node (by default the only one). Bandwidth in 10^6 bits per second."""
    fields = {"node": node, "revision": revision, "priority": priority, "bandwidth_limit_mbps": bandwidth_limit_mbps}
    return cast(Job, (yield from made(f"{_JOBS}/download", given({"model_id": model_id, **fields}), idempotency_key)))


def manage_download(
    model_id: str,
    action: Literal["pause", "resume", "cancel", "priority", "bandwidth"],
    *,
    priority: PriorityName | None = None,
    bandwidth_limit_mbps: float | None = None,
    node: str | None = None,
) -> Call[dict[str, Any]]:
    """Pause, resume, cancel or limit the download of a model, by default on every node. Raises StateForbids."""
    fields = {"priority": priority, "bandwidth_limit_mbps": bandwidth_limit_mbps, "node": node}
    body = given({"model_id": model_id, "action": action, **fields})
    request = Send("POST", f"{_MODELS}/download/manage", json=body, repeatable=False)
    return cast(dict[str, Any], (yield from result_of(request)))


def verify(
    model_id: str | None = None,
    *,
    node: str | None = None,
    full: bool = True,
    repair: bool = False,
    idempotency_key: str | None = None,
) -> Call[list[Job]]:
    """Check a model's files, or all models', against their checksums: one job for each node."""
    fields = given({"model_id": model_id, "node": node, "full": full, "repair": repair})
    answer = yield from made(f"{_JOBS}/integrity-check", fields, idempotency_key)
    return cast(list[Job], answer.get("data", [answer]))


def prepare(
    model_id: str,
    *,
    quantization: Literal["bf16", "int8", "fp8"] | None = None,
    node: str | None = None,
    idempotency_key: str | None = None,
) -> Call[list[Job]]:
    """Write copies of a model's weights in the form in which they are loaded: one job for each node."""
    fields = given({"model_id": model_id, "quantization": quantization, "node": node})
    answer = yield from made(f"{_JOBS}/prepare", fields, idempotency_key)
    return cast(list[Job], answer.get("data", [answer]))


def benchmark(
    model_id: str,
    *,
    resolution: str | None = None,
    frames: int | None = None,
    steps: int | None = None,
    quantization: str | None = None,
    tiers: Sequence[str] | None = None,
    runs: int | None = None,
    idempotency_key: str | None = None,
) -> Call[Job]:
    """Compare the speed tiers of a model with `exact` on a device. Omitted sizes are the model's own."""
    fields = given(
        {
            "model_id": model_id,
            "resolution": resolution,
            "frames": frames,
            "steps": steps,
            "quantization": quantization,
            "tiers": list(tiers) if tiers is not None else None,
            "runs": runs,
        }
    )
    return cast(Job, (yield from made(f"{_JOBS}/benchmark", fields, idempotency_key)))


def tiers(model_id: str) -> Call[dict[str, Any]]:
    """Return what each speed tier of a model uses, and what has been measured."""
    path = f"/api/v1/wan-models/tiers/{segment(model_id)}"
    return cast(dict[str, Any], (yield from result_of(Send("GET", path))))


def cleanup(
    *,
    target_space_gb: float | None = None,
    keep_recent_days: int | None = None,
    dry_run: bool = True,
    node: str | None = None,
) -> Call[dict[str, Any]]:
    """Return what can be removed from the model storage; remove it if `dry_run` is false. Space in 10^9 bytes."""
    fields = {"target_space_gb": target_space_gb, "keep_recent_days": keep_recent_days, "node": node}
    body = {**given(fields), "dry_run": dry_run}
    request = Send("POST", f"{_MODELS}/cleanup", json=body, timeout_seconds=_CLEANUP_SECONDS, repeatable=dry_run)
    return cast(dict[str, Any], (yield from result_of(request)))


def analytics(days: int = 30) -> Call[dict[str, Any]]:
    """Return the use of each model in the last `days` days."""
    request = Send("GET", f"{_MODELS}/analytics", query={"time_period_days": days})
    return cast(dict[str, Any], (yield from result_of(request)))


def fallback(
    requested_model: str,
    *,
    quality: Literal["low", "medium", "high"] | None = None,
    speed: Literal["fast", "medium", "slow"] | None = None,
    resolution: str | None = None,
    max_wait_minutes: float | None = None,
) -> Call[dict[str, Any]]:
    """Return a suggestion for a model that cannot serve."""
    fields = {"quality": quality, "speed": speed, "resolution": resolution, "max_wait_minutes": max_wait_minutes}
    body = given({"requested_model": requested_model, **fields})
    return cast(dict[str, Any], (yield from result_of(Send("POST", f"{_MODELS}/fallback/suggest", json=body))))


def pin(model_id: str, pinned: bool = True) -> Call[dict[str, Any]]:
    """Protect a model from cleanup, or end its protection."""
    request = Send("POST" if pinned else "DELETE", f"{_MODELS}/{segment(model_id)}/pin")
    return cast(dict[str, Any], (yield from result_of(request)))


def alerts(state: Literal["open", "resolved", "all"] = "open") -> Call[list[Alert]]:
    """Return alerts, newest first."""
    return cast(list[Alert], (yield from result_of(Send("GET", _ALERTS, query={"state": state}))))


def acknowledge(alert_id: str, by: str | None = None) -> Call[Alert]:
    """Acknowledge an alert. The first acknowledgement is kept."""
    request = Send("POST", f"{_ALERTS}/{segment(alert_id)}/acknowledge", json={"by": by} if by else {})
    return cast(Alert, (yield from result_of(request)))


def _generation(
    image: Path | bytes | None, last_image: Path | bytes | None, fields: Mapping[str, Any]
) -> Generator[Step, Any, dict[str, Any]]:
    body: dict[str, Any] = dict(fields)
    for name, picture in (("image", image), ("last_image", last_image)):
        if picture is not None:
            content = (yield Blocking(picture.read_bytes)) if isinstance(picture, Path) else picture
            body[name] = yield Blocking(partial(data_url, content))
    return body


def result_of(request: Send) -> Generator[Step, Any, Any]:
    """Send a request. Return the response's body. Raises ApiRefused."""
    answer = yield request
    return body_of(answer)


def segment(id: str) -> str:
    """Return an id as one escaped segment of a path."""
    return quote(id, safe="")


def data_url(image: bytes) -> str:
    """Return the image as a data URL. The API decodes and checks it, and ignores the type in the URL."""
    return f"data:application/octet-stream;base64,{base64.b64encode(image).decode()}"


def made(
    path: str, fields: Mapping[str, Any] | None, key: str | None, *, timeout_seconds: float | None = None
) -> Generator[Step, Any, Any]:
    """Send a POST that creates something exactly once, even if it is repeated."""
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    return (yield from result_of(Send("POST", path, json=fields, headers=headers, timeout_seconds=timeout_seconds)))


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
