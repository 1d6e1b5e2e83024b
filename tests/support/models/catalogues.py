"""Text for catalogue files of tiny models."""

from typing import Any

from shared.catalogue.memory_data import TINY


def tiny_memory(model_id: str = "T2V-A14B") -> str:
    """Return the line of a catalogue file that gives a model the memory facts of the demo's tiny one."""
    return f"memory = {_inline(TINY[model_id].model_dump())}"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_inline(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
