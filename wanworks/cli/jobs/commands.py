"""Registers the commands for jobs."""

import typer

from wanworks.cli.jobs import bulk, following, generate, listing, steering


def register(app: typer.Typer) -> None:
    commands = (
        generate.generate, listing.job, following.watch, following.fetch, steering.share, steering.cancel,
        steering.retry, steering.delete,
    )  # fmt: skip
    for command in commands:
        app.command()(command)
    many = typer.Typer(
        help="List jobs; or cancel, retry, delete or reorder all that match.", invoke_without_command=True
    )
    many.callback()(listing.jobs)
    for action in bulk.COMMANDS:
        many.command()(action)
    app.add_typer(many, name="jobs")
