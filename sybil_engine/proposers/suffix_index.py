"""An index of texts by what they end in at each place: finds the places that agree longest with a given end.

Each place is filed under the last few tokens before it, for a few lengths. Places of one key form a chain, the latest
first; a search walks a bounded part of it and compares backwards. So adding a token and finding its matches take a
constant time, and the oldest tokens can be dropped without touching the others.

Source: hash chains, as match finders of LZ77 compressors use them (Ziv, Lempel 1977).
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

END_OF_TEXT = -1
"""Stands between two texts; it agrees with no token."""


class AgreedPlace(NamedTuple):
    """Where an index agrees with an end.

    Attributes:
        place: of the token that comes next.
        agreed: how many tokens before it agree; no more than `MOST_AGREED` are counted.
    """

    place: int
    agreed: int


MOST_AGREED = 16
_KEYS = (6, 2, 1)
_MOST_PLACES = 4


class _Chains:
    """The places of each key of one length, as one linked list a key."""

    def __init__(self, length: int) -> None:
        self.length = length
        # By key: the latest place; and for each place, how far back the one before it is, 0: there is none.
        self.latest: dict[int, int] = {}
        self.back = array("I")


class SuffixIndex:
    """Texts, one after the other.

    Attributes:
        first: the first place that is still held. Places count all tokens ever added.
    """

    # Of a token: itself and its link in each chain; arrays keep an eighth more. Of a key: its number, a place, and its
    # share of a dictionary that has just grown. Of an index: its empty parts. All by tracemalloc, on the large side.
    _TOKEN_BYTES = (4 + 4 * len(_KEYS)) * 9 // 8
    _KEY_BYTES = 130
    _INDEX_BYTES = 1152

    def __init__(self) -> None:
        self.first = 0
        self._tokens = array("i")
        # The place of the first element of the arrays; dropped tokens leave them from time to time.
        self._base = 0
        self._chains = [_Chains(length) for length in _KEYS]

    def __len__(self) -> int:
        """Tokens held."""
        return self.end - self.first

    @property
    def end(self) -> int:
        """The place of the next token."""
        return self._base + len(self._tokens)

    @property
    def held_bytes(self) -> int:
        """The most memory that it may take, objects of the interpreter included."""
        keys = sum(len(chains.latest) for chains in self._chains)
        return self._INDEX_BYTES + len(self._tokens) * self._TOKEN_BYTES + keys * self._KEY_BYTES

    def __getitem__(self, place: int) -> int:
        """The token at a place that is held."""
        return self._tokens[place - self._base]

    def extend(self, token_ids: Sequence[int]) -> None:
        """Add tokens to the last text."""
        tokens = self._tokens
        for token_id in token_ids:
            place = self._base + len(tokens)
            for chains in self._chains:
                before = None
                if len(tokens) >= chains.length:
                    key = hash(tuple(tokens[-chains.length :]))
                    before = chains.latest.get(key)
                    chains.latest[key] = place
                chains.back.append(place - before if before is not None and before >= self.first else 0)
            tokens.append(token_id)

    def matches(self, end: Sequence[int]) -> list[AgreedPlace]:
        """The places that agree longest with how a text ends, the latest first; a few at most.

        Args:
            end: the last tokens of a text, `MOST_AGREED` or fewer; none may be `END_OF_TEXT`.
        """
        for chains in self._chains:
            if len(end) >= chains.length and (found := self._walk(chains, end)):
                return found
        return []

    def _walk(self, chains: _Chains, end: Sequence[int]) -> list[AgreedPlace]:
        place = chains.latest.get(hash(tuple(end[-chains.length :])), -1)
        tokens, base, first, back = self._tokens, self._base, self.first, chains.back
        backwards = end[::-1]
        found: list[AgreedPlace] = []
        for _ in range(_MOST_PLACES):
            if place < first:
                break
            index, agreed = place - base, 0
            for token_id in backwards[: place - first]:
                if tokens[index - 1 - agreed] != token_id:
                    break
                agreed += 1
            # Another end may have the same hash.
            if agreed >= chains.length and tokens[index] != END_OF_TEXT:
                found.append(AgreedPlace(place, agreed))
            step = back[index]
            if not step:
                break
            place -= step
        return found

    def drop_before(self, place: int) -> None:
        """Drop the oldest tokens."""
        for dropped in range(self.first, min(place, self.end)):
            for chains in self._chains:
                index = dropped - self._base
                if index >= chains.length:
                    key = hash(tuple(self._tokens[index - chains.length : index]))
                    if chains.latest.get(key) == dropped:
                        del chains.latest[key]
        self.first = max(self.first, min(place, self.end))
        self._compact()

    def _compact(self) -> None:
        """Free the room of dropped tokens once they are half of all."""
        dropped = self.first - self._base
        if 2 * dropped > len(self._tokens):
            # Keys of the first places held look back beyond them.
            kept = max(0, dropped - max(_KEYS))
            del self._tokens[:kept]
            for chains in self._chains:
                del chains.back[:kept]
                # A dictionary keeps the room of deleted keys; a copy does not.
                chains.latest = dict(chains.latest)
            self._base += kept
