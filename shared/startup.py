"""Make the start of a process faster. A main module calls this before it imports anything else."""

import gc
import sys


def begin() -> None:
    """Save time and memory of the imports that follow. `garbage.freeze` or `garbage.settle` ends it.

    The imports create hundreds of thousands of objects that live as long as the process. Searching them for garbage
    again and again takes a seventh of the time of a start.
    """
    gc.disable()
    # httpx imports its own command line where it can, with rich and pygments: 4 MB and 20 ms that no server needs.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
