"""The lines of the queue: jobs of one owner, with the same priority and needs, stand in one, in order of their coming.

Jobs of one line can run on the same devices, or on the same node. Whoever has seen the first of each line has seen all
that can come next, so a queue of a hundred thousand jobs is looked at as fast as one of a hundred.
"""

import json
from hashlib import blake2b

_OWNER_DIGITS = 8


def line_of(
    owner: str | None,
    priority: int,
    model_id: str | None,
    model_cache_key: str,
    target_node: str | None,
    mock: bool,
    min_vram_mb: int,
    min_ram_mb: int,
) -> str:
    """The name of the line: a digest of the owner, then one of the rest. 20 hexadecimal digits.

    Two lines under one name would do no harm: their jobs would be looked at together.
    """
    needs = json.dumps((priority, model_id, model_cache_key, target_node, mock, min_vram_mb, min_ram_mb))
    return _digest("" if owner is None else f"={owner}", _OWNER_DIGITS) + _digest(needs, 12)


def owner_part(line: str) -> str:
    """What the lines of one owner begin with."""
    return line[:_OWNER_DIGITS]


def _digest(text: str, digits: int) -> str:
    return blake2b(text.encode(), digest_size=digits // 2).hexdigest()
