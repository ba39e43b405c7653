"""Host names that stand for several machines, as a scaled service's name does under Docker Compose or Kubernetes."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence


async def expanded(addresses: Sequence[str]) -> tuple[str, ...]:
    """Put every machine that a name stands for in its place; a name of one machine, or of none, stays.

    Args:
        addresses: host:port of each.
    """
    each = await asyncio.gather(*map(_machines, addresses))
    return tuple(dict.fromkeys(address for machines in each for address in machines))


async def _machines(address: str) -> tuple[str, ...]:
    host, _, port = address.rpartition(":")
    if _is_number(host):
        return (address,)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return (address,)
    # A machine may have a number of each kind; names of several machines have several of one kind.
    for family in (socket.AF_INET, socket.AF_INET6):
        hosts = sorted({str(where[0]) for kind, _, _, _, where in found if kind is family})
        if len(hosts) > 1:
            return tuple(f"[{each}]:{port}" if family is socket.AF_INET6 else f"{each}:{port}" for each in hosts)
    return (address,)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
