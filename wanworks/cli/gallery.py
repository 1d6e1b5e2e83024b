"""`wanworks gallery`, `favourite` and `collection`: finished videos, and what is kept of them."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanworks.cli import screen
from wanworks.cli.ids import job_id
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.cli.targets import check_target
from wanworks.client.shapes import Collection, GalleryVideo
from wanworks.errors import NotThere, WanworksError

if TYPE_CHECKING:
    from wanworks.client.client import Client

_SHOWN_CHARACTERS = 60
_AT_ONCE = 1000

Jobs = Annotated[list[str], typer.Argument(metavar="JOB...", help="The ids of finished videos, or their beginnings.")]
Which = Annotated[str, typer.Argument(metavar="COLLECTION", help="The name or the id of a collection.")]

collection = typer.Typer(help="Collections: named sets of finished videos.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    root.command("gallery")(gallery)
    root.command("favourite")(favourite)
    root.add_typer(collection, name="collection")


def gallery(
    words: Annotated[list[str] | None, typer.Argument(metavar="[WORD]...", help="Words of the prompt.")] = None,
    model: Annotated[str | None, typer.Option(help="Only videos of this model.")] = None,
    size: Annotated[str | None, typer.Option(help="Only videos of this size, such as 1280x720.")] = None,
    lora: Annotated[str | None, typer.Option(help="Only videos made with this LoRA.")] = None,
    favourite: Annotated[bool, typer.Option("--favourite", help="Only your favourites.")] = False,
    of: Annotated[str | None, typer.Option("--collection", help="Only videos in this collection.")] = None,
    after: Annotated[
        str | None, typer.Option("--after", help="Only videos finished at this time or later: 2026-01-31T12:00:00Z.")
    ] = None,
    before: Annotated[str | None, typer.Option("--before", help="Only videos finished before this time.")] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of videos.", min=1, max=10_000)] = 20,
    zip: Annotated[Path | None, typer.Option(help="Also download their files as this archive; at most 200.")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List finished videos, newest first."""
    if zip is not None:
        check_target(zip)
    with client_of(url, home) as client:
        found = client.gallery(
            q=" ".join(words) if words else None,
            model_id=model,
            size=size,
            lora=lora,
            favourite=True if favourite else None,
            collection=_find(client, of)["id"] if of is not None else None,
            finished_after=after,
            finished_before=before,
        )
        videos = list(islice(found, limit))
        if zip is not None and videos:
            try:
                client.download_videos([video["id"] for video in videos], zip)
            except OSError as error:
                raise WanworksError(f"--zip {zip}: {error.strerror or error}") from None
    if as_json:
        screen.print_json(videos)
    else:
        columns = ("id", "favourite", "model", "size", "finished", "prompt")
        screen.print_table(columns, map(_row, videos), cut="prompt", least=("favourite", "size", "model"))


def favourite(
    jobs: Jobs,
    remove: Annotated[bool, typer.Option("--remove", help="Make them no favourites any more.")] = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Make finished videos your favourites. The retention policy never removes a favourite."""
    with client_of(url, home) as client:
        for job in [job_id(client, one) for one in jobs]:
            client.favourite(job, not remove)
            print(f"{job} is {'no' if remove else 'a'} favourite")


@collection.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Its name, at most 100 characters.")],
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Create an empty collection."""
    with client_of(url, home) as client:
        _print(client.create_collection(name), as_json)


@collection.command("list")
def list_collections(url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """List your collections."""
    with client_of(url, home) as client:
        found = client.collections()
    if as_json:
        screen.print_json(found)
    else:
        rows = ((one["id"], one["name"], str(one["videos"]), screen.moment(one["created_at"])) for one in found)
        screen.print_table(("id", "name", "videos", "created"), rows, cut="name")


@collection.command("add")
def add(which: Which, jobs: Jobs, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Add finished videos to a collection. The retention policy never removes them."""
    with client_of(url, home) as client:
        found = _find(client, which)
        whole = [job_id(client, one) for one in jobs]
        for first in range(0, len(whole), _AT_ONCE):
            found = client.change_collection(found["id"], add=whole[first : first + _AT_ONCE])
        _print(found, as_json)


@collection.command("remove")
def remove(which: Which, jobs: Jobs, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Take videos out of a collection. They are not deleted."""
    with client_of(url, home) as client:
        found = _find(client, which)
        whole = [job_id(client, one) for one in jobs]
        for first in range(0, len(whole), _AT_ONCE):
            found = client.change_collection(found["id"], remove=whole[first : first + _AT_ONCE])
        _print(found, as_json)


@collection.command("rename")
def rename(
    which: Which,
    name: Annotated[str, typer.Argument(help="Its new name.")],
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Rename a collection."""
    with client_of(url, home) as client:
        _print(client.change_collection(_find(client, which)["id"], name=name), as_json)


@collection.command("delete")
def delete(which: Which, url: Url = None, home: Home = None) -> None:
    """Delete a collection, but not its videos."""
    with client_of(url, home) as client:
        found = _find(client, which)
        client.delete_collection(found["id"])
        print(f"{found['name']} is deleted; its {found['videos']} videos are not")


def _find(client: "Client", which: str) -> Collection:
    """Return the collection of that name or id. Raises NotThere."""
    found = next((one for one in client.collections() if which in (one["name"], one["id"])), None)
    if found is None:
        raise NotThere(f"there is no collection {which!r}; `wanworks collection list` lists yours")
    return found


def _row(video: GalleryVideo) -> tuple[str, ...]:
    prompt = " ".join(video["prompt"].split())
    shown = prompt if len(prompt) <= _SHOWN_CHARACTERS else f"{prompt[: _SHOWN_CHARACTERS - 1]}…"
    mark = "*" if video["favourite"] else ""
    return video["id"], mark, video["model_id"], video["size"], screen.moment(video["finished_at"]) or "", shown


def _print(found: Collection, as_json: bool) -> None:
    if as_json:
        screen.print_json(found)
    else:
        print(f"{found['name']}: {found['videos']} videos ({found['id']})")
