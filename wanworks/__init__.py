"""wanworks: a client of the video job API, its commands, and the supervisor of the server's processes.

    from wanworks import Client

    with Client("http://127.0.0.1:8000") as client:
        job = client.wait(client.generate(model_id="T2V-A14B", prompt="A paper boat")["id"])

Only the names in `__all__` are public. Each is imported when it is first used: the supervisor needs none of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanworks.client.client import AsyncClient, Client
    from wanworks.client.retries import Retry
    from wanworks.client.shapes import (
        Batch,
        BulkResult,
        GenerationFields,
        Job,
        Node,
        ended,
        succeeded,
        video_of,
        why_not,
    )
    from wanworks.errors import (
        AccessRefused,
        AlreadyRunning,
        ApiRefused,
        ApiUnreachable,
        BadRequest,
        ConfigurationError,
        NotThere,
        ServerFault,
        StateForbids,
        TimedOut,
        TooBusy,
        TransferBroken,
        WanworksError,
        WrongField,
    )
    from wanworks.states import JobState, Priority

_CLIENT = ("AsyncClient", "Client")
_SHAPES = ("Batch", "BulkResult", "GenerationFields", "Job", "Node", "ended", "succeeded", "video_of", "why_not")
_ERRORS = (
    "AccessRefused", "AlreadyRunning", "ApiRefused", "ApiUnreachable", "BadRequest", "ConfigurationError", "NotThere",
    "ServerFault", "StateForbids", "TimedOut", "TooBusy", "TransferBroken", "WanworksError", "WrongField",
)  # fmt: skip
_WHERE = {
    **dict.fromkeys(_CLIENT, "wanworks.client.client"),
    "Retry": "wanworks.client.retries",
    **dict.fromkeys(_SHAPES, "wanworks.client.shapes"),
    **dict.fromkeys(_ERRORS, "wanworks.errors"),
    "JobState": "wanworks.states",
    "Priority": "wanworks.states",
}

__all__ = [
    "AccessRefused",
    "AlreadyRunning",
    "ApiRefused",
    "ApiUnreachable",
    "AsyncClient",
    "BadRequest",
    "Batch",
    "BulkResult",
    "Client",
    "ConfigurationError",
    "GenerationFields",
    "Job",
    "JobState",
    "Node",
    "NotThere",
    "Priority",
    "Retry",
    "ServerFault",
    "StateForbids",
    "TimedOut",
    "TooBusy",
    "TransferBroken",
    "WanworksError",
    "WrongField",
    "ended",
    "succeeded",
    "video_of",
    "why_not",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
