"""The order in which waiting requests start: by priority, then fair between clients, then first come, first served."""

from collections import Counter
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What the order depends on."""

    @property
    def client(self) -> str:
        """Who sent the request."""

    @property
    def priority(self) -> int:
        """Higher ones start first."""


Request = TypeVar("Request", bound=Waiting)


class Line(Generic[Request]):
    """Requests that wait.

    Clients of equal priority take turns, one request each. A client that was away starts with the present turn: it
    neither saved up turns nor lost any. Requests that leave without having started cost no turn.

    Source: Goyal, Vin, Cheng 1996 (start-time fair queueing), with a cost of one for each request.
    """

    def __init__(self) -> None:
        # In the order in which they came.
        self._requests: dict[Request, None] = {}
        self._turn = 0
        # The turn of each client's next request, where it is later than the present one.
        self._turns: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        """Yield the requests in the order in which they will start."""
        ahead: Counter[str] = Counter()
        keys = list[tuple[int, int]]()
        requests = sorted(self._requests, key=lambda each: -each.priority)
        for request in requests:
            keys.append((-request.priority, self._next_turn(request.client) + ahead[request.client]))
            ahead[request.client] += 1
        # Sorting is stable: in the same turn the first that came is first.
        return (requests[index] for index in sorted(range(len(requests)), key=keys.__getitem__))

    def add(self, request: Request) -> None:
        """Let a request wait."""
        self._requests[request] = None

    def discard(self, request: Request) -> None:
        """Forget a request, if it waits."""
        self._requests.pop(request, None)

    def start(self, request: Request) -> None:
        """Take a request out of the line; its client's next one waits for a later turn."""
        del self._requests[request]
        self._turn = self._next_turn(request.client)
        self._turns[request.client] = self._turn + 1
        self._turns = {client: turn for client, turn in self._turns.items() if turn > self._turn}

    def _next_turn(self, client: str) -> int:
        return max(self._turn, self._turns.get(client, 0))
