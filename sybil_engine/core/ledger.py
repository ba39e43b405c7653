"""The committed tokens of one session, and their fingerprints."""

from collections.abc import Iterable
from typing import overload

from sybil_engine.core.errors import CommitConflict, CommitGap
from sybil_engine.core.session import Advance, Commit

_MASK = 2**64 - 1
EMPTY_FINGERPRINT = 0x5EED_1E55_0F7E_ACED


def extend_fingerprint(fingerprint: int, token_id: int) -> int:
    """Fold one more token into a 64-bit rolling fingerprint.

    Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014).
    """
    mixed = (fingerprint * 0x9E3779B97F4A7C15 + token_id + 1) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


class Ledger:
    """The prompt and the tokens that the target decided. It grows by commits only, and never shrinks."""

    def __init__(self, token_ids: Iterable[int], prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self._token_ids: list[int] = []
        self._fingerprints = [EMPTY_FINGERPRINT]
        self._extend(token_ids)

    def __len__(self) -> int:
        return len(self._token_ids)

    @overload
    def __getitem__(self, positions: int) -> int: ...
    @overload
    def __getitem__(self, positions: slice) -> list[int]: ...
    def __getitem__(self, positions: int | slice) -> int | list[int]:
        return self._token_ids[positions]

    def fingerprint(self, position: int) -> int:
        """Fingerprint of all tokens before `position`, which may be at most the ledger's length."""
        return self._fingerprints[position]

    def append(self, commit: Commit | Advance) -> int:
        """Append those tokens of a commit that are new; a repeated commit changes nothing.

        Returns:
            How many of its last tokens are new.

        Raises:
            CommitGap: tokens between the ledger's end and the commit are missing.
            CommitConflict: the commit was made for another prefix, or contradicts committed tokens.
        """
        if commit.position > len(self):
            raise CommitGap(
                f"the commit starts at position {commit.position}, but only {len(self)} tokens are committed; "
                "reopen the session with all committed tokens"
            )
        known = len(self) - commit.position
        token_ids = commit.token_ids
        if (
            self.fingerprint(commit.position) != commit.prefix_fingerprint
            or tuple(self[commit.position :][: len(token_ids)]) != token_ids[:known]
        ):
            raise CommitConflict(
                f"the commit at position {commit.position} contradicts tokens that are committed already; "
                "reopen the session with all committed tokens"
            )
        fresh = token_ids[known:]
        self._extend(fresh)
        return len(fresh)

    def _extend(self, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            self._token_ids.append(token_id)
            self._fingerprints.append(extend_fingerprint(self._fingerprints[-1], token_id))
