"""Imports torch so that its threads sleep soon after a pass; imported before anything else imports torch.

By default libgomp's threads go on spinning for milliseconds after a pass, on the core that the other model needs next:
with two threads a round of lockstep took 11.3 ms, and takes 8.8 ms with this (two AMD cores, `docs/log.md`). libgomp
reads the variable when torch loads it, so the environment is left as it was.
"""

import os

_SPINS = "GOMP_SPINCOUNT"

if _SPINS in os.environ:
    import torch
else:
    os.environ[_SPINS] = "1000"
    try:
        import torch  # noqa: F401
    finally:
        del os.environ[_SPINS]
