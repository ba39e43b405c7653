"""Waiting until a moment, for emulated devices and links."""

import select
import time

# What a sleeping thread oversleeps: the kernel's slack, and the time a core takes to wake up.
_OVERSLEPT_S = 200e-6


def sleep_until(moment_s: float) -> None:
    """Wait until `time.monotonic()` says so, to some microseconds.

    Sleeps for all but the end, and only lets others go first from then on: a sleep of three milliseconds was measured
    to take a tenth of one more.
    """
    time.sleep(max(0.0, moment_s - _OVERSLEPT_S - time.monotonic()))
    while time.monotonic() < moment_s:
        select.select((), (), (), 0)
