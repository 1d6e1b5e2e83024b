"""The file that may hold a node's settings: TOML, each by its name. Says what is wrong in which file, never a value."""

import os
import stat
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from wanworks.errors import ConfigurationError

VARIABLE = "WANWORKS_CONFIG"


def path() -> Path | None:
    """The file that the environment names; None where it names none."""
    name = os.environ.get(VARIABLE)
    return Path(name).expanduser().absolute() if name else None


def values(known: Collection[str]) -> dict[str, Any]:
    """What the file says, by setting. Raises ConfigurationError naming the file, and the line or the unknown name."""
    said = read()
    unknown = sorted(set(said) - set(known))
    if unknown:
        names = ", ".join(unknown)
        raise ConfigurationError(f"{path()}: no such setting: {names}; `wanworks settings` lists them all")
    return said


def read() -> dict[str, Any]:
    """What the file says, known or not; empty where there is none. Raises ConfigurationError naming the file."""
    file = path()
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{VARIABLE}: {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is not UTF-8"
        raise ConfigurationError(f"{file} is no TOML: {reason}") from None


def exposed(secrets: Collection[str]) -> Path | None:
    """The file, where it holds one of these settings and anybody on this machine may read it."""
    file = path()
    if file is None or not stat.S_IMODE(file.stat().st_mode) & stat.S_IROTH:
        return None
    return file if set(tomllib.loads(file.read_text(encoding="utf-8"))) & set(secrets) else None
