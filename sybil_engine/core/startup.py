"""Starting a process that imports large libraries and loads models."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the garbage collector off until the block is left, and let it never look at what is there by then.

    Hardly anything made while a process starts becomes garbage, but each full collection visits all of it: torch and
    transformers are more than a million objects, which took a quarter of the time to import them, and would stall
    sessions later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
