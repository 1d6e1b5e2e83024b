"""Tuning of Python's garbage collector for long-lived processes that must respond quickly."""

import gc

_YOUNG_OBJECTS = 20_000  # a collection starts when this many more objects were created than freed


def freeze() -> None:
    """Exclude all existing objects from later collections. Call it once, when a process has loaded what it keeps.

    What is garbage by then stays. Imports leave a thousand objects of it, which is not worth searching all for them.
    """
    gc.freeze()
    gc.enable()  # `startup.begin` has disabled it


def settle() -> None:
    """Freeze, and collect less often from then on. Call it at the end of the start of a process.

    A page of jobs or a pass of the dispatcher creates tens of thousands of objects, which need no collection.
    """
    freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
