"""The device time that keys have used, by key, day and model, as JSON or CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.access.caller import caller_of
from api.context import Context
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.ops.usage import Usage, UsageGroup, UsageQuery
from shared import clock
from shared.access import keys
from shared.errors import FieldError, InvalidField
from shared.jobs.usage import by_key
from shared.jobs.usage.by_key import Group
from shared.states import Scope

_MOST_DAYS = 366
_MOST_GROUPS = 10_000
_DAYS_AT_ONCE = 7  # of a CSV that has a line for each day; each part is one query
_COLUMNS = ("key", "key_id", "day", "model_id", "jobs", "succeeded", "failed", "cancelled", "gpu_seconds")
# A spreadsheet would take a text that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def usage(context: Context, request: Request, query: UsageQuery) -> Response:
    first, last = _days(query)
    owner, by = caller_of(request).only, query.dimensions
    names = {row.id: row.name for row in keys.every(context.database)} if "key" in by else {}
    if query.format == "csv":
        headers = {
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="usage-{first}-{last}.csv"',
        }
        return StreamingResponse(_lines(context, first, last, by, owner, names), 200, headers, "text/csv")
    found = by_key.groups(context.database, first, last, by, owner, _MOST_GROUPS + 1)
    if len(found) > _MOST_GROUPS:
        msg = f"has more than {_MOST_GROUPS} groups in these days; ask for fewer days or groups, or for format=csv"
        raise InvalidField(FieldError(("query", "by"), msg, "too_long"))
    data = [_shown(group, names) for group in found]
    return json_response(
        Usage(
            first_day=first.isoformat(),
            last_day=last.isoformat(),
            by=list(by),
            jobs=sum(group.jobs for group in data),
            gpu_seconds=round(sum(group.gpu_seconds for group in found), 3),
            data=data,
        )
    )


def _days(query: UsageQuery) -> tuple[date, date]:
    """Return the first and the last day. Raises InvalidField."""
    last = query.last or clock.now().date()
    first = query.first or last.replace(day=1)
    if first > last:
        msg = f"{first} is after the last day, {last}; give an earlier day, or a later `to`"
        raise InvalidField(FieldError(("query", "from"), msg, "value_error"))
    if (last - first).days >= _MOST_DAYS:
        msg = f"{first} is more than {_MOST_DAYS} days before {last}; ask for a year at a time"
        raise InvalidField(FieldError(("query", "from"), msg, "value_error"))
    return first, last


def _lines(
    context: Context, first: date, last: date, by: Sequence[str], owner: str | None, names: dict[str, str]
) -> Iterator[str]:
    """Yield the lines of the CSV. What is grouped by day is read in parts, so that the answer needs little memory."""
    yield _line(_COLUMNS)
    step = _DAYS_AT_ONCE if "day" in by else _MOST_DAYS
    for begin in range(0, (last - first).days + 1, step):
        start = first + timedelta(days=begin)
        end = min(last, start + timedelta(days=step - 1))
        groups = by_key.groups(context.database, start, end, by, owner)
        text = "".join(
            _line(["" if value is None else _safe(value) for value in _shown(group, names).model_dump().values()])
            for group in groups
        )
        if text:
            yield text


def _line(values: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(values)
    return out.getvalue()


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _shown(group: Group, names: dict[str, str]) -> UsageGroup:
    return UsageGroup(
        key=names.get(group.owner) if group.owner is not None else None,
        key_id=group.owner,
        day=group.day.isoformat() if group.day is not None else None,
        model_id=group.model_id,
        jobs=group.jobs,
        succeeded=group.succeeded,
        failed=group.failed,
        cancelled=group.cancelled,
        gpu_seconds=round(group.gpu_seconds, 3),
    )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/usage", usage, "getUsage", "Device time by key, day and model",
        answers=(Answer(200, "Ended generations, without placeholders.", Usage, also="text/csv"),), problems=(503,),
        query=UsageQuery, tag="operations", scope=Scope.READ,
        description="A key sees its own usage, with the scope `admin` that of all keys.",
    ),
)  # fmt: skip
