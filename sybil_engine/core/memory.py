"""Amounts of memory as people write them: 512M, 2G, or a share of what is free, 25%."""

import os
import re
from pathlib import Path

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[KMGT]?)(?:i?B)?", re.IGNORECASE)
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")

ALLOWED = "an amount such as 512M or 2G, or a share of the free memory such as 25%"


def is_amount(text: str) -> bool:
    """Whether it is more than nothing, and at most all of what is free."""
    match = _AMOUNT.fullmatch(text.strip())
    return match is not None and 0 < float(match[1]) <= (100 if match[2] == "%" else float("inf"))


def amount_bytes(text: str, free_bytes: int) -> int:
    """An amount in bytes.

    Args:
        text: see `is_amount`.
        free_bytes: what a share is a share of.
    """
    match = _AMOUNT.fullmatch(text.strip())
    assert match, text
    number, unit = float(match[1]), match[2].upper()
    return int(free_bytes * number / 100 if unit == "%" else number * _UNITS[unit])


def free_bytes() -> int:
    """Memory that this process may still take: what the machine has left, or its container if that is less."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _MEMINFO.exists():
        fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
