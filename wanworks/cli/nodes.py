"""The commands for nodes: list, drain, undrain, release a device, remove."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanworks.cli import screen
from wanworks.cli.options import AsJson, Home, Url, client_of
from wanworks.client.shapes import DeviceRow, Node, NodeRow
from wanworks.errors import TimedOut

if TYPE_CHECKING:
    from wanworks.client.client import Client

Name = Annotated[str, typer.Argument(metavar="NODE", help="A node's name.")]

_POLL_SECONDS = 0.5


def register(app: typer.Typer) -> None:
    for command in (workers, nodes, drain, undrain, release):
        app.command()(command)
    app.command("remove-node")(remove_node)


def workers(url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show the devices with their loaded models and running jobs."""
    with client_of(url, home) as client:
        found = client.workers()
    if as_json:
        screen.print_json(found)
        return
    columns = ("worker", "state", "job", "loaded", "device", "last seen")
    screen.print_table(columns, map(_device_row, found["devices"]), cut="loaded", least=("device", "last seen"))
    print()
    screen.print_table(("node", "state", "version", "free disk MB", "last seen"), map(_node_row, found["nodes"]))


def nodes(url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show the nodes with their devices, and which are drained."""
    with client_of(url, home) as client:
        found = client.nodes()
    if as_json:
        screen.print_json(found)
    else:
        columns = ("node", "state", "drained since", "running", "devices", "version", "last seen")
        screen.print_table(columns, (_row(node) for node in found), cut="devices", least=("version", "last seen"))


def drain(
    node: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Return once no job runs there.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the node stays drained. [no limit]")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Let a node finish its running jobs and take no new ones until `undrain`, also after restarts."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with client_of(url, home) as client:
        found = client.drain(node)
        while wait and found["running_jobs"]:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut(f"jobs still running on {node}: {found['running_jobs']}; the node stays drained")
            time.sleep(_POLL_SECONDS)
            found = _node(client, node)
    _print(found, as_json)


def undrain(node: Name, url: Url = None, home: Home = None, as_json: AsJson = False) -> None:
    """Let a drained node take jobs again."""
    with client_of(url, home) as client:
        found = client.undrain(node)
    _print(found, as_json)


def release(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="A device as NODE/INDEX.")],
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Let a quarantined device take jobs again, once it has been repaired, reset or replaced."""
    if "/" not in device:
        raise typer.BadParameter(f"{device!r} is not NODE/INDEX, such as gpu-host/0", param_hint="DEVICE")
    with client_of(url, home) as client:
        found = client.release(device)
    if as_json:
        screen.print_json(found)
    else:
        print(f"{found['node']}/{found['index']} {found['state']}")


def remove_node(node: Name, url: Url = None, home: Home = None) -> None:
    """Remove a node that is gone for good, with its devices and replicas."""
    with client_of(url, home) as client:
        client.remove_node(node)
    print(f"{node} was removed")


def _node(client: "Client", name: str) -> Node:
    """Return the node's present state. Drains it again, which raises NotThere, if it was removed meanwhile."""
    return next((node for node in client.nodes() if node["name"] == name), None) or client.drain(name)


def _print(node: Node, as_json: bool) -> None:
    if as_json:
        screen.print_json(node)
    else:
        jobs = f", running jobs: {node['running_jobs']}" if node["running_jobs"] else ""
        since = f" since {screen.local(node['drained_at'])}" if node["drained_at"] else ""
        print(f"{node['name']} {node['state']}{since}{jobs}")


def _row(node: Node) -> tuple[Any, ...]:
    return (
        node["name"],
        node["state"],
        screen.moment(node["drained_at"]),
        node["running_jobs"],
        ", ".join(f"{device['index']}: {device['state']}" for device in node["devices"]),
        node["version"],
        screen.moment(node["last_seen"]),
    )


def _device_row(device: DeviceRow) -> tuple[Any, ...]:
    finishing = device.get("finishing_job")  # servers before this field do not send it
    loaded = (f"{warm['model_id']} ({warm['quantization']})" for warm in device["warm"])
    return (
        device["worker"],
        device["state"],
        " ".join(
            filter(None, (screen.id_cell(device["job"]), finishing and f"(finishing {screen.id_cell(finishing)})"))
        ),
        ", ".join(loaded),
        device["name"],
        screen.moment(device["last_seen"]),
    )


def _node_row(node: NodeRow) -> tuple[Any, ...]:
    free = node["disk_free_mb"]
    return (
        node["name"],
        node["state"],
        node["version"],
        None if free is None else f"{free:.0f}",
        screen.moment(node["last_seen"]),
    )
