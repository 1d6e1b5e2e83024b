"""`wanworks cancel`, `retry`, `delete` and `share`: act on one job."""

from typing import Annotated
from urllib.parse import urlsplit

import typer

from wanworks.cli import screen
from wanworks.cli.ids import job_id
from wanworks.cli.jobs.naming import no_such_file, no_video
from wanworks.cli.options import AsJson, Home, JobId, Url, client_of
from wanworks.client.shapes import artifacts_of, video_of
from wanworks.errors import ConfigurationError
from wanworks.net.addresses import is_loopback

_ON_THIS_HOST = (
    "this address works on this host only; the page Security of the documentation says how others reach the API"
)


def cancel(job: JobId, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Cancel a job."""
    with client_of(url, home) as client:
        found = client.cancel(job_id(client, job))
    screen.print_json(found) if as_json else print(f"{found['id']} {found['status']}")


def retry(
    job: JobId,
    new_seed: Annotated[bool, typer.Option("--new-seed", help="Make another video: draw another seed.")] = False,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Submit an ended job again, with the same settings. Prints the id of the new job."""
    with client_of(url, home) as client:
        made = client.retry(job_id(client, job), new_seed=new_seed)
    screen.print_json(made) if as_json else print(made["id"])


def delete(
    job: JobId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Delete a job and its files. One that has not ended is cancelled first."""
    with client_of(url, home) as client:
        whole = job_id(client, job)
        if not yes:
            found = client.job(whole)
            what = screen.shortened(found["params"].get("prompt")) or found["type"]
            if not typer.confirm(f"delete job {whole} ({found['status']}, {what}) and its files?", err=True):
                raise typer.Abort()
        client.delete(whole)
    print(f"{whole} deleted")


def share(
    job: JobId,
    file: Annotated[str | None, typer.Option(help="Name of the artifact. [the video]")] = None,
    seconds: Annotated[int, typer.Option(min=1, max=604_800, help="How long the link is valid.")] = 604_800,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Print a link to a job's video. It needs no key, and is valid for a week."""
    with client_of(url, home) as client:
        found = client.job(job_id(client, job))
        made = artifacts_of(found)
        wanted = video_of(found) if file is None else next((one for one in made if one["name"] == file), None)
        if wanted is None and (file is None or not made):
            raise ConfigurationError(no_video(found))
        if wanted is None:
            raise ConfigurationError(no_such_file(found, file or ""))
        link = client.share(wanted, seconds)
        address = client.address(link["url"])
    if as_json:
        screen.print_json({"url": address, "expires_at": link["expires_at"]})
    else:
        print(address)
        screen.note(f"it needs no key, and is valid until {screen.local(link['expires_at'])}")
        if is_loopback(urlsplit(address).hostname or ""):
            screen.note(_ON_THIS_HOST)
