"""The scripts that are loaded with the page are those that its first view needs, and no others."""

import posixpath
import re

from api.dashboard import page_files

_IMPORT = re.compile(r'^(?:import|export)[^;]*?from "(\.[^"]+)"', re.MULTILINE)


def needed(name: str, found: set[str]) -> set[str]:
    """Add the script and those that it imports at once, which its dynamic imports are not."""
    if name not in found:
        found.add(name)
        for path in _IMPORT.findall(page_files.files()[name].content.decode()):
            needed(posixpath.normpath(posixpath.join(posixpath.dirname(name), path)), found)
    return found


def test_the_scripts_that_are_loaded_at_once_are_those_that_the_first_one_imports() -> None:
    assert set(page_files.scripts()) == needed("main.js", {"before.js"})
