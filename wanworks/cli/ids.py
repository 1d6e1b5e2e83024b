"""Ids on the command line: in a terminal their beginning is shown, and a beginning that only one id has is accepted."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wanworks.errors import ConfigurationError

if TYPE_CHECKING:
    from wanworks.client.client import Client

_WHOLE = 36  # characters of an id with its dashes
_SHORTEST = 13  # characters that tell apart ids of different milliseconds
_LISTED = {"job": "`wanworks jobs`", "batch": "`wanworks batches list`", "flow": "`wanworks flow list`"}
_BEGINNING = re.compile(r"[0-9a-f]{1,8}(-?[0-9a-f]{1,4}){0,3}(-?[0-9a-f]{1,12})?")


def short_ids(ids: Sequence[str]) -> list[str]:
    """Return the beginning of each id that none of the others has; at least 13 characters, or the whole id."""
    lengths = [min(len(one), _SHORTEST) for one in ids]
    order = sorted(range(len(ids)), key=lambda place: ids[place])
    for before, after in itertools.pairwise(order):
        if ids[before] != ids[after]:
            needed = _shared(ids[before], ids[after]) + 1
            lengths[before], lengths[after] = max(lengths[before], needed), max(lengths[after], needed)
    return [one[:length].rstrip("-") for one, length in zip(ids, lengths, strict=True)]


def job_id(client: "Client", text: str) -> str:
    """Return the id of the job that `text` names: an id or the beginning of one. Raises ConfigurationError."""
    return _whole(text, "job", lambda after: client.jobs_page(limit=2, after=after)["data"])


def batch_id(client: "Client", text: str) -> str:
    """Return the id of the batch that `text` names. Raises ConfigurationError."""
    return _whole(text, "batch", lambda after: client.batches_page(limit=2, after=after)["data"])


def flow_id(client: "Client", text: str) -> str:
    """Return the id of the flow that `text` names. Raises ConfigurationError."""
    return _whole(text, "flow", lambda after: client.flows_page(limit=2, after=after)["data"])


def one_of(text: str, kind: str, ids: Sequence[str]) -> str:
    """Return which of the ids is `text`, or begins with it. Raises ConfigurationError."""
    found = sorted((one for one in ids if one.startswith(text)), reverse=True)
    return text if text in found else _only(text, kind, found)


def _whole(text: str, kind: str, older_than: Callable[[str], Iterable[Mapping[str, Any]]]) -> str:
    """Complete a beginning: `older_than` returns the two newest whose id is less than the given one."""
    if len(text) == _WHOLE:
        return text
    digits = text.lower().replace("-", "")
    if not _BEGINNING.fullmatch(text.lower()) or len(digits) > 32:
        raise ConfigurationError(
            f"{text!r} is neither the id of a {kind} nor the beginning of one; {_LISTED[kind]} lists them"
        )
    highest = _dashed(digits.ljust(32, "f"))
    found = [one["id"] for one in older_than(highest) if one["id"].replace("-", "").startswith(digits)]
    return _only(text, kind, found)


def _only(text: str, kind: str, found: Sequence[str]) -> str:
    if not found:
        raise ConfigurationError(f"no {kind} has an id that begins with {text}")
    if len(found) > 1:
        raise ConfigurationError(
            f"{text} is the beginning of several ids, such as {found[1]} and {found[0]}: give more of it"
        )
    return found[0]


def _dashed(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _shared(one: str, other: str) -> int:
    """Return how many first characters are the same."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
