"""A relay never waits, sends in order, and holds little however slow its stream is."""

import asyncio
from collections.abc import Sequence
from contextlib import closing

import pytest

from coordinator.pipeline import _joined
from coordinator.relay import Relay
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import Advance
from sybil_engine.core.types import MOST_MESSAGE_TOKENS, Speculation
from tests.unit.coordinator.toy import asynchronous


class SlowStream:
    """Takes messages once it is let."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.received: list[int] = []
        self.sent_ns: list[int] = []
        self.idle = asyncio.Event()

    async def open(self) -> None:
        await self.reads.wait()

    async def send(self, messages: Sequence[int]) -> None:
        await self.reads.wait()
        self.received += messages
        self.idle.set()

    async def next_messages(self) -> None:
        self.idle.clear()
        async with asyncio.timeout(5):
            await self.idle.wait()
        await asyncio.sleep(0)


@asynchronous
async def test_messages_go_out_in_order_and_those_of_a_slow_stream_are_shrunk() -> None:
    stream = SlowStream()
    with closing(Relay(stream.open, stream.send, stream.sent_ns.append, lambda waiting: waiting[-10:])) as relay:
        for number in range(1_000):
            relay.put((number,), number)
        stream.reads.set()
        await stream.next_messages()
        relay.put((1_000, 1_001), 1_000)
        await stream.next_messages()
    assert stream.received == sorted(stream.received)
    assert stream.received[-12:] == list(range(990, 1_002))
    assert len(stream.received) <= 64 + 2, "a stream that is behind gets what is left after shrinking"
    assert stream.sent_ns[-12:] == [*range(990, 1_000), 1_000, 1_000]


def advances(count: int, tokens: int) -> list[Advance]:
    """Commits that follow one another, each with a plan of its own."""
    ledger, made = Ledger((1,), 1), list[Advance]()
    for number in range(count):
        position = len(ledger)
        token_ids = tuple((number + index) % 50 for index in range(tokens))
        plan = DraftPlan(Speculation.PIPELINED, budget=number)
        made.append(Advance(position, ledger.fingerprint(position), token_ids, plan))
        ledger.append(made[-1])
    return made


@pytest.mark.parametrize(("count", "tokens"), [(1, 1), (100, 1), (100, 7), (300, 16), (5, MOST_MESSAGE_TOKENS)])
def test_joined_commits_say_what_the_single_ones_say_in_as_few_messages_as_may_hold_them(
    count: int, tokens: int
) -> None:
    single = advances(count, tokens)
    joined = _joined(single)
    ledgers = [Ledger((1,), 1), Ledger((1,), 1)]
    for ledger, told in zip(ledgers, (single, joined), strict=True):
        for advance in told:
            ledger.append(advance)  # raises if one is missing or contradicts another
    assert ledgers[0][:] == ledgers[1][:]
    assert joined[-1].plan == single[-1].plan
    assert max(len(each.token_ids) for each in joined) <= MOST_MESSAGE_TOKENS
    assert len(joined) <= 2 + 2 * count * tokens // MOST_MESSAGE_TOKENS


def test_repeated_commits_are_not_joined() -> None:
    first, second = advances(2, 3)
    assert _joined([first, first, second, first]) == [first, _joined([first, second])[0], first]
