"""Python's garbage collector, in processes that live long and have to answer quickly."""

import gc

_YOUNG_OBJECTS = 20_000  # a collection starts when so many more objects were made than freed


def freeze() -> None:
    """Leave all objects that exist now out of later collections. Call it when a process has loaded what it keeps."""
    gc.collect()
    gc.freeze()


def settle() -> None:
    """Freeze, and collect less often from then on. Call it at the end of the start of a process that answers requests.

    A page of jobs, or a pass of the dispatcher, makes tens of thousands of objects that are freed without a collection.
    """
    freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
