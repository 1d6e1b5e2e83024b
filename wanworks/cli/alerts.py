"""The commands for alerts: what is wrong, and who takes care."""

from typing import Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.client.client import Alert


def register(app: typer.Typer) -> None:
    app.command()(alerts)
    app.command()(acknowledge)


def alerts(
    all_of_them: Annotated[bool, typer.Option("--all", help="Those that are over as well.")] = False,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what is wrong, and what to do about it."""
    with client_of(url, home) as client:
        found = client.alerts("all" if all_of_them else "open")
    if as_json:
        screen.print_json(found)
        return
    screen.print_table(("id", "severity", "since", "until", "acknowledged", "what", "do"), (_row(one) for one in found))


def acknowledge(
    alert_id: Annotated[str, typer.Argument(metavar="ALERT", help="An alert's id.")],
    by: Annotated[str | None, typer.Option(help="Your name.")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say that somebody takes care of an alert. It is resolved by itself once its cause is gone."""
    with client_of(url, home) as client:
        found = client.acknowledge(alert_id, by)
    if as_json:
        screen.print_json(found)
    else:
        print(f"{found['id']} acknowledged by {found['acknowledged_by'] or 'somebody'}, {found['acknowledged_at']}")


def _row(alert: Alert) -> tuple[Any, ...]:
    acknowledged = (alert["acknowledged_by"] or "yes") if alert["acknowledged"] else ""
    return (
        alert["id"],
        alert["severity"],
        alert["timestamp"],
        alert["resolved_at"] or "",
        acknowledged,
        f"{alert['title']}: {alert['message']}",
        alert["suggested_action"],
    )
