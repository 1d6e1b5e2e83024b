"""The calls for the library of LoRAs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from wanworks.client.calls import given, made, result_of, segment
from wanworks.client.shapes import Job, StoredLora
from wanworks.client.steps import Call, Send

_LORAS = "/api/v1/loras"
_UPLOAD_SECONDS = 600.0  # the server checks and stores the file after it has received it

Expert = Literal["both", "high", "low"]


def loras() -> Call[list[StoredLora]]:
    """Return the LoRAs that requests may name, by name."""
    return cast(list[StoredLora], (yield from result_of(Send("GET", _LORAS)))["data"])


def upload_lora(path: Path, name: str, *, expert: Expert = "both", description: str = "") -> Call[StoredLora]:
    """Upload a safetensors file. Raises StateForbids if the name is taken; OSError for a file that cannot be read."""
    query = {"name": name, "expert": expert, **({"description": description} if description else {})}
    request = Send("POST", _LORAS, query=query, file=path, timeout_seconds=_UPLOAD_SECONDS)
    return cast(StoredLora, (yield from result_of(request)))


def fetch_lora(
    name: str,
    *,
    url: str | None = None,
    repo: str | None = None,
    file: str | None = None,
    revision: str | None = None,
    expert: Expert = "both",
    description: str = "",
    idempotency_key: str | None = None,
) -> Call[Job]:
    """Fetch a LoRA's file from a URL, or from the hub by `repo` and `file`, as a job."""
    asked = given({"name": name, "url": url, "repo": repo, "file": file, "revision": revision, "expert": expert})
    if description:
        asked["description"] = description
    return cast(Job, (yield from made(f"{_LORAS}/fetch", asked, idempotency_key)))


def change_lora(
    lora_id: str,
    *,
    description: str | None = None,
    shared: bool | None = None,
    shared_with: Sequence[str] | None = None,
) -> Call[StoredLora]:
    """Describe a LoRA, share it with all keys, or with those of the given names."""
    with_keys = None if shared_with is None else list(shared_with)
    body: dict[str, Any] = given({"description": description, "shared": shared, "shared_with": with_keys})
    return cast(StoredLora, (yield from result_of(Send("PATCH", f"{_LORAS}/{segment(lora_id)}", json=body))))


def remove_lora(lora_id: str) -> Call[None]:
    """Remove a LoRA. Jobs that were accepted with it keep its files."""
    yield from result_of(Send("DELETE", f"{_LORAS}/{segment(lora_id)}"))
