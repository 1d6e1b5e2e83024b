"""The stored names of columns, JSON fields and Redis keys that have other names in the code.

During a rolling upgrade, processes of the previous release read and write the same database and the same Redis, so the
stored names do not change in this release. A later release may rename them: see docs/operations.md. This module imports
nothing of ours.
"""

COLUMNS = {
    "dispatched_to": "bell_device",
    "dispatched_at": "bell_at",
    "message_protocol": "bell_protocol",
    "model_cache_key": "warm_key",
    "requested_action": "halt",
    "deleted": "hidden",
}
"""Stored names of columns, by their names in the code."""

LOADED_MODEL_KEY = "warm_key"
"""The field of the model cache key in a device's list of loaded models."""

WAKE_KEY = "wanworks:nudge"
"""The Redis list that wakes the dispatcher."""


def stored(name: str) -> dict[str, str]:
    """Return SQLAlchemy's arguments for a column that is stored under another name."""
    return {"key": name, "name": COLUMNS[name]}
