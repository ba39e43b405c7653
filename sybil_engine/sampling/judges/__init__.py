"""The rules that judge drafted tokens, one class each. A session's rule is chosen once, when it opens."""

from sybil_engine.core.types import AcceptanceRule, SamplingParams
from sybil_engine.sampling.judges.equality import Equality
from sybil_engine.sampling.judges.judge import Judge
from sybil_engine.sampling.judges.ratio_test import RatioTest


def judge_for(rule: AcceptanceRule, sampling: SamplingParams) -> Judge:
    """The judge of a session. Under greedy sampling every rule comes down to equality."""
    return RatioTest() if rule is AcceptanceRule.RATIO_TEST and not sampling.greedy else Equality()
