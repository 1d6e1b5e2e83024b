"""The path of a route that a mistaken path is most like."""

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 100  # characters; the comparison takes their square
_LIKENESS = 0.85


def near_path(path: str, templates: Iterable[str]) -> str | None:
    """Return the path without slashes too many if a route has it, or a literal path that is nearly this one."""
    if len(path) > _LONGEST:
        return None
    templates = list(templates)
    segments = [part for part in path.split("/") if part]
    clean = "/" + "/".join(segments)
    if clean != path and any(_fits(segments, template) for template in templates):
        return clean
    like = get_close_matches(clean, [one for one in templates if "{" not in one], 1, _LIKENESS)
    return like[0] if like else None


def _fits(segments: list[str], template: str) -> bool:
    parts = template.split("/")[1:]
    return len(parts) == len(segments) and all(
        "{" in part or part == segment for part, segment in zip(parts, segments, strict=True)
    )
