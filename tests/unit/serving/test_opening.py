"""What a service checks before a session gets a slot."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass

import pytest

from sybil_engine.core.errors import ContextExceeded, InvalidRequest
from sybil_engine.core.session import SessionOpen
from sybil_engine.serving.opening import check_lengths, check_opening


@pytest.mark.parametrize(("max_position", "end"), [(0, 100), (50, 50), (100, 100), (5_000, 100), (4, 4)])
def test_a_session_ends_at_its_limit_or_at_the_context_whichever_comes_first(max_position: int, end: int) -> None:
    opening = SessionOpen((1, 2, 3), 3, max_position=max_position)
    assert check_opening(opening, vocabulary_size=10, context_tokens=100) == end


@pytest.mark.parametrize("token_id", [10, 11, 2**32 - 1])
def test_a_token_id_outside_the_vocabulary_is_refused(token_id: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"token_ids\[1\] is {token_id}; token ids must be below 10"):
        check_opening(SessionOpen((1, token_id), 1), vocabulary_size=10, context_tokens=100)


@pytest.mark.parametrize(("tokens", "max_position"), [(100, 0), (101, 0), (3, 3), (3, 2)])
def test_a_prompt_that_leaves_no_room_for_a_token_is_refused(tokens: int, max_position: int) -> None:
    opening = SessionOpen((1,) * tokens, 1, max_position=max_position)
    with pytest.raises(ContextExceeded, match="leave no room"):
        check_opening(opening, vocabulary_size=10, context_tokens=100)


class UnreadTokens:
    """Ever so many, and nobody may read one."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        pytest.fail("lengths are checked before contents")


@dataclass(frozen=True)
class LongOpening:
    token_ids: Sized = (1, 2)
    stop_token_ids: Sized = ()
    session_id: str = ""
    max_position: int = 0
    drafters: Sized = ()
    prediction: Sized = ()
    tenant: str = ""


@pytest.mark.parametrize(
    ("opening", "complaint"),
    [
        (LongOpening(token_ids=UnreadTokens(4_000_000)), "4000000 tokens leave no room"),
        (LongOpening(token_ids=UnreadTokens(50), max_position=50), "50 tokens leave no room"),
        (LongOpening(stop_token_ids=UnreadTokens(4_000_000)), "stop_token_ids holds 4000000 tokens; at most 2048"),
        (LongOpening(session_id="x" * 257), "session_id has 257 characters; at most 256"),
        (LongOpening(tenant="x" * 257), "tenant has 257 characters; at most 256"),
        (LongOpening(drafters=UnreadTokens(17)), "17 drafters are named; at most 16"),
        (LongOpening(prediction=UnreadTokens(101)), "the prediction holds 101 tokens, more than the context of 100"),
    ],
)
def test_an_openings_lengths_are_checked_before_its_contents(opening: LongOpening, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        check_lengths(opening, context_tokens=100)
    check_lengths(LongOpening(UnreadTokens(99), UnreadTokens(2_048), "x" * 256), context_tokens=100)
