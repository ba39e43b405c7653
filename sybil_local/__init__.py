"""The whole engine in one process: no port, no Ray, no event loop of yours.

from sybil_local import LocalEngine

with LocalEngine() as engine:
    print(engine.generate("def fibonacci(n):", max_tokens=64).text)
"""

import sybil_engine.models.openmp  # noqa: F401  before torch
from sybil_engine.core.completion import Completion, Delta, Ending, Usage
from sybil_local.engine import LocalEngine

__all__ = ["Completion", "Delta", "Ending", "LocalEngine", "Usage"]
