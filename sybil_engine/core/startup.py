"""Starting a process that imports large libraries and loads models."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the garbage collector off until the block is left, and exclude all objects that exist by then.

    Few objects made while a process starts become garbage, but each full collection visits all of them. Torch and
    transformers make more than a million: collections took a quarter of the import time and would stall sessions
    later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
