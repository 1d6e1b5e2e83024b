"""What columns, JSON fields and Redis keys are called where they are stored, if the code calls them otherwise.

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
"""Of tables, by their names in the code."""

LOADED_MODEL_KEY = "warm_key"
"""In a device's list of loaded models: the model cache key of one."""

WAKE_KEY = "wanworks:nudge"
"""The Redis list that wakes the dispatcher."""


def stored(name: str) -> dict[str, str]:
    """Return what SQLAlchemy needs to know of a column that is stored under another name."""
    return {"key": name, "name": COLUMNS[name]}
