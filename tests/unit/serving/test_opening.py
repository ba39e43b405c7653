"""What a service checks before a session gets a slot."""

import pytest

from sybil_engine.core.errors import ContextExceeded, InvalidRequest
from sybil_engine.core.session import SessionOpen
from sybil_engine.serving.opening import check_opening


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
