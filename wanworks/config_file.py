"""Read the TOML file of a node's settings. Errors name the file and what is wrong in it, never a value."""

import os
import stat
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from wanworks.errors import ConfigurationError

VARIABLE = "WANWORKS_CONFIG"


def path() -> Path | None:
    """Return the file that the environment names, or None."""
    name = os.environ.get(VARIABLE)
    return Path(name).expanduser().absolute() if name else None


def values(known: Collection[str]) -> dict[str, Any]:
    """Return the file's settings. Raises ConfigurationError naming the file, and the line or the unknown name."""
    found = read()
    unknown = sorted(set(found) - set(known))
    if unknown:
        names = ", ".join(unknown)
        raise ConfigurationError(f"{path()}: no such setting: {names}; `wanworks settings` lists them all")
    return found


def read() -> dict[str, Any]:
    """Return the file's content, known names or not; empty without a file. Raises ConfigurationError with its path."""
    file = path()
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{VARIABLE}: {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is not UTF-8"
        raise ConfigurationError(f"{file} is not valid TOML: {reason}") from None


def exposed(secrets: Collection[str]) -> Path | None:
    """Return the file if it contains one of these settings and every user of this machine may read it."""
    file = path()
    if file is None or not stat.S_IMODE(file.stat().st_mode) & stat.S_IROTH:
        return None
    return file if set(tomllib.loads(file.read_text(encoding="utf-8"))) & set(secrets) else None
