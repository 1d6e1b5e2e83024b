"""Bodies of the probes."""

from typing import Literal

from api.schemas.fields import Public


class Health(Public):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Public):
    """Whether jobs are accepted and worked on. `reasons` says what is missing where it is degraded."""

    status: Literal["ok", "degraded"]
    reasons: list[str]
