"""The options shared by all commands that call the API, and the client that they select."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanworks.errors import ApiUnreachable
from wanworks.home import home_folder

if TYPE_CHECKING:
    from wanworks.client.client import Client

Url = Annotated[str | None, typer.Option(help="The API. [WANWORKS_URL, else the stack on the home]", metavar="URL")]
Home = Annotated[Path | None, typer.Option(help="Home of the stack to use. [WANWORKS_HOME, ~/.wanworks]")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or the beginning of it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def client_of(url: str | None, home: Path | None) -> "Client":
    """Return a client of the API that the options select. Raises ApiUnreachable."""
    from wanworks.client.client import Client, Retry  # only a command that calls the API waits for httpx to load

    # An API that never answered is reported at once; one that becomes unreachable later is retried.
    return Client(find_url(url, home), retry=Retry(at_first=False))


def find_url(given: str | None, home: Path | None) -> str:
    """Return the API's address: as given, from WANWORKS_URL, or of the stack on `home`. Raises ApiUnreachable."""
    if url := given or os.environ.get("WANWORKS_URL"):
        return url
    from wanworks.supervise.state_file import read_state

    folder = home_folder(home)
    state = read_state(folder)
    if state is None or not state["running"] or not state["api_url"]:
        raise ApiUnreachable(f"no stack runs on the home {folder}: {_remedy(folder)}")
    return str(state["api_url"])


def _remedy(home: Path) -> str:
    from wanworks.supervise.state_file import read_state

    beside = Path(".wanworks").absolute()  # where `make up` puts it
    if beside != home and (state := read_state(beside)) is not None and state["running"]:
        return "one runs on the home .wanworks; give --home .wanworks, or set WANWORKS_HOME"
    return "start `wanworks up`, name another home with --home or WANWORKS_HOME, or give --url"
