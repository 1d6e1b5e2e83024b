"""List the audit: administrative acts, who performed them, and their outcome."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.fields import AfterId, PageLimit, Time
from shared import clock
from shared.access import audit
from shared.database.tables import AuditEntry as Row
from shared.states import Scope
from wanworks.requests import PLAIN


class AuditQuery(BaseModel):
    """Filters and page of the audit."""

    model_config = ConfigDict(extra="forbid")

    actor: Annotated[
        Annotated[str, Field(max_length=64), PLAIN] | None, Field(description="Only acts of the key with this name.")
    ] = None
    limit: PageLimit = 20
    after: AfterId = None


class AuditEntry(BaseModel):
    """One administrative act."""

    model_config = ConfigDict(frozen=True)

    id: str
    timestamp: Time
    actor: Annotated[str, Field(description="The key's name; `local` without keys; `cli` for a command on the host.")]
    key_id: str | None
    act: Annotated[str, Field(description="The operation's id in this document, or an event such as `key.created`.")]
    subject: Annotated[str, Field(description="The path, or the name of the changed object.")]
    outcome: Annotated[int, Field(description="The HTTP status of the response.")]
    detail: dict[str, Any]
    request_id: str | None
    address: str | None


class AuditPage(BaseModel):
    """A page of entries, newest first. Pass `next` as `after` to get the next page."""

    model_config = ConfigDict(frozen=True)

    data: list[AuditEntry]
    has_more: bool
    next: str | None


def list_entries(context: Context, request: Request, query: AuditQuery) -> Response:
    page = audit.page(context.database, limit=query.limit, after=query.after, actor=query.actor)
    last = page.entries[-1].id if page.has_more else None
    return json_response(AuditPage(data=[_shown(row) for row in page.entries], has_more=page.has_more, next=last))


def _shown(row: Row) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        timestamp=clock.iso(row.at) or "",
        actor=row.actor,
        key_id=row.key_id,
        act=row.act,
        subject=row.subject,
        outcome=row.outcome,
        detail=row.detail,
        request_id=row.request_id,
        address=row.address,
    )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/audit", list_entries, "listAudit", "List administrative acts",
        answers=(Answer(200, "A page of entries.", AuditPage),), problems=(503,), query=AuditQuery,
        tag="operations", scope=Scope.ADMIN,
    ),
)  # fmt: skip
