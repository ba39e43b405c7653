"""What every service checks before it gives a session a slot."""

from collections.abc import Sequence, Sized
from typing import Protocol

from sybil_engine.core.errors import ContextExceeded, InvalidRequest
from sybil_engine.core.request import MOST_DRAFTERS, MOST_STOP_TOKEN_IDS
from sybil_engine.core.session import SessionOpen

# A client's, and the model's own end tokens.
_MOST_STOP_TOKEN_IDS = 2 * MOST_STOP_TOKEN_IDS
_MOST_ID_CHARACTERS = 256


class OpeningLengths(Protocol):
    """The fields of an opening, decoded or not, that have lengths."""

    @property
    def token_ids(self) -> Sized: ...

    @property
    def stop_token_ids(self) -> Sized: ...

    @property
    def session_id(self) -> str: ...

    @property
    def max_position(self) -> int: ...

    @property
    def drafters(self) -> Sized: ...

    @property
    def prediction(self) -> Sized: ...

    @property
    def tenant(self) -> str: ...


def check_opening(opening: SessionOpen, vocabulary_size: int, context_tokens: int) -> int:
    """Check an opening against the model that will serve it.

    Returns:
        The position at which the session ends.

    Raises:
        InvalidRequest: a token id is outside the vocabulary.
        ContextExceeded: no room for another token.
    """
    max_position = _check_room(opening, context_tokens)
    check_token_ids("token_ids", opening.token_ids, vocabulary_size)
    check_token_ids("prediction", opening.prediction, vocabulary_size)
    return max_position


def check_lengths(opening: OpeningLengths, context_tokens: int) -> None:
    """Check how long an opening's lists are, before anybody copies or reads them.

    Raises:
        InvalidRequest: one is too long.
        ContextExceeded: no room for another token.
    """
    _check_room(opening, context_tokens)
    if (count := len(opening.stop_token_ids)) > _MOST_STOP_TOKEN_IDS:
        raise InvalidRequest(f"stop_token_ids holds {count} tokens; at most {_MOST_STOP_TOKEN_IDS} are allowed")
    for name, value in (("session_id", opening.session_id), ("tenant", opening.tenant)):
        if (count := len(value)) > _MOST_ID_CHARACTERS:
            raise InvalidRequest(f"{name} has {count} characters; at most {_MOST_ID_CHARACTERS} are allowed")
    if (count := len(opening.drafters)) > MOST_DRAFTERS:
        raise InvalidRequest(f"{count} drafters are named; at most {MOST_DRAFTERS} are allowed")
    if (count := len(opening.prediction)) > context_tokens:
        raise InvalidRequest(
            f"the prediction holds {count} tokens, more than the context of {context_tokens}; send a shorter one"
        )


def _check_room(opening: OpeningLengths, context_tokens: int) -> int:
    """Returns the position at which the session ends; raises ContextExceeded if its tokens reach it."""
    max_position = min(opening.max_position or context_tokens, context_tokens)
    if (tokens := len(opening.token_ids)) >= max_position:
        raise ContextExceeded(
            f"{tokens} tokens leave no room for another one: the session ends at position {max_position}, the context "
            f"at {context_tokens}; shorten the prompt"
        )
    return max_position


def check_token_ids(name: str, token_ids: Sequence[int], vocabulary_size: int) -> None:
    """Check that a model knows all token ids of the field of this name.

    Raises:
        InvalidRequest: one is outside the vocabulary.
    """
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocabulary_size:
        index = next(index for index, token_id in enumerate(token_ids) if not 0 <= token_id < vocabulary_size)
        raise InvalidRequest(f"{name}[{index}] is {token_ids[index]}; token ids must be below {vocabulary_size}")
