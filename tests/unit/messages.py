"""What sessions are told in tests."""

import random
from collections.abc import Sequence

from sybil_engine.core.ledger import Ledger
from sybil_engine.core.plan import NO_DRAFTING, DraftPlan
from sybil_engine.core.session import Advance
from sybil_engine.core.types import Block, BlockOrigin
from tests.unit.fake_runner import VOCABULARY_SIZE


def some_prompt(seed: int, tokens: int) -> tuple[int, ...]:
    rng = random.Random(f"prompt {seed}")
    return tuple(rng.randrange(VOCABULARY_SIZE) for _ in range(tokens))


def advance_after(ledger: Ledger, token_ids: tuple[int, ...], plan: DraftPlan = NO_DRAFTING) -> Advance:
    """What says these tokens next."""
    end = len(ledger)
    return Advance(end, ledger.fingerprint(end), token_ids, plan)


def block_after(
    prefix: Sequence[int],
    token_ids: tuple[int, ...],
    origin: BlockOrigin = BlockOrigin.TRUNK,
    chances: tuple[float, ...] = (),
) -> Block:
    """A block that extends exactly these tokens."""
    fingerprint = Ledger(prefix, len(prefix)).fingerprint(len(prefix))
    return Block(len(prefix), fingerprint, token_ids, origin, chances=chances)
