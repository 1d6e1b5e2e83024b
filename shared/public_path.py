"""The path under which a reverse proxy shows this installation to clients, where that is not the root of its host."""

import re
from typing import Any

# A proxy may take its path off or leave it on, and both must be understood: so none of ours may begin with it.
_TAKEN = frozenset(
    {"api", "v1", "static", "docs", "flower", "login", "logout", "healthz", "readyz", "metrics", "openapi.json"}
)
_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def normalised(text: str) -> str:
    """Without a slash at its end; empty for the root. Raises ValueError."""
    path = text.rstrip("/")
    if not _PATH.fullmatch(path):
        raise ValueError("must be a path such as /wan, of letters, digits, '.', '_', '~', '-' and '/'")
    first = path.split("/")[1] if path else ""
    if first in _TAKEN:
        raise ValueError(f"must not begin with /{first}, which is a path of the API itself; take another, such as /wan")
    return path


def with_public_path(value: Any, public_path: str) -> Any:
    """The value with that path before each `url` in it that is a path."""
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
