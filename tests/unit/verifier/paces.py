"""Paces of devices whose pass times are known."""

from sybil_engine.core.pass_times import PassTimes
from verifier_service.policy.pace import Pace


def pace_of(pass_ns: float = 1e7, row_ns: float = 0.0) -> Pace:
    """A pace on a device whose passes of one row take `pass_ns`, and `row_ns` more for each other row."""
    times = PassTimes()
    for rows in range(1, 9):
        times.add(rows, int(pass_ns + row_ns * (rows - 1)))
    return Pace(times)
