"""What `suffix` keeps of earlier sessions, each tenant's apart, within a bound."""

from collections import deque
from collections.abc import Sequence

from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.suffix import Suffix
from sybil_engine.proposers.suffix_index import END_OF_TEXT, SuffixIndex


class SuffixMemory:
    """Outputs of the sessions that have ended.

    Args:
        most_bytes: of all tenants together; the oldest outputs go first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._indexes: dict[str, SuffixIndex] = {}
        # Every output in its order: whose it is, and the place after it.
        self._outputs: deque[tuple[str, int]] = deque()

    @property
    def held_bytes(self) -> int:
        """About how much memory it takes."""
        return sum(index.held_bytes for index in self._indexes.values())

    def open(self, opening: SessionOpen) -> "RememberingSuffix":
        """A session's proposer, which knows its tenant's earlier outputs and adds its own when it ends."""
        return RememberingSuffix(self, opening)

    def index(self, tenant: str) -> SuffixIndex:
        """A tenant's outputs."""
        return self._indexes.setdefault(tenant, SuffixIndex())

    def add(self, tenant: str, token_ids: Sequence[int]) -> None:
        """Keep an output, and forget the oldest ones if there is too much."""
        index = self.index(tenant)
        index.extend((*token_ids, END_OF_TEXT))
        self._outputs.append((tenant, index.end))
        while self._outputs and self.held_bytes > self._most_bytes:
            oldest, end = self._outputs.popleft()
            self._indexes[oldest].drop_before(end)
            if not len(self._indexes[oldest]):
                del self._indexes[oldest]


class RememberingSuffix(Suffix):
    """`suffix` over this session's text and its tenant's earlier outputs."""

    def __init__(self, memory: SuffixMemory, opening: SessionOpen) -> None:
        super().__init__(memory.index(opening.tenant))
        self._memory = memory
        self._tenant = opening.tenant
        self._prompt_tokens = opening.prompt_tokens
        self._seen_tokens = 0
        self._output: list[int] = []

    def follow(self, token_ids: Sequence[int]) -> None:
        """See `Proposer.follow`."""
        super().follow(token_ids)
        self._output += token_ids[max(0, self._prompt_tokens - self._seen_tokens) :]
        self._seen_tokens += len(token_ids)

    def close(self) -> None:
        """Keep the output for later sessions."""
        if self._output:
            self._memory.add(self._tenant, self._output)
