"""The lines of the queue. A line has the jobs of one owner with the same priority and needs, in order of arrival.

Jobs of one line can run on the same devices, or on the same node. Only the first job of a line can be next, so a queue
of a hundred thousand jobs is read as fast as one of a hundred.
"""

import json
from collections.abc import Callable
from hashlib import blake2b
from operator import attrgetter
from typing import Any

OWNER_DIGITS = 8
HELD = "held"  # instead of a line: of jobs that may not start yet. It sorts after every line.


# The columns that determine which devices or nodes can run a job.
NEEDS = (
    "model_id", "model_cache_key", "target_node", "mock", "min_vram_mb", "min_ram_mb", "memory_needs", "devices",
)  # fmt: skip
# Returns what determines which devices or nodes can run a job: a row, or a job as placement sees it.
needs_of: Callable[[Any], tuple[Any, ...]] = attrgetter(*NEEDS)


def line_of(
    owner: str | None,
    priority: int,
    model_id: str | None,
    model_cache_key: str,
    target_node: str | None,
    mock: bool,
    min_vram_mb: int,
    min_ram_mb: int,
    memory_needs: str = "",
    devices: int = 1,
    front_at: float | None = None,
) -> str:
    """Return the line's name: a digest of the owner, then one of the other values. 20 hexadecimal digits.

    A job that was moved to the front (`front_at`) stands in a line of its own, so that none hides it.
    A collision would do no harm: the jobs of both lines would be read together.
    """
    values = (priority, model_id, model_cache_key, target_node, mock, min_vram_mb, min_ram_mb)
    needs = json.dumps((*values, memory_needs) if memory_needs else values) + (f" x{devices}" if devices > 1 else "")
    needs += "" if front_at is None else f" front {front_at!r}"
    return _owner_digest(owner) + _digest(needs, 12)


def held_line(owner: str | None) -> str:
    """Return the name under which jobs of that owner wait for their window, in order of arrival."""
    return HELD + _owner_digest(owner)


def start_of_lines(owner: str | None) -> str:
    """Return what the names of all lines of that owner begin with."""
    return _owner_digest(owner)


def owner_part(line: str) -> str:
    """Return the prefix that all lines of one owner share."""
    return line[:OWNER_DIGITS]


def _owner_digest(owner: str | None) -> str:
    return _digest("" if owner is None else f"={owner}", OWNER_DIGITS)


def _digest(text: str, digits: int) -> str:
    return blake2b(text.encode(), digest_size=digits // 2).hexdigest()
