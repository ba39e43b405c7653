"""The address at which clients reach a coordinator."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from sybil_engine.core.errors import Unavailable


def reachable(host: str, port: int) -> str:
    """The host:port at which this machine reaches a server that listens on `host`."""
    known = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    return f"{known.get(host, host)}:{port}"


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Reserve a port that several processes may listen on while the block runs.

    Args:
        port: 0 picks a free one.

    Raises:
        Unavailable: another process uses it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as exclusive:
        # Without SO_REUSEPORT: two fleets must not share a port by accident.
        exclusive.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            exclusive.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {host}:{port}: {error.strerror}; is another process using that port? Choose "
                "another with --port"
            ) from error
        port = exclusive.getsockname()[1]
    with socket.socket(family, socket.SOCK_STREAM) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))
        yield port
