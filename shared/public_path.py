"""The path under which a reverse proxy serves this installation, if it is not the root of the host."""

import re
from typing import Any

# A proxy may strip its path or keep it. Both must work, so the path must not be the start of one of ours.
_TAKEN = frozenset(
    {"api", "v1", "static", "docs", "flower", "login", "logout", "healthz", "readyz", "metrics", "openapi.json"}
)
_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def normalised(text: str) -> str:
    """Return the path without a trailing slash; empty for the root. Raises ValueError."""
    path = text.rstrip("/")
    if not _PATH.fullmatch(path):
        raise ValueError("must be a path such as /wan, of letters, digits, '.', '_', '~', '-' and '/'")
    first = path.split("/")[1] if path else ""
    if first in _TAKEN:
        raise ValueError(f"must not begin with /{first}, which is a path of the API itself; use another, such as /wan")
    return path


def with_public_path(value: Any, public_path: str) -> Any:
    """Return the value with the path prefixed to each `url` in it that is a path."""
    if isinstance(value, dict):
        return {
            name: f"{public_path}{each}"
            if name == "url" and isinstance(each, str) and each.startswith("/")
            else with_public_path(each, public_path)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [with_public_path(each, public_path) for each in value]
    return value
