"""The query and the response of the usage of keys."""

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.schemas.fields import ResponseModel
from shared import patterns
from shared.jobs.usage.by_key import DIMENSIONS


def _day(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise ValueError("must be a day such as 2026-01-31")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("is not an existing day; give one such as 2026-01-31") from None


Day = Annotated[date, BeforeValidator(_day)]


class UsageQuery(BaseModel):
    """Which usage to return, and how."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)

    first: Annotated[
        Day | None, Field(alias="from", description="The first day in UTC. Left out: the first of `to`'s month.")
    ] = None
    last: Annotated[Day | None, Field(alias="to", description="The last day in UTC. Left out: today.")] = None
    by: Annotated[
        str, Field(pattern=patterns.USAGE_GROUPS, description="What to group by, separated by commas: key, day, model.")
    ] = "key,day,model"
    format: Annotated[Literal["json", "csv"], Field(description="CSV has a line for each group, without a limit.")] = (
        "json"
    )

    @property
    def dimensions(self) -> tuple[str, ...]:
        asked = self.by.split(",")
        return tuple(name for name in DIMENSIONS if name in asked)


class UsageGroup(ResponseModel):
    """Ended generations, without placeholders, and the seconds for which they held devices."""

    key: Annotated[str | None, Field(description="The key's name. Null: without a key, or not grouped by key.")]
    key_id: str | None
    day: Annotated[str | None, Field(description="In UTC. Null: not grouped by day.")]
    model_id: Annotated[str | None, Field(description="Null: not grouped by model.")]
    jobs: int
    succeeded: int
    failed: int
    cancelled: int
    gpu_seconds: Annotated[float, Field(description="Of all of them, failed and cancelled ones included.")]


class Usage(ResponseModel):
    """The usage of some days. Keys without the scope `admin` see their own."""

    first_day: str
    last_day: str
    by: list[str]
    jobs: int
    gpu_seconds: float
    data: Annotated[list[UsageGroup], Field(description="By key, day and model in this order.")]
