"""Runs all checks and prints them."""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from wanworks.cli import screen
from wanworks.cli.doctor.check import Check
from wanworks.cli.options import AsJson, Home
from wanworks.errors import ConfigurationError, ExitCode
from wanworks.home import needs_server

_MARKS = {"ok": "ok", "note": "note", "warning": "warning", "problem": "PROBLEM"}


@needs_server
def doctor(home: Home = None, as_json: AsJson = False) -> None:
    """Check this host: GPUs, driver, torch, memory, disk, hub, ports, Redis, database, and which models fit.

    Each problem comes with its remedy. The exit code is 1 if there is a problem.
    """
    found = []
    for check in _checks({} if home is None else {"home": home}):
        found.append(check)
        if not as_json:
            print(f"{_MARKS[check.state]:<8} {check.name:<12} {check.found}")
            if check.remedy:
                print(f"{'':<22}-> {check.remedy}")
    if as_json:
        screen.print_json([check.as_json() for check in found])
    if any(check.state == "problem" for check in found):
        raise typer.Exit(ExitCode.REFUSED)


def _checks(overrides: dict[str, Any]) -> Iterator[Check]:
    from shared.catalogue import models
    from shared.settings import load
    from wanworks.cli.doctor import fitting, host, services
    from wanworks.supervise.state_file import read_state

    yield Check("python", "ok", sys.version.split()[0])
    try:
        settings = load(**overrides)
        catalogue = models.load(settings.catalogue)
    except ConfigurationError as error:
        yield Check("settings", "problem", error.message, "`wanworks settings` lists every setting with its meaning")
        return
    yield Check("settings", "ok", f"home {settings.home}, catalogue {settings.catalogue}, node {settings.node}")
    state = read_state(settings.home)
    running = state is not None and bool(state["running"])
    if running and state is not None and state.get("catalogue", settings.catalogue) != settings.catalogue:
        said = f"the stack that runs here has the catalogue {state['catalogue']}; this checks for {settings.catalogue}"
        yield Check("catalogue", "note", said, f"WANWORKS_CATALOGUE={state['catalogue']} checks for that one")
    seen, devices = host.devices(settings.devices)
    yield from seen
    yield host.memory()
    yield host.disk("home", settings.home, settings.min_free_disk_mb)
    yield host.disk("models", settings.models_dir, settings.min_free_disk_mb)
    yield services.port("port", settings.host, settings.port, "WANWORKS_PORT", running=running)
    yield services.port("flower", settings.flower_host, settings.flower_port, "WANWORKS_FLOWER_PORT", running=running)
    yield services.redis(settings)
    if settings.database_url is not None or (settings.home / "wanworks.db").exists():
        yield services.database(settings)
    if settings.catalogue != "demo":  # whose hub is the stack's own
        yield services.hub(settings, catalogue.entries[0].repo)
    yield from fitting.fits(catalogue.entries, devices, host.memory_mb(), host.free_gb(settings.models_dir))
