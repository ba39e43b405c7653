"""Which rule a session asks for."""

from sybil_engine.core.plan import NO_DRAFTING, DraftPlan
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import Speculation
from verifier_service.policy.adaptive import Adaptive
from verifier_service.policy.choice import Choice
from verifier_service.policy.pace import Pace
from verifier_service.policy.rule import Rule
from verifier_service.policy.windows import FixedPlan, LearnedWindow


def rule_for(opening: SessionOpen, most_tokens: int, pace: Pace, choice: Choice, *, by_chance: bool) -> Rule:
    """Choose the rule of a session.

    Args:
        most_tokens: the most drafted tokens that one pass may judge for it.
        choice: shared by all adaptive sessions of a verifier.
        by_chance: whether windows may stop where drafted tokens are unlikely. Under the ratio test they may not:
            drafted tokens must not influence which positions are judged.
    """
    speculation = opening.plan.speculation
    if not opening.drafts_by_model and speculation is not Speculation.OFF:
        # Proposers take no time: there is nothing to choose and nothing to wait for.
        way = Speculation.LOCKSTEP if speculation is Speculation.AUTO else speculation
        return FixedPlan(pace, DraftPlan(way, hold_until=0))
    match speculation:
        case Speculation.OFF:
            return FixedPlan(pace, NO_DRAFTING)
        case Speculation.LOCKSTEP:
            window_tokens = min(opening.plan.budget, most_tokens)
            return FixedPlan(pace, DraftPlan(Speculation.LOCKSTEP, window_tokens, hold_until=window_tokens))
        case Speculation.PIPELINED:
            return LearnedWindow(pace, most_tokens, hedged=False)
        case Speculation.HEDGED:
            return LearnedWindow(pace, most_tokens, hedged=True)
        case Speculation.AUTO:
            return Adaptive(pace, most_tokens, choice, greedy=opening.sampling.greedy, by_chance=by_chance)
