"""One service as the router sees it."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from coordinator.endpoint import Endpoint
from sybil_engine.core.errors import SessionLost
from sybil_engine.core.types import ModelDescription
from tests.unit.coordinator.toy import asynchronous, toy_description


@dataclass
class FakeClient:
    """A service that always serves."""

    address: str = "here:1"
    closed: bool = False

    async def describe(self) -> ModelDescription:
        return toy_description()

    async def serving(self) -> AsyncGenerator[bool, None]:
        yield True
        await asyncio.Event().wait()

    @contextmanager
    def session(self) -> Iterator[str]:
        yield "a stream"

    async def close(self) -> None:
        self.closed = True


async def accept(description: ModelDescription) -> None:
    """Every model fits."""


async def rounds() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynchronous
async def test_a_lost_session_takes_the_service_out_until_it_has_answered_again() -> None:
    seen: list[bool] = []
    endpoint = Endpoint(FakeClient(), accept, lambda: seen.append(endpoint.live))
    await rounds()
    with pytest.raises(SessionLost), endpoint.session():
        raise SessionLost("broken")
    assert not endpoint.live
    assert endpoint.avoided
    await rounds()
    assert seen == [True, False, True]
    await endpoint.close()


@asynchronous
async def test_a_session_that_is_lost_while_the_endpoint_closes_leaves_no_watch() -> None:
    client = FakeClient()
    endpoint = Endpoint(client, accept, lambda: None)
    with pytest.raises(SessionLost), endpoint.session():
        closing = asyncio.create_task(endpoint.close())
        await rounds()
        assert not client.closed
        raise SessionLost("broken")
    await closing
    assert client.closed
