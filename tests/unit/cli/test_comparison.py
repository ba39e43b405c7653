"""Exactness is counted token by token; speed as a ratio of sums."""

from sybil_cli.comparison import Comparison
from sybil_engine.core.completion import Completion, Ending, Usage
from sybil_engine.core.types import CommittedToken, FinishReason, Speculation

OFF, LOCKSTEP, PIPELINED = Speculation.OFF, Speculation.LOCKSTEP, Speculation.PIPELINED


def completion(tokens: tuple[int, ...], total_s: float) -> Completion:
    usage = Usage(completion_tokens=len(tokens), verify_passes=len(tokens), total_ns=int(total_s * 1e9))
    return Completion("", tuple(map(CommittedToken, tokens)), Ending(FinishReason.LENGTH, 1, OFF, usage))


def test_equal_tokens_are_no_difference() -> None:
    comparison = Comparison()
    comparison.add({arm: completion((1, 2, 3), 1.0) for arm in (OFF, LOCKSTEP, PIPELINED)})
    assert (comparison.compared_tokens, comparison.differences, comparison.rounds) == (6, 0, 1)


def test_a_different_token_and_a_missing_one_both_count() -> None:
    comparison = Comparison()
    comparison.add(
        {OFF: completion((1, 2, 3), 1.0), LOCKSTEP: completion((1, 9, 3), 1.0), PIPELINED: completion((1, 2), 1.0)}
    )
    assert (comparison.compared_tokens, comparison.differences) == (6, 2)


def test_the_ratio_is_of_all_tokens_over_all_time() -> None:
    comparison = Comparison()
    for seconds in (1.0, 3.0):
        comparison.add(
            {
                OFF: completion((1, 2), seconds),
                LOCKSTEP: completion((1, 2), seconds),
                PIPELINED: completion((1, 2), seconds / 2),
            }
        )
    assert comparison.stats(OFF).tokens_per_second == 1.0
    assert comparison.speedup(PIPELINED) == 2.0
    assert comparison.speedup(LOCKSTEP) == 1.0
