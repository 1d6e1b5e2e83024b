"""Requests and responses of the alert routes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from api.schemas.fields import Time
from shared.cluster import alerts
from shared.database.tables import Alert as Row
from wanworks.requests import PLAIN


class AlertsQuery(BaseModel):
    """Filters of the list of alerts. Without `state`, open alerts are listed."""

    model_config = ConfigDict(extra="forbid")

    severity: Annotated[
        Literal["critical", "warning", "info"] | None, Field(description="Only alerts of this severity.")
    ] = None
    acknowledged: Annotated[
        Literal["true", "false"] | None, Field(description="Only acknowledged, or only unacknowledged, alerts.")
    ] = None
    state: Annotated[
        Literal["open", "resolved", "all"], Field(description="`resolved` and `all` list the newest 500 alerts.")
    ] = "open"


class Acknowledgement(BaseModel):
    """The person who acknowledges an alert."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[str, Field(min_length=1, max_length=64, description="The person's name."), PLAIN] | None = None


class SystemAlert(BaseModel):
    """A detected problem. It is resolved automatically when its cause is gone."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    id: str
    severity: Literal["critical", "warning", "info"]
    model_id: str | None
    title: str
    message: str
    timestamp: Annotated[Time, Field(description="When the alert was opened.")]
    acknowledged: bool
    action_required: bool
    suggested_action: str
    rule: Annotated[str, Field(description="A stable identifier of the rule that opened it.")]
    subject: Annotated[
        str, Field(description="The model, node, device, job or process; empty: the whole installation.")
    ]
    last_seen: Annotated[Time, Field(description="When its cause was last detected.")]
    acknowledged_at: Time | None
    acknowledged_by: str | None
    resolved_at: Time | None


SystemAlerts = RootModel[list[SystemAlert]]


def alert(row: Row) -> SystemAlert:
    return SystemAlert.model_validate(alerts.as_dict(row))
