"""The rules that judge drafted tokens, one class each. A session's rule is chosen once, when it opens."""

from sybil_engine.core.acceptance import LOSSY, check_acceptance
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import AcceptanceRule
from sybil_engine.sampling.judges.equality import Equality
from sybil_engine.sampling.judges.judge import Judge
from sybil_engine.sampling.judges.ratio_test import RatioTest
from sybil_engine.sampling.judges.threshold import Threshold
from sybil_engine.sampling.judges.top_k import TopK
from sybil_engine.sampling.judges.typical import Typical


def judge_for(opening: SessionOpen) -> Judge:
    """The judge that a session asks for. Under greedy sampling the ratio test comes down to equality."""
    parameter = check_acceptance(opening.acceptance_rule, opening.acceptance_parameter, allowed=LOSSY)
    match opening.acceptance_rule:
        case AcceptanceRule.TYPICAL:
            return Typical(parameter)
        case AcceptanceRule.TOP_K:
            return TopK(int(parameter))
        case AcceptanceRule.THRESHOLD:
            return Threshold(parameter)
        case AcceptanceRule.RATIO_TEST if not opening.sampling.greedy:
            return RatioTest()
        case _:
            return Equality()
