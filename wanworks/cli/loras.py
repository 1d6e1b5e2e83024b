"""`wanworks loras`: list, upload, fetch, share and remove LoRAs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wanworks.cli import screen
from wanworks.cli.jobs.following import followed
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.client.shapes import StoredLora, succeeded, why_not
from wanworks.errors import ApiRefused, ConfigurationError, NotThere

if TYPE_CHECKING:
    from wanworks.client.client import Client

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name by which requests use it.")]
OfExpert = Annotated[
    Literal["both", "high", "low"], typer.Option("--expert", help="For one half of a pair: high or low noise.")
]
Description = Annotated[str, typer.Option(help="A sentence on what it does.")]

app = typer.Typer(help="LoRAs: list, upload, fetch, share and remove them.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="loras")


@app.command("list")
def list_loras(url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """List the LoRAs that requests may name."""
    with client_of(url, home) as client:
        found = client.loras()
    if as_json:
        screen.print_json(found)
        return
    columns = ("name", "for", "experts", "rank", "MB", "owner", "shared", "added", "description")
    screen.print_table(columns, map(_row, found), cut="description", least=("added", "MB", "experts", "shared", "rank"))


@app.command("upload")
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file.")],
    name: Annotated[str | None, typer.Option(help="The name by which requests use it. [the file's]")] = None,
    expert: OfExpert = "both",
    description: Description = "",
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file. It is yours alone until you share it."""
    if not file.is_file():
        raise ConfigurationError(f"{file} is not a file")
    with client_of(url, home) as client:
        made = client.upload_lora(file, name or file.stem, expert=expert, description=description)
    _tell(made, as_json)


@app.command("fetch")
def fetch(
    name: Name,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A URL, or OWNER/REPOSITORY/PATH on the hub.")],
    revision: Annotated[str | None, typer.Option(help="A commit, branch or tag of the hub. [main]")] = None,
    expert: OfExpert = "both",
    description: Description = "",
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a file from a URL or from the hub."""
    asked: dict[str, Any] = {"url": source}
    if "://" not in source:
        owner, _, rest = source.partition("/")
        repository, _, path = rest.partition("/")
        if not path:
            raise ConfigurationError(
                f"{source!r} is neither a URL nor OWNER/REPOSITORY/PATH, such as me/film/grain.safetensors"
            )
        asked = {"repo": f"{owner}/{repository}", "file": path, "revision": revision}
    with client_of(url, home) as client:
        job = followed(client, client.fetch_lora(name, expert=expert, description=description, **asked))
        if not succeeded(job):
            raise ApiRefused(why_not(job))
        made = _named(client, name)
    _tell(made, as_json)


@app.command("share")
def share(
    name: Name,
    everybody: Annotated[bool, typer.Option("--everybody", help="With every key.")] = False,
    key: Annotated[list[str] | None, typer.Option("--with", help="With the key of this name; may be repeated.")] = None,
    nobody: Annotated[bool, typer.Option("--nobody", help="With no other key any more.")] = False,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Let other keys use a LoRA of yours."""
    if sum((everybody, bool(key), nobody)) != 1:
        raise typer.BadParameter("give one of --everybody, --with NAME and --nobody")
    with client_of(url, home) as client:
        made = client.change_lora(_id(_named(client, name)), shared=everybody, shared_with=key or [])
    _tell(made, as_json)


@app.command("remove")
def remove(name: Name, url: Url = None, home: Home = None) -> None:
    """Remove a LoRA. Jobs that were accepted with it keep its files."""
    with client_of(url, home) as client:
        client.remove_lora(_id(_named(client, name)))
    print(f"{name} was removed")


def _named(client: "Client", name: str) -> StoredLora:
    found = next((one for one in client.loras() if one["name"] == name), None)
    if found is None:
        raise NotThere(f"there is no LoRA {name!r}; `wanworks loras list` shows them")
    return found


def _id(lora: StoredLora) -> str:
    if lora["id"] is None:
        raise ConfigurationError(f"{lora['name']} is a file in the operator's folder; change it there")
    return lora["id"]


def _tell(lora: StoredLora, as_json: bool) -> None:
    if as_json:
        screen.print_json(lora)
        return
    about = ", ".join(filter(None, (_bases(lora), _ranks(lora) and f"rank {_ranks(lora)}", _experts(lora))))
    print(f"{lora['name']}: {about or 'its header tells nothing of its model'}")


def _row(lora: StoredLora) -> tuple[Any, ...]:
    size = None if lora["bytes"] is None else f"{lora['bytes'] / 1e6:.1f}"
    shared = "everybody" if lora["shared"] else ", ".join(lora["shared_with"])
    owner = "folder" if lora["source"] == "folder" else "you" if lora["mine"] else lora["owner"]
    return (
        lora["name"], _bases(lora), _experts(lora), _ranks(lora), size, owner, shared,
        screen.moment(lora["created_at"]), screen.shortened(lora["description"]),
    )  # fmt: skip


def _bases(lora: StoredLora) -> str:
    return ", ".join(sorted({f"{file['base']} models" for file in lora["files"] if file["base"]}))


def _ranks(lora: StoredLora) -> str:
    return ", ".join(sorted({str(file["rank"]) for file in lora["files"] if file["rank"]}))


def _experts(lora: StoredLora) -> str:
    names = {"both": "all experts", "high": "high noise", "low": "low noise"}
    return " and ".join(names[file["expert"]] for file in lora["files"])
