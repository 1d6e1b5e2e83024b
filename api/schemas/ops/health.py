"""Responses of the probes."""

from typing import Literal

from api.schemas.fields import ResponseModel


class Health(ResponseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(ResponseModel):
    """Whether jobs are accepted and processed. `reasons` lists what is missing if the status is `degraded`."""

    status: Literal["ok", "degraded"]
    reasons: list[str]
