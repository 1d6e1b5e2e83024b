"""Reads the limits that `wanworks keys` takes as options."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from wanworks.errors import ConfigurationError
from wanworks.states import Priority

NONE = "none"
Changed = Annotated[str | None, typer.Option(help="A new value, or `none`. [unchanged]")]

_SIZE = re.compile(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}")
_WHOLE = {"requests_per_minute": 1_000_000, "queued_jobs": 1_000_000, "running_jobs": 100_000, "max_frames": 100_000}
_SECONDS = 1e9


def resolution(text: str | None) -> str | None:
    """Return the size. Raises ConfigurationError."""
    if text is not None and _SIZE.fullmatch(text) is None:
        raise ConfigurationError(f"--max-resolution: {text!r} is not a size such as 1280x720")
    return text


def window(text: str | None) -> str | None:
    """Return the daily window. Raises ConfigurationError."""
    if text is None:
        return None
    from shared import daily_window

    try:
        return str(daily_window.parse(text))
    except ValueError as error:
        raise ConfigurationError(f"--low-priority-window: {error}") from None


def models(names: Sequence[str] | None, home: Path | None) -> tuple[str, ...] | None:
    """Return the models. Raises ConfigurationError for one that the catalogue does not have."""
    if not names:
        return None
    from shared.catalogue.models import load as load_catalogue
    from shared.settings import load

    known = load_catalogue(load(home=home).catalogue).model_ids
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(
            f"--model: there is no model {unknown[0]!r} in the catalogue; available: {', '.join(known)}"
        )
    return tuple(dict.fromkeys(names))


def changes(options: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the named limits by their fields; None removes one. Raises ConfigurationError."""
    return {
        "priority_ceiling" if name == "max_priority" else name: None if text == NONE else _value(name, text)
        for name, text in options.items()
        if text is not None
    }


def _value(name: str, text: str) -> Any:
    option = f"--{name.replace('_', '-')}"
    if name == "max_resolution":
        return resolution(text)
    if name == "low_priority_window":
        return window(text)
    if name == "max_priority":
        if text not in list(Priority):
            raise ConfigurationError(f"{option}: {text!r} is not one of {', '.join(Priority)}, none")
        return Priority(text)
    try:
        value = int(text) if name in _WHOLE else float(text)
    except ValueError:
        raise ConfigurationError(f"{option}: {text!r} is not a number, or none") from None
    most = _WHOLE.get(name, _SECONDS)
    if not 1 <= value <= most:
        raise ConfigurationError(f"{option}: {text} is not between 1 and {most:g}")
    return value
