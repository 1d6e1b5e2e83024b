"""Paths of URLs."""


def within(path: str, public_path: str) -> str | None:
    """The path as the API knows it, where it lies under the public one; None where it does not."""
    if path == public_path:
        return "/"
    return path[len(public_path) :] if path.startswith(f"{public_path}/") else None
