"""What `suffix` keeps of earlier sessions, each tenant's apart, within a bound."""

from collections import deque
from collections.abc import Sequence
from weakref import WeakValueDictionary

from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.suffix import Suffix
from sybil_engine.proposers.suffix_index import END_OF_TEXT, SuffixIndex


class SuffixMemory:
    """Outputs of the sessions that have ended. Sessions of nobody in particular share nothing, and leave nothing.

    Args:
        most_bytes: of all tenants together; the oldest outputs go first.

    Attributes:
        held_bytes: the most memory that the outputs may take.
    """

    # Of an output: its entry below; of a tenant: its name and entry.
    _OUTPUT_BYTES = 128
    _TENANT_BYTES = 320

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.held_bytes = 0
        # Tenants last as long as one of their outputs or sessions does.
        self._indexes: WeakValueDictionary[str, SuffixIndex] = WeakValueDictionary()
        # Every output in its order: where it is, and the place after it.
        self._outputs: deque[tuple[SuffixIndex, int]] = deque()

    def __len__(self) -> int:
        """Tenants that have an output or a session here."""
        return len(self._indexes)

    def open(self, opening: SessionOpen) -> Suffix:
        """A session's proposer, which knows its tenant's earlier outputs and adds its own when it ends."""
        return RememberingSuffix(self, opening) if opening.tenant else Suffix()

    def index(self, tenant: str) -> SuffixIndex:
        """A tenant's outputs."""
        index = self._indexes.get(tenant)
        if index is None:
            index = self._indexes[tenant] = SuffixIndex()
        return index

    def add(self, tenant: str, token_ids: Sequence[int]) -> None:
        """Keep an output, and forget the oldest ones if there is too much."""
        index = self.index(tenant)
        before = self._bytes_of(index)
        index.extend((*token_ids, END_OF_TEXT))
        self._outputs.append((index, index.end))
        self.held_bytes += self._OUTPUT_BYTES + self._bytes_of(index) - before
        while self._outputs and self.held_bytes > self._most_bytes:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        index, end = self._outputs.popleft()
        before = self._bytes_of(index)
        index.drop_before(end)
        self.held_bytes -= self._OUTPUT_BYTES + before - self._bytes_of(index)

    def _bytes_of(self, index: SuffixIndex) -> int:
        """What an index takes as long as it holds an output; without one only sessions keep it."""
        return self._TENANT_BYTES + index.held_bytes if len(index) else 0


class RememberingSuffix(Suffix):
    """`suffix` over this session's text and its tenant's earlier outputs."""

    def __init__(self, memory: SuffixMemory, opening: SessionOpen) -> None:
        super().__init__(memory.index(opening.tenant))
        self._memory = memory
        self._tenant = opening.tenant
        # The tokens that a session is opened again with were kept when it ended before.
        self._known_tokens = len(opening.token_ids)
        self._seen_tokens = 0
        self._output: list[int] = []

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        super().follow(token_ids)
        self._output += token_ids[max(0, self._known_tokens - self._seen_tokens) :]
        self._seen_tokens += len(token_ids)

    def close(self) -> None:
        """Keep the output for later sessions."""
        if self._output:
            self._memory.add(self._tenant, self._output)
