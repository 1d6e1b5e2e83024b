"""`wanworks keys` and `wanworks audit`: manage API keys, and show administrative actions.

They use the database directly, so that the first key can be created before the API listens. Anyone who can read this
host's settings controls the whole installation anyway.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.keys import key_options
from wanworks.cli.options import AsJson, Home
from wanworks.errors import ConfigurationError
from wanworks.home import needs_server
from wanworks.states import Priority, Scope

if TYPE_CHECKING:
    from shared.database.engine import Database
    from shared.database.tables import ApiKey

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdwy])")
_TIMES = frozenset({"created", "expires", "used", "timestamp"})
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}

app = typer.Typer(help="API keys with their scopes and limits.", no_args_is_help=True)


@app.command("create")
@needs_server
def create(
    name: Annotated[str, typer.Argument(help="Name of the key: letters, digits and . _ @ -.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it permits; may be repeated. [submit and read]")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="Lifetime: 12h, 90d, 4w, 1y. [never expires]")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, max=1_000_000)] = None,
    queued_jobs: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Maximum number of its queued jobs.")
    ] = None,
    gpu_seconds_per_day: Annotated[
        float | None, typer.Option(min=1, max=1e9, help="Device time of its generations per day in UTC.")
    ] = None,
    max_priority: Annotated[Priority | None, typer.Option(help="Highest priority of its jobs.")] = None,
    running_jobs: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Maximum number of its jobs on devices at once.")
    ] = None,
    gpu_seconds_per_month: Annotated[
        float | None, typer.Option(min=1, max=1e9, help="Device time of its generations per month in UTC.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use; may be repeated. [all models]")
    ] = None,
    max_resolution: Annotated[
        str | None, typer.Option(help="Largest size of its videos, such as 1280x720; at most as many pixels.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, max=100_000, help="Greatest length of its videos.")] = None,
    low_priority_window: Annotated[
        str | None,
        typer.Option(
            help="When its jobs of low priority start, such as '22:00-07:00 Europe/Berlin', or `always`. "
            "[the installation's window]"
        ),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It is shown only once; the database stores a hash."""
    # Imported here and below, because the server may not be installed and would double every other command's start.
    from shared.access import audit, keys

    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"NAME: {name!r} must be 1 to 64 letters, digits and . _ @ -, and begin with a letter or a digit"
        )
    if name in (audit.LOCAL, audit.ON_THE_HOST):
        raise ConfigurationError(f"NAME: {name!r} is reserved: the audit uses it for callers without a key")
    limits = keys.Limits(
        requests_per_minute,
        queued_jobs,
        gpu_seconds_per_day,
        max_priority,
        running_jobs,
        gpu_seconds_per_month,
        key_options.models(model, home),
        key_options.resolution(max_resolution),
        max_frames,
        key_options.window(low_priority_window),
    )
    end = _end(expires)
    with _database(home) as database:
        row, secret = keys.make(database, name, scope or (Scope.SUBMIT, Scope.READ), limits, end)
        audit.record(database, audit.Act("key.created", name, 201, detail={"scopes": row.scopes, "id": row.id}))
    if as_json:
        screen.print_json({**_shown(row), "key": secret})
    else:
        print(secret)
        screen.note("the key is shown only once; give it to clients as WANWORKS_API_KEY")


