"""Checks of settings that concern more than one of them, and the messages for wrong settings."""

import os
from collections.abc import Collection
from typing import Any, Protocol

from pydantic_core import ErrorDetails

from shared import invalid_values
from shared.errors import ConfigurationError
from wanworks import config_file

_RENAMED = {"rering_seconds": "redispatch_seconds"}
"""Settings that had another name in an earlier release, and their names now."""


class Checked(Protocol):
    """The settings that are compared with each other."""

    @property
    def lease_seconds(self) -> float: ...
    @property
    def heartbeat_seconds(self) -> float: ...
    @property
    def alert_stalled_seconds(self) -> float: ...
    @property
    def quiet_socket_seconds(self) -> float: ...
    @property
    def store_url(self) -> str | None: ...
    @property
    def store_patience_seconds(self) -> float: ...
    @property
    def step_limit_seconds(self) -> float: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def flower_host(self) -> str: ...
    @property
    def flower_port(self) -> int: ...
    @property
    def flower_url(self) -> str | None: ...


def contradictions(settings: Checked) -> list[str]:
    """Return a sentence for each pair of settings that contradict each other, with both values and the remedy."""

    def shown(name: str) -> str:
        return f"WANWORKS_{name.upper()} ({getattr(settings, name):g})"

    lease, heartbeat = settings.lease_seconds, settings.heartbeat_seconds
    found = []
    if heartbeat > lease / 3:
        found.append(
            f"{shown('heartbeat_seconds')} must be at most a third of {shown('lease_seconds')}, or one late renewal "
            f"costs a running job its lease: set the first to {lease / 3:.3g} or less or the second to "
            f"{3 * heartbeat:.3g} or more"
        )
    if settings.alert_stalled_seconds < settings.quiet_socket_seconds:
        found.append(
            f"{shown('alert_stalled_seconds')} must not be less than {shown('quiet_socket_seconds')}, or a download "
            "counts as stalled before a request to a silent hub is repeated: raise the first or lower the second"
        )
    if settings.store_url is not None and settings.store_patience_seconds > settings.step_limit_seconds:
        found.append(
            f"{shown('store_patience_seconds')} must not be more than {shown('step_limit_seconds')}, or a job is "
            "stopped while it waits for the bucket: lower the first or raise the second"
        )
    if settings.port == settings.flower_port != 0 and settings.flower_url is None and _same_address(settings):
        found.append(
            f"{shown('port')} and {shown('flower_port')} are the same port of one host: change one of them, or set it "
            "to 0 for a free port"
        )
    return found


def refuse_old_names() -> None:
    """Raise ConfigurationError if a setting is given under the name that it had in an earlier release."""
    variables = {f"WANWORKS_{old.upper()}": f"WANWORKS_{new.upper()}" for old, new in _RENAMED.items()}
    found = [f"{old} is now {new}" for old, new in variables.items() if old in os.environ]
    in_file = config_file.read()
    found += [f"{config_file.path()}: {old} is now {new}" for old, new in _RENAMED.items() if old in in_file]
    if found:
        raise ConfigurationError(f"{'; '.join(found)}: rename it")


def describe(error: ErrorDetails, given: Collection[str], fields: Collection[str], secrets: Collection[str]) -> str:
    """Return the message for one error, with the value if it is a number.

    Any other value is not repeated, because it may be a secret under the wrong name. `given`: settings given on the
    command line; `fields`: all settings; `secrets`: those whose numbers are not repeated either.
    """
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")  # a contradiction, which names its settings itself
    name = str(error["loc"][0])
    said = invalid_values.message(error, bare=True, private=name in secrets or not _is_number(error["input"]))
    return f"{_source(name, given, fields)}: {said}"


def _is_number(value: Any) -> bool:
    """Return whether the value is a number, or a text of one."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, bool)


def _source(name: str, given: Collection[str], fields: Collection[str]) -> str:
    """Return where the value of the setting comes from."""
    variable = f"WANWORKS_{name.upper()}"
    if name in given or variable in os.environ or name not in config_file.values(fields):
        return variable
    return f"{config_file.path()}: {name}"


def _same_address(settings: Checked) -> bool:
    """Return whether the API and Flower bind to the same address, or one of them to all addresses."""
    addresses = {settings.host, settings.flower_host}
    return len(addresses) == 1 or not addresses.isdisjoint({"0.0.0.0", "::"})
