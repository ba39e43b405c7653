"""What every service checks before it gives a session a slot."""

from collections.abc import Sequence

from sybil_engine.core.errors import ContextExceeded, InvalidRequest
from sybil_engine.core.session import SessionOpen


def check_opening(opening: SessionOpen, vocabulary_size: int, context_tokens: int) -> int:
    """Check an opening against the model that will serve it.

    Returns:
        The position at which the session ends.

    Raises:
        InvalidRequest: a token id is outside the vocabulary.
        ContextExceeded: no room for another token.
    """
    max_position = min(opening.max_position or context_tokens, context_tokens)
    if len(opening.token_ids) >= max_position:
        raise ContextExceeded(
            f"{len(opening.token_ids)} tokens leave no room for another one: the session ends at position "
            f"{max_position}, the context at {context_tokens}; shorten the prompt"
        )
    check_token_ids("token_ids", opening.token_ids, vocabulary_size)
    return max_position


def check_token_ids(name: str, token_ids: Sequence[int], vocabulary_size: int) -> None:
    """Check that a model knows all token ids of the field of this name.

    Raises:
        InvalidRequest: one is outside the vocabulary.
    """
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocabulary_size:
        index = next(index for index, token_id in enumerate(token_ids) if not 0 <= token_id < vocabulary_size)
        raise InvalidRequest(f"{name}[{index}] is {token_ids[index]}; token ids must be below {vocabulary_size}")
