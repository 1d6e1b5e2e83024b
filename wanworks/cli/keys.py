"""`wanworks keys` and `wanworks audit`: who may use the API, and what those who administer it did.

They work on the database itself, so that the first key can be made before the API listens: whoever can read this
host's settings has the whole installation in their hands anyway.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.options import AsJson, Home
from wanworks.errors import ConfigurationError
from wanworks.home import needs_server
from wanworks.states import Priority, Scope

if TYPE_CHECKING:
    from shared.database.engine import Database
    from shared.database.tables import ApiKey

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdwy])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}

app = typer.Typer(help="API keys: who may use the API, what for, and how much.", no_args_is_help=True)


@app.command("create")
@needs_server
def create(
    name: Annotated[str, typer.Argument(help="What the key is called; letters, digits and . _ @ -.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it is good for; may be given several times. [submit and read]")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="After how long it ends: 12h, 90d, 4w, 1y. [never]")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, max=1_000_000)] = None,
    queued_jobs: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="How many of its jobs may be queued.")
    ] = None,
    gpu_seconds_per_day: Annotated[
        float | None, typer.Option(min=1, max=1e9, help="Of its generations, per day in UTC.")
    ] = None,
    max_priority: Annotated[Priority | None, typer.Option(help="The highest that its jobs may have.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: it is shown this once, and only a hash of it is kept."""
    # Here and below: the server may not be installed, and every other command starts in half the time without it.
    from shared.access import audit, keys

    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"NAME: {name!r} is not 1 to 64 letters, digits, . _ @ - beginning with a letter or a digit"
        )
    if name in (audit.LOCAL, audit.ON_THE_HOST):
        raise ConfigurationError(f"NAME: {name!r} is what the audit calls those who have no key")
    limits = keys.Limits(requests_per_minute, queued_jobs, gpu_seconds_per_day, max_priority)
    end = _end(expires)
    with _database(home) as database:
        row, secret = keys.make(database, name, scope or (Scope.SUBMIT, Scope.READ), limits, end)
        audit.record(database, audit.Act("key.created", name, 201, detail={"scopes": row.scopes, "id": row.id}))
    if as_json:
        screen.print_json({**_shown(row), "key": secret})
    else:
        print(secret)
        screen.say("this is the only time that the key is shown; give it to clients as WANWORKS_API_KEY")


@app.command("list")
@needs_server
def list_keys(home: Home = None, as_json: AsJson = False) -> None:
    """Show every key that was ever made, by name; never the key itself."""
    from shared.access import keys

    with _database(home) as database:
        rows = [_shown(row) for row in keys.every(database)]
    if as_json:
        screen.print_json(rows)
    else:
        columns = ("name", "hint", "scopes", "state", "created", "expires", "used", "limits")
        screen.print_table(columns, ([_cell(row[column]) for column in columns] for row in rows))


@app.command("revoke")
@needs_server
def revoke(name: Annotated[str, typer.Argument(help="The key's name or id.")], home: Home = None) -> None:
    """Take a key back: within two seconds nobody comes in with it. Its jobs stay."""
    from shared.access import audit, keys

    with _database(home) as database:
        row = keys.revoke(database, name)
        audit.record(database, audit.Act("key.revoked", row.name, 200, detail={"id": row.id}))
    print(f"revoked {row.name} ({row.hint}...)")


@needs_server
def show_audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries, newest first.")] = 50,
    actor: Annotated[str | None, typer.Option(help="Only what this key did, by its name.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what was administered: when, by whom, what, and how it was answered."""
    from shared import clock
    from shared.access import audit

    with _database(home) as database:
        entries = audit.page(database, limit=limit, actor=actor).entries
    rows = [{**row.model_dump(exclude={"at"}), "timestamp": clock.iso(row.at)} for row in entries]
    if as_json:
        screen.print_json(rows)
    else:
        columns = ("timestamp", "actor", "act", "subject", "outcome", "address")
        screen.print_table(columns, ([_cell(row[column]) for column in columns] for row in rows))


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
    """Raises ConfigurationError."""
    if span is None:
        return None
    match = _SPAN.fullmatch(span)
    if match is None:
        raise ConfigurationError(f"--expires: {span!r} is no time such as 12h, 90d, 4w or 1y")
    try:
        return datetime.now(UTC) + timedelta(hours=int(match[1]) * _HOURS[match[2]])
    except OverflowError:
        raise ConfigurationError(f"--expires: {span} is further off than the calendar goes") from None


def _shown(row: "ApiKey") -> dict[str, Any]:
    from shared import clock
    from shared.access import keys

    now = clock.now()
    state = "revoked" if row.revoked_at is not None else "good" if keys.is_good(row, now) else "expired"
    limits = {
        name: value
        for name in ("requests_per_minute", "queued_jobs", "gpu_seconds_per_day", "priority_ceiling")
        if (value := getattr(row, name)) is not None
    }
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


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case list():
            return " ".join(map(str, value))
        case dict():
            return " ".join(
                f"{name}={each:g}" if isinstance(each, float) else f"{name}={each}" for name, each in value.items()
            )
    return str(value)
