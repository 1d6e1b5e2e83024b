"""Python's garbage collector, in processes that live long and have to answer quickly."""

import gc

_YOUNG_OBJECTS = 20_000  # so many more made than dropped, and the collector looks at them


def settle() -> None:
    """Call it at the end of the start: what was made until then stays, and later collections do not look at it.

    They come less often, too: a page of jobs, or a pass of the dispatcher, is tens of thousands of objects that are
    gone at once and need no collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
