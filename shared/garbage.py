"""Tuning of Python's garbage collector for long-lived processes that must respond quickly."""

import gc

_YOUNG_OBJECTS = 20_000  # a collection starts when this many more objects were created than freed


def freeze() -> None:
    """Exclude all existing objects from later collections. Call it when a process has loaded what it keeps.

    Garbage that exists then is never freed, so do not call it again and again. Imports leave a thousand such objects,
    too few to search all others for them.
    """
    gc.freeze()
    gc.enable()  # `startup.begin` has disabled it


def settle() -> None:
    """Freeze, and collect less often from then on. Call it at the end of the start of a process.

    A page of jobs or a pass of the dispatcher creates tens of thousands of objects, which need no collection.
    """
    freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
