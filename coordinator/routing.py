"""Which verifier and which drafter a session gets: live ones that match, with the fewest sessions."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, TypeVar

from coordinator.clients import DrafterClient, VerifierClient
from coordinator.endpoint import Endpoint
from coordinator.generation import Target
from coordinator.host_names import expanded
from coordinator.pairing import check_pair, check_same_target, check_vocabulary, share_processors
from coordinator.pipeline import DrafterStream, VerifierStream
from coordinator.tokenizer import Tokenizer
from sybil_engine.core.errors import Exhausted, Unavailable
from sybil_engine.core.types import ModelDescription

StreamType = TypeVar("StreamType")


_EXPAND_S = 5.0


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Addresses of the services: host:port of each."""

    drafters: tuple[str, ...] = ()
    verifiers: tuple[str, ...] = ()


class Router:
    """Watches the services of a routing table and opens streams on them."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """
        Args:
            changed: called after `room` or `has_verifier` may have changed.
        """
        self._changed = changed
        self._verifiers: dict[str, Endpoint[VerifierStream]] = {}
        self._drafters: dict[str, Endpoint[DrafterStream]] = {}
        # The table as it was given, and with the machines that its names stand for.
        self._named = self._used = RoutingTable()
        self._target: Target | None = None
        self._target_known = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> Target:
        """What the verifiers serve.

        Raises:
            Unavailable: none has answered yet.
        """
        if self._target is None:
            raise Unavailable(f"no verifier can be reached: {_troubles(self._verifiers)}; try again")
        return self._target

    @property
    def room(self) -> int:
        """How many sessions the live verifiers can hold."""
        return sum(each.slots for each in self._verifiers.values() if each.live)

    @property
    def has_verifier(self) -> bool:
        """Whether any verifier is live."""
        return any(each.live for each in self._verifiers.values())

    @property
    def endpoints(self) -> Iterator[tuple[str, Endpoint[Any]]]:
        """Every service that is routed to, "verifier" or "drafter" first; any thread may ask."""
        for service, endpoints in (
            ("verifier", list(self._verifiers.values())),
            ("drafter", list(self._drafters.values())),
        ):
            yield from ((service, each) for each in endpoints)

    @property
    def draft(self) -> ModelDescription | None:
        """What the first live drafter serves."""
        return next((each.description for each in self._drafters.values() if each.live), None)

    @property
    def shares_processors(self) -> bool:
        """Whether any drafter slows any verifier down; which of them a session gets is decided later."""
        return any(
            share_processors(verifier.description, drafter.description)
            for verifier, drafter in product(self._verifiers.values(), self._drafters.values())
            if verifier.live and verifier.description and drafter.live and drafter.description
        )

    def route(self, table: RoutingTable) -> None:
        """Use these services from now on. Running sessions stay where they are."""
        self._named = table
        self._use(table)

    async def keep_expanding(self) -> None:
        """Follow the machines that the table's host names stand for; see `expanded`."""
        while True:
            named = self._named
            machines = RoutingTable(await expanded(named.drafters), await expanded(named.verifiers))
            if named is self._named and machines != self._used:
                self._use(machines)
            await asyncio.sleep(_EXPAND_S)

    def _use(self, table: RoutingTable) -> None:
        self._used = table
        self._replace(self._verifiers, table.verifiers, self._add_verifier)
        self._replace(self._drafters, table.drafters, self._add_drafter)
        self._changed()

    def waiting_for_verifier(self) -> str | None:
        """What keeps requests from being served now, in words; None if nothing does.

        Raises:
            PairMismatch, NoTokenizer: waiting would not help.
        """
        return _waiting_for("a verifier", self._verifiers, any)

    def waiting_for_drafters(self) -> str | None:
        """Which drafters are missing, in words; None if none is.

        Raises:
            PairMismatch: waiting would not help.
        """
        return _waiting_for("drafters", self._drafters, all)

    def verifier(self, target: Target) -> AbstractContextManager[VerifierStream]:
        """A stream to the best verifier.

        Raises:
            Unavailable, Exhausted: there is none now.
            PairMismatch: the verifiers no longer serve the target that the session began with.
        """
        check_same_target(target.description, self.target.description)
        return _best("verifier", self._verifiers).session()

    @property
    def proposers(self) -> tuple[str, ...]:
        """See `Services`."""
        live = (each.description for _, each in self.endpoints if each.live and each.description)
        return tuple(dict.fromkeys(name for description in live for name in description.proposers))

    @property
    def drafters(self) -> int:
        """How many drafters can be used now."""
        return sum(each.live for each in self._drafters.values())

    def drafter(self, taken: Collection[str]) -> AbstractContextManager[DrafterStream]:
        """A stream to the best drafter that is at none of these addresses.

        Raises:
            Unavailable, Exhausted: there is none now.
        """
        others = {address: each for address, each in self._drafters.items() if address not in taken}
        if taken and not others:
            raise Unavailable(f"there is no drafter beside {', '.join(sorted(taken))}")
        return _best("drafter", others).session()

    async def close(self) -> None:
        self.route(RoutingTable())
        if self._closing:
            await asyncio.wait(self._closing)

    def _replace(
        self,
        endpoints: dict[str, Endpoint[StreamType]],
        addresses: Sequence[str],
        add: Callable[[str], Endpoint[StreamType]],
    ) -> None:
        for address in [known for known in endpoints if known not in addresses]:
            closing = asyncio.create_task(endpoints.pop(address).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        for address in addresses:
            if address not in endpoints:
                endpoints[address] = add(address)

    def _add_verifier(self, address: str) -> Endpoint[VerifierStream]:
        client = VerifierClient(address)
        return Endpoint(client, partial(self._accept_target, client), self._changed)

    def _add_drafter(self, address: str) -> Endpoint[DrafterStream]:
        return Endpoint(DrafterClient(address), self._accept_draft, self._changed)

    async def _accept_target(self, client: VerifierClient, description: ModelDescription) -> None:
        """Accept a verifier if it matches the live ones; the first one decides what the target is."""
        others = [each for address, each in self._verifiers.items() if each.live and address != client.address]
        if others and others[0].description:
            check_same_target(others[0].description, description)
        known = self._target.description if self._target else None
        if self._target and known and known.tokenizer_fingerprint == description.tokenizer_fingerprint:
            tokenizer = self._target.tokenizer
        else:
            tokenizer = Tokenizer(await client.tokenizer_json())
            check_vocabulary(description, tokenizer.size)
        self._target = Target(description, tokenizer)
        self._target_known.set()
        if known and known.tokenizer_fingerprint != description.tokenizer_fingerprint:
            for drafter in self._drafters.values():
                drafter.check_again("the verifiers serve another target now")

    async def _accept_draft(self, description: ModelDescription) -> None:
        """Accept a drafter if it matches the target."""
        await self._target_known.wait()
        check_pair(self.target.description, description)
        check_vocabulary(description, self.target.tokenizer.size)


def _best(kind: str, endpoints: Mapping[str, Endpoint[StreamType]]) -> Endpoint[StreamType]:
    """The live endpoint with the fewest sessions; those that recently broke or refused a session come last."""
    live = [each for each in endpoints.values() if each.live]
    if not live:
        raise Unavailable(f"no {kind} can be reached: {_troubles(endpoints)}")
    free = [each for each in live if each.sessions < each.slots]
    if not free:
        raise Exhausted(f"every slot of every {kind} is taken")
    return min(free, key=lambda each: (each.avoided, each.sessions))


def _waiting_for(
    what: str, endpoints: Mapping[str, Endpoint[StreamType]], enough: Callable[[Sequence[bool]], bool]
) -> str | None:
    """Which endpoints are missing, or None. Raises the error of an endpoint that will never match."""
    for each in endpoints.values():
        if each.mismatch:
            raise each.mismatch
    if enough([each.live for each in endpoints.values()]):
        return None
    return f"{what}: {_troubles(endpoints)}"


def _troubles(endpoints: Mapping[str, Endpoint[StreamType]]) -> str:
    troubles = [
        each.trouble if each.address in each.trouble else f"{each.address}: {each.trouble}"
        for each in endpoints.values()
        if not each.live
    ]
    return "; ".join(troubles) if troubles else "none is named in the routing table"
