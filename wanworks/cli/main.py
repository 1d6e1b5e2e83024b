"""The `wanworks` command: registers all commands, and converts errors to a line on stderr and an exit code."""

import codecs
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wanworks import config_file
from wanworks.cli import alerts, benchmark, flow, gallery, logs, loras, nodes, operating, queue, screen
from wanworks.cli import models as model_commands
from wanworks.cli.batches import batches
from wanworks.cli.doctor.command import doctor
from wanworks.cli.groups import Grouped
from wanworks.cli.jobs import commands as jobs
from wanworks.cli.keys import keys
from wanworks.errors import AccessRefused, ExitCode, WanworksError
from wanworks.home import has_server, home_folder, needs_server

app = typer.Typer(
    name="wanworks",
    help="A durable job queue for WAN2.2 video models on your own GPUs.",
    epilog=screen.epilogue(),
    no_args_is_help=True,
    cls=Grouped,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Home = Annotated[Path | None, typer.Option(help="Home folder of this node. [WANWORKS_HOME, ~/.wanworks]")]
Node = Annotated[str | None, typer.Option(help="Name of this node. [WANWORKS_NODE, the host name]")]
Devices = Annotated[str | None, typer.Option(help="auto, cpu:N or cuda:0,1. [WANWORKS_DEVICES, auto]")]
Models = Annotated[str | None, typer.Option("--catalogue", help="default, demo or a TOML file. [WANWORKS_CATALOGUE]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_MASK = "********"


def main() -> None:
    """Run the command line. Ends the process with one of `wanworks.errors.ExitCode`."""
    _use_utf8()
    try:
        app()
    except WanworksError as error:
        print(f"wanworks: {error.message}{_remedy(error)}", file=sys.stderr)
        sys.exit(error.exit_code)


def _remedy(error: WanworksError) -> str:
    """Return what to do about the error, to be added to its message."""
    if not isinstance(error, AccessRefused) or error.status != 401:
        return ""
    if os.environ.get("WANWORKS_API_KEY"):
        return "; set WANWORKS_API_KEY to a valid key: an administrator creates one with `wanworks keys create`"
    return "; set WANWORKS_API_KEY to a key: an administrator creates one with `wanworks keys create`"


def _use_utf8() -> None:
    """Make every character printable, whatever the locale and PYTHONIOENCODING are.

    Under an ASCII locale Python would misread the command line's arguments, so the process restarts in UTF-8 mode.
    Characters that the output cannot encode are escaped.
    """
    ascii_only = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if ascii_only and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"wanworks {version('wanworks')}")
        raise typer.Exit


@app.callback()
def configured(
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file in TOML; variables and options override it. [WANWORKS_CONFIG]"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """A durable job queue for WAN2.2 video models on your own GPUs."""
    if config is not None:
        os.environ[config_file.VARIABLE] = str(config.expanduser().absolute())
    if config_file.path() is None:
        return
    if not has_server():
        return
    from shared.settings import load, secrets

    load()  # refuses an invalid file, whatever the command
    if (file := config_file.exposed(secrets())) is not None:
        screen.note(f"wanworks: {file} contains secrets and every user may read it: run chmod 600 {file}")


@app.command()
@needs_server
def up(
    home: Home = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the API; 0 selects a free one. [WANWORKS_PORT, 8000]")
    ] = None,
    flower_port: Annotated[
        int | None, typer.Option(help="Port of Flower; 0 selects a free one. [WANWORKS_FLOWER_PORT, 5555]")
    ] = None,
    devices: Devices = None,
    models: Models = None,
    only: Annotated[
        str | None, typer.Option(help="Run only these kinds of processes: web,gpu,io,dispatcher,beat,flower,redis.")
    ] = None,
    node: Node = None,
) -> None:
    """Run the stack in the foreground and restart processes that die. Prints `ready URL` once it accepts jobs."""
    from wanworks.supervise.up import up as run

    overrides = {
        "home": home,
        "port": port,
        "flower_port": flower_port,
        "devices": devices,
        "catalogue": models,
        "node": node,
    }
    run(_given(overrides), [word.strip() for word in only.split(",")] if only else ())


@app.command()
@needs_server
def worker(home: Home = None, node: Node = None, devices: Devices = None, models: Models = None) -> None:
    """Run only the GPU workers of this node, like `up --only gpu`."""
    from wanworks.supervise.up import REDIS_WAIT_SECONDS
    from wanworks.supervise.up import up as run

    overrides = {"home": home, "node": node, "devices": devices, "catalogue": models}
    run(_given(overrides), ("gpu",), redis_wait=REDIS_WAIT_SECONDS)


def _one_process(kind: str, sentence: str) -> None:
    @needs_server
    def command(home: Home = None, node: Node = None, models: Models = None) -> None:
        from wanworks.supervise.up import alone

        alone(kind, _given({"home": home, "node": node, "catalogue": models}))

    command.__doc__ = f"{sentence} For use under a process manager, which must restart it."
    app.command(kind)(command)


_one_process("web", "Run only the HTTP API.")
_one_process("io", "Run only the io worker of this node.")
_one_process("dispatcher", "Run only the dispatcher.")
_one_process("beat", "Run only the schedule; with PostgreSQL also on several hosts, of which one leads.")
_one_process("flower", "Run only Flower.")
_one_process("redis", "Run only the embedded Redis of this home.")


@app.command()
@needs_server
def migrate(home: Home = None) -> None:
    """Migrate the database schema to this version and create the store, then exit. Every start does this too."""
    from shared.settings import load
    from wanworks.supervise.up import bring_up_to_date

    settings = load(home=home)
    (settings.home / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
    bring_up_to_date(settings, create_store=True)


@app.command()
def status(home: Home = None, as_json: AsJson = False) -> None:
    """Show the processes of the stack on this home, and its addresses."""
    from wanworks.supervise.state_file import read_state

    folder = home_folder(home)
    state = read_state(folder)
    if as_json:
        screen.print_json(state or {"home": str(folder), "running": False, "ready": False, "processes": []})
    elif state is None:
        print(f"nothing has been started on the home {folder}; `wanworks up` starts the stack")
    else:
        devices = state.get("devices", {})
        rows = (
            (
                row["name"],
                devices.get(row["name"]),
                row["pid"],
                row["state"],
                row["restarts"],
                screen.moment(row["since"]),
            )
            for row in state["processes"]
        )
        screen.print_table(("name", "device", "pid", "state", "restarts", "since"), rows)
        screen.print_fields({"api": state["api_url"], "flower": state["flower_url"], "node": state["node"]})
    if state is None or not state["running"]:
        raise typer.Exit(ExitCode.UNREACHABLE)


@app.command()
@needs_server
def settings(as_json: AsJson = False) -> None:
    """Print every setting with its variable, its present value and its meaning. Secrets are masked."""
    from pydantic import SecretStr

    from shared.settings import load

    present = load()
    rows: list[dict[str, Any]] = []
    for name, field in type(present).model_fields.items():
        value = getattr(present, name)
        shown = _MASK if isinstance(value, SecretStr) else str(value) if isinstance(value, Path) else value
        rows.append({"name": name, "variable": f"WANWORKS_{name.upper()}", "value": shown, "help": field.description})
    if as_json:
        screen.print_json(rows)
    else:
        shown_rows = (list(row.values())[1:] for row in rows)
        screen.print_table(("variable", "value", "help"), shown_rows, wrapped=("value", "help"))


@app.command("webhook-secret")
@needs_server
def webhook_secret(home: Home = None) -> None:
    """Print the key with which receivers verify the messages of jobs' webhooks (Standard Webhooks)."""
    from shared.cluster.nodes import webhook_secret as secret_of
    from shared.database.engine import Database
    from shared.settings import load

    settings = load(home=home)
    database = Database(settings.database)
    try:
        print(secret_of(settings, database))
    finally:
        database.close()


@app.command("demo-models")
@needs_server
def demo_models(directory: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Create the demo catalogue's three tiny random-weight models in DIR; existing ones are kept."""
    from wanworks.supervise.programs import inherited

    command = [sys.executable, "-m", "workers.generation.demo_models", str(directory.expanduser().absolute())]
    sys.stdout.flush()
    os.execve(command[0], command, inherited())


@app.command("measure-memory")
@needs_server
def measure_memory(
    model: Annotated[str, typer.Argument(help="A model of the catalogue.")],
    folder: Annotated[Path | None, typer.Option(help="The model's folder, if it is not in the model storage.")] = None,
) -> None:
    """Print what a model needs in memory, as the table `memory` of a catalogue file. Takes about a minute."""
    from wanworks.supervise.programs import inherited

    command = [sys.executable, "-m", "workers.generation.pipelines.measuring", model]
    command += [str(folder.expanduser().absolute())] if folder is not None else []
    sys.stdout.flush()
    os.execve(command[0], command, inherited())


@app.command()
@needs_server
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the videos; its subfolder .home is the home.")] = Path("demo"),
) -> None:
    """Make two videos from nothing: create tiny models, start the stack, run two jobs through the API, stop."""
    from wanworks.cli.demo import run

    run(out.absolute())


app.command()(logs.logs)
app.command()(doctor)
jobs.register(app)
model_commands.register(app)
benchmark.register(app)
alerts.register(app)
keys.register(app)
operating.register(app)
nodes.register(app)
queue.register(app)
flow.register(app)
batches.register(app)
loras.register(app)
gallery.register(app)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


if __name__ == "__main__":
    main()