@app.command("update")
@needs_server
def update(
    name: Annotated[str, typer.Argument(help="The key's name or id.")],
    requests_per_minute: key_options.Changed = None,
    queued_jobs: key_options.Changed = None,
    running_jobs: key_options.Changed = None,
    gpu_seconds_per_day: key_options.Changed = None,
    gpu_seconds_per_month: key_options.Changed = None,
    max_priority: key_options.Changed = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use, in place of those before; may be repeated.")
    ] = None,
    max_resolution: key_options.Changed = None,
    max_frames: key_options.Changed = None,
    low_priority_window: key_options.Changed = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Change limits of a key; `none` removes one, and those that are not named stay.

    They apply everywhere within two seconds. Jobs that run or are queued are not ended.
    """
    from shared.access import audit, keys

    changes = key_options.changes(
        {
            "requests_per_minute": requests_per_minute,
            "queued_jobs": queued_jobs,
            "running_jobs": running_jobs,
            "gpu_seconds_per_day": gpu_seconds_per_day,
            "gpu_seconds_per_month": gpu_seconds_per_month,
            "max_priority": max_priority,
            "max_resolution": max_resolution,
            "max_frames": max_frames,
            "low_priority_window": low_priority_window,
        }
    )
    if model is not None:
        changes["models"] = key_options.models(None if model == [key_options.NONE] else model, home)
    if not changes:
        raise ConfigurationError("name a limit to change, such as --running-jobs 2; `none` removes it")
    with _database(home) as database:
        row = keys.change_limits(database, name, changes)
        audit.record(database, audit.Act("key.updated", row.name, 200, detail={"id": row.id, "limits": changes}))
    if as_json:
        screen.print_json(_shown(row))
    else:
        print(f"{row.name}: {_cell(_shown(row)['limits']) or 'no limits'}")


@app.command("list")
@needs_server
def list_keys(home: Home = None, as_json: AsJson = False) -> None:
    """List all keys, including revoked ones, without the keys themselves."""
    from shared.access import keys

    with _database(home) as database:
        rows = [_shown(row) for row in keys.every(database)]
    if as_json:
        screen.print_json(rows)
    else:
        columns = ("name", "hint", "scopes", "state", "created", "expires", "used", "limits")
        shown = ([_cell(row[column], column) for column in columns] for row in rows)
        screen.print_table(columns, shown, wrapped=("scopes", "limits"), least=("hint", "created", "used"))


@app.command("revoke")
@needs_server
def revoke(name: Annotated[str, typer.Argument(help="The key's name or id.")], home: Home = None) -> None:
    """Revoke a key. It is refused everywhere within two seconds; its jobs stay."""
    from shared.access import audit, keys

    with _database(home) as database:
        row = keys.revoke(database, name)
        audit.record(database, audit.Act("key.revoked", row.name, 200, detail={"id": row.id}))
    print(f"revoked {row.name} ({row.hint}...)")


@needs_server
def show_audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of entries, newest first.")] = 50,
    actor: Annotated[str | None, typer.Option(help="Only actions of the key with this name.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show administrative actions with time, key, action and outcome."""
    from shared import clock
    from shared.access import audit

    with _database(home) as database:
        entries = audit.page(database, limit=limit, actor=actor).entries
    rows = [{**row.model_dump(exclude={"at"}), "timestamp": clock.iso(row.at)} for row in entries]
    if as_json:
        screen.print_json(rows)
    else:
        columns = ("timestamp", "actor", "act", "subject", "outcome", "address")
        shown = ([_cell(row[column], column) for column in columns] for row in rows)
        screen.print_table(columns, shown, cut="subject", least=("address",))


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="keys")
    root.command("audit")(show_audit)


@contextmanager
def _database(home: Path | None) -> Iterator["Database"]:
    from shared.database.engine import Database, migrate
    from shared.settings import load

    settings = load(home=home)
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrate(settings.database)
    database = Database(settings.database)
    try:
        yield database
    finally:
        database.close()


def _end(span: str | None) -> datetime | None:
    """Return when a lifetime that begins now ends. Raises ConfigurationError."""
    if span is None:
        return None
    match = _SPAN.fullmatch(span)
    if match is None:
        raise ConfigurationError(f"--expires: {span!r} is not a time such as 12h, 90d, 4w or 1y")
    try:
        return datetime.now(UTC) + timedelta(hours=int(match[1]) * _HOURS[match[2]])
    except OverflowError:
        raise ConfigurationError(f"--expires: {span} is beyond the calendar's end") from None


def _shown(row: "ApiKey") -> dict[str, Any]:
    from shared import clock
    from shared.access import keys

    now = clock.now()
    state = "revoked" if row.revoked_at is not None else "good" if keys.is_good(row, now) else "expired"
    limits = {one.name: value for one in fields(keys.Limits) if (value := getattr(row, one.name)) is not None}
    return {
        "id": row.id,
        "name": row.name,
        "hint": f"{row.hint}...",
        "scopes": row.scopes,
        "state": state,
        "created": clock.iso(row.created_at),
        "expires": clock.iso(row.expires_at),
        "used": clock.iso(row.used_at),
        "limits": limits,
    }


def _cell(value: Any, column: str = "") -> str:
    """Return a value for a table; those of the columns with times are moments of the API."""
    if column in _TIMES:
        return screen.moment(value) or ""
    match value:
        case None:
            return ""
        case list():
            return " ".join(map(str, value))
        case dict():
            return " ".join(
                f"{name}={each:g}" if isinstance(each, float) else f"{name}={_joined(each)}"
                for name, each in value.items()
            )
    return str(value)


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
