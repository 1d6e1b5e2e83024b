"""`wanworks --help`."""

from typer.main import get_command
from typer.testing import CliRunner

from wanworks.cli.groups import GROUPS
from wanworks.cli.main import app


def test_every_command_stands_in_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(get_command(app).commands)  # type: ignore[attr-defined]
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(f"{title}:" in shown for title in GROUPS)
    assert "Other commands" not in shown


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.startswith("wanworks ")
