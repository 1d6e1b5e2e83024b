"""Paths of URLs."""


def within(path: str, public_path: str) -> str | None:
    """Return the API's path for a path below the public one; None if it is not below it."""
    if path == public_path:
        return "/"
    return path[len(public_path) :] if path.startswith(f"{public_path}/") else None
