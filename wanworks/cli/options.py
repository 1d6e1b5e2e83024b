"""The options shared by all commands that call the API, and the client that they select."""

import os
from pathlib import Path
from typing import Annotated

import typer

from wanworks.client.client import Client, Retry
from wanworks.errors import ApiUnreachable
from wanworks.home import home_folder
from wanworks.supervise.state_file import read_state

Url = Annotated[str | None, typer.Option(help="The API. [WANWORKS_URL, else the stack on the home]", metavar="URL")]
Home = Annotated[Path | None, typer.Option(help="Home of the stack to use. [WANWORKS_HOME, ~/.wanworks]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

# An API that never answered is reported at once; one that becomes unreachable later is retried.
PATIENCE = Retry(at_first=False)


def client_of(url: str | None, home: Path | None) -> Client:
    """Return a client of the API that the options select. Raises ApiUnreachable."""
    return Client(find_url(url, home), retry=PATIENCE)


def find_url(given: str | None, home: Path | None) -> str:
    """Return the API's address: as given, from WANWORKS_URL, or of the stack on `home`. Raises ApiUnreachable."""
    if url := given or os.environ.get("WANWORKS_URL"):
        return url
    folder = home_folder(home)
    state = read_state(folder)
    if state is None or not state["running"] or not state["api_url"]:
        raise ApiUnreachable(f"no stack runs on the home {folder}: start `wanworks up`, or give --url")
    return str(state["api_url"])
