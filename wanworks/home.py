"""The home folder of this host's stack, and whether the server's code is installed."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from wanworks import config_file
from wanworks.errors import ConfigurationError

Given = ParamSpec("Given")
T = TypeVar("T")

_DEFAULT = "~/.wanworks"


def home_folder(given: Path | None) -> Path:
    """Return the home: from the option, WANWORKS_HOME or the settings file, in this order.

    Raises ConfigurationError if the settings file cannot be read.
    """
    named = given or os.environ.get("WANWORKS_HOME") or config_file.read().get("home") or _DEFAULT
    return Path(str(named)).expanduser().absolute()


def has_server() -> bool:
    """Return whether the server's packages are installed beside this one: in a clone, or in an image."""
    return (Path(__file__).parent.parent / "shared" / "settings.py").is_file()


def needs_server(command: Callable[Given, T]) -> Callable[Given, T]:
    """Decorate a command so that it raises ConfigurationError with instructions if only the client is installed."""

    @functools.wraps(command)
    def run(*given: Given.args, **options: Given.kwargs) -> T:
        if not has_server():
            raise ConfigurationError(
                f"`wanworks {' '.join(sys.argv[1:2])}` needs the server, but only the client is installed: clone the "
                "repository and run `make up` there, or run the images that its folder docker/ builds"
            )
        return command(*given, **options)

    return run
