"""The commands for alerts: list and acknowledge."""

from typing import Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.ids import one_of
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.client.shapes import Alert


def register(app: typer.Typer) -> None:
    app.command()(alerts)
    app.command()(acknowledge)


def alerts(
    all_of_them: Annotated[bool, typer.Option("--all", help="Include resolved alerts.")] = False,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show open alerts with suggested actions."""
    with client_of(url, home) as client:
        found = client.alerts("all" if all_of_them else "open")
    if as_json:
        screen.print_json(found)
        return
    columns = ("id", "severity", "since", "until", "acknowledged", "what", "do")
    screen.print_table(columns, map(_row, found), wrapped=("what", "do"), least=("acknowledged", "until"))


def acknowledge(
    alert_id: Annotated[str, typer.Argument(metavar="ALERT", help="An alert's id, or the beginning of it.")],
    by: Annotated[str | None, typer.Option(help="Your name.")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Acknowledge an alert. It resolves by itself once its cause is gone."""
    with client_of(url, home) as client:
        found = client.acknowledge(one_of(alert_id, "alert", [one["id"] for one in client.alerts("all")]), by)
    if as_json:
        screen.print_json(found)
    else:
        name = f" by {found['acknowledged_by']}" if found["acknowledged_by"] else ""
        print(f"{found['id']} acknowledged{name}, {screen.local(found['acknowledged_at'])}")


def _row(alert: Alert) -> tuple[Any, ...]:
    acknowledged = (alert["acknowledged_by"] or "yes") if alert["acknowledged"] else ""
    return (
        alert["id"],
        alert["severity"],
        screen.moment(alert["timestamp"]),
        screen.moment(alert["resolved_at"]),
        acknowledged,
        f"{alert['title']}: {alert['message']}",
        alert["suggested_action"],
    )
