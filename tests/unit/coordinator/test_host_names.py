"""A name of several machines becomes several addresses; everything else stays as it is."""

import asyncio
import socket
from typing import Any

import pytest

from coordinator.host_names import expanded
from tests.unit.coordinator.toy import asynchronous

MACHINES = {
    "drafter": ["10.0.0.3", "10.0.0.2"],
    "verifier": ["10.0.0.9"],
    "both": ["10.0.0.5", "fd00::5"],
    "six": ["fd00::1", "fd00::2"],
}


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(self: Any, host: str, port: int, **options: Any) -> list[Any]:
        if host not in MACHINES:
            raise OSError("no such name")
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in MACHINES[host]
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["drafter:50053"], ("10.0.0.2:50053", "10.0.0.3:50053")),
        (["six:1"], ("[fd00::1]:1", "[fd00::2]:1")),
        (["verifier:50052"], ("verifier:50052",)),
        (["both:1"], ("both:1",)),
        (["nobody:1"], ("nobody:1",)),
        (["127.0.0.1:1", "[::1]:2"], ("127.0.0.1:1", "[::1]:2")),
        (["drafter:1", "10.0.0.2:1"], ("10.0.0.2:1", "10.0.0.3:1")),
        ([], ()),
    ],
)
@asynchronous
async def test_a_name_of_several_machines_becomes_their_addresses(given: list[str], expected: tuple[str, ...]) -> None:
    assert await expanded(given) == expected
