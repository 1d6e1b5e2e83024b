"""The files of the live page below `static/`: read and compressed once, served under a hash of all of them."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parent / "page" / "static"
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SHARED_STYLE = "page.css"
# Loaded when their views are first opened, and by the sign-in page.
_LATER = (
    "base/log.js",
    "base/shortcuts.js",
    "job/attempts.js",
    "job/details.js",
    "job/request_code.js",
    "jobs/bulk.js",
    "jobs/flows.js",
    "gallery/gallery.js",
    "gallery/grid.js",
    "gallery/selection.js",
    "gallery/marks.js",
    "gallery/collections.js",
    "gallery/compare.js",
    "models/models.js",
    "models/choosing.js",
    "models/cleanup.js",
    "models/loras.js",
    "operating/alerts.js",
    "operating/devices.js",
    "operating/steering.js",
    "login.js",
)


@dataclass(frozen=True)
class File:
    content: bytes
    packed: bytes  # gzip
    media_type: str
    etag: str


@cache
def files() -> Mapping[str, File]:
    """Return the page's files by their paths within the folder, read and compressed once."""
    found = {}
    for path in sorted(_ROOT.rglob("*")):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            found[path.relative_to(_ROOT).as_posix()] = File(
                content, gzip.compress(content, 9, mtime=0), _TYPES[path.suffix], etag
            )
    return found


def scripts() -> list[str]:
    """Return the scripts that are loaded with the page."""
    return sorted(name for name in files() if name.endswith(".js") and name not in _LATER)


@cache
def styles() -> tuple[str, ...]:
    """Return the style sheets: first the one that all views share, then those of the views."""
    names = sorted(name for name in files() if name.endswith(".css"))
    return tuple(sorted(names, key=lambda name: name != _SHARED_STYLE))


@cache
def version() -> str:
    """Return a hash of all files. It is part of their path, so that a browser never mixes two versions."""
    together = hashlib.sha256("".join(name + item.etag for name, item in files().items()).encode())
    return together.hexdigest()[:16]
