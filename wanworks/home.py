"""The folder in which the stack of this host keeps its things, and the server's own code, where it is installed."""

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
    """The folder that an option, WANWORKS_HOME or the settings file names, in this order, as the server reads them.

    Raises ConfigurationError where the settings file cannot be read.
    """
    named = given or os.environ.get("WANWORKS_HOME") or config_file.read().get("home") or _DEFAULT
    return Path(str(named)).expanduser().absolute()


def has_server() -> bool:
    """Whether the server's packages lie beside this one: in a clone, or in an image."""
    return (Path(__file__).parent.parent / "shared" / "settings.py").is_file()


def needs_server(command: Callable[Given, T]) -> Callable[Given, T]:
    """A command that says how to get the server where this package is installed alone. It raises ConfigurationError."""

    @functools.wraps(command)
    def run(*given: Given.args, **options: Given.kwargs) -> T:
        if not has_server():
            raise ConfigurationError(
                f"`wanworks {' '.join(sys.argv[1:2])}` needs the server, and this is the client alone: clone the "
                "repository and run `make up` there, or run the images that its folder docker/ builds"
            )
        return command(*given, **options)

    return run
