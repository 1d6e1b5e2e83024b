"""List the messages to jobs' webhooks, and send them again."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import caller_of, note_owner
from api.context import Context
from api.http.query import JOB_ID
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.fields import PageLimit, Time
from shared import clock
from shared.database.tables import WebhookMessage as Row
from shared.errors import NotFound
from shared.jobs.ending import webhooks
from shared.states import Scope
from wanworks.requests import PLAIN

MESSAGE_ID = re.compile(rf"msg_{JOB_ID.pattern}")


def _cursor(value: str | None) -> str | None:
    if value is not None and not MESSAGE_ID.fullmatch(value):
        raise ValueError("is not a cursor; give the `next` of the previous page")
    return value


class WebhookMessagesQuery(BaseModel):
    """Filters and page of the list of webhook messages."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[
        Literal["waiting", "delivered", "dead"] | None,
        Field(description="`dead`: given up after a day, or permanently refused by the receiver."),
    ] = None
    job_id: Annotated[
        Annotated[str, Field(max_length=64), PLAIN] | None,
        Field(description="Only messages about the job, batch or flow with this id."),
    ] = None
    limit: PageLimit = 20
    after: Annotated[
        str | None,
        AfterValidator(_cursor),
        Field(description="The `next` of the previous page.", json_schema_extra={"pattern": f"^{MESSAGE_ID.pattern}$"}),
    ] = None


class WebhookMessage(BaseModel):
    """A message about a job. The receiver gets `id` as the header `webhook-id`, the same for each attempt."""

    model_config = ConfigDict(frozen=True)

    id: str
    job_id: Annotated[str | None, Field(description="Null: the message is about a batch or a flow.")]
    batch_id: str | None = None
    flow_id: str | None = None
    type: Annotated[
        str,
        Field(description="job.progress; `job.`, `batch.` or `flow.` and then succeeded, failed or cancelled."),
    ]
    host: Annotated[
        str, Field(description="The host of the webhook. The rest of its URL may be secret and is not shown.")
    ]
    state: Literal["waiting", "delivered", "dead"]
    tries: int
    created_at: Time
    delivered_at: Time | None
    error: Annotated[str | None, Field(description="The error of the last attempt.")]
    data: dict[str, Any]


class WebhookMessagePage(BaseModel):
    """A page of messages, newest first. Pass `next` as `after` to get the next page."""

    model_config = ConfigDict(frozen=True)

    data: list[WebhookMessage]
    has_more: bool
    next: str | None


def list_messages(context: Context, request: Request, query: WebhookMessagesQuery) -> Response:
    page = webhooks.page(
        context.database,
        only=caller_of(request).only,
        limit=query.limit,
        after=query.after,
        state=query.state,
        job_id=query.job_id,
    )
    last = page.messages[-1].id if page.has_more else None
    return json_response(
        WebhookMessagePage(data=[_shown(row) for row in page.messages], has_more=page.has_more, next=last)
    )


def replay(context: Context, request: Request, query: BaseModel) -> Response:
    message_id = str(request.path_params["message_id"])
    if not MESSAGE_ID.fullmatch(message_id):
        raise NotFound("message", message_id)
    message = webhooks.replay(context.database, message_id, only=caller_of(request).only)
    note_owner(request, webhooks.owner_of(context.database, message))
    return json_response(_shown(message), 202)


def _shown(row: Row) -> WebhookMessage:
    of_batch, of_flow = row.type.startswith(webhooks.OF_BATCH), row.type.startswith(webhooks.OF_FLOW)
    return WebhookMessage(
        id=row.id,
        job_id=None if of_batch or of_flow else row.job_id,
        batch_id=row.job_id if of_batch else None,
        flow_id=row.job_id if of_flow else None,
        type=row.type,
        host=urlsplit(row.url).hostname or "",
        state=row.state,
        tries=row.tries,
        created_at=clock.iso(row.created_at) or "",
        delivered_at=clock.iso(row.delivered_at),
        error=row.error,
        data=row.data,
    )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/webhooks/messages", list_messages, "listWebhookMessages",
        "List messages to webhooks",
        answers=(Answer(200, "A page of messages.", WebhookMessagePage),), problems=(503,),
        query=WebhookMessagesQuery, tag="operations", scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/webhooks/messages/{message_id}/replay", replay, "replayWebhookMessage",
        "Send a webhook message again",
        answers=(Answer(202, "The message is queued.", WebhookMessage),), problems=(404, 409, 503),
        tag="operations", scope=Scope.SUBMIT,
    ),
)  # fmt: skip
