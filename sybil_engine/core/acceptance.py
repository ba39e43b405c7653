"""Lossy rules of acceptance: their parameters, and what must be agreed before one is used."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import AcceptanceRule


@dataclass(frozen=True, slots=True)
class Parameter:
    """The one parameter of a lossy rule.

    Attributes:
        meaning: what it is, in words.
        whole: whether only whole numbers make sense.
    """

    default: float
    least: float
    most: float
    meaning: str
    whole: bool = False


LOSSY = {
    AcceptanceRule.TYPICAL: Parameter(0.09, 1e-6, 1.0, "epsilon, the least probability that is ever demanded"),
    AcceptanceRule.TOP_K: Parameter(3, 1, 1000, "how many of the target's likeliest tokens are accepted", whole=True),
    AcceptanceRule.THRESHOLD: Parameter(0.3, 1e-6, 1.0, "the least probability of an accepted token"),
}
"""The rules under which tokens may not be the target's own."""


def check_acceptance(rule: AcceptanceRule, parameter: float, allowed: Collection[AcceptanceRule]) -> float:
    """Check a request's rule of acceptance.

    Args:
        parameter: 0: the rule's default.
        allowed: the lossy rules that the server allows.

    Returns:
        The parameter to use; 0 for a rule that has none.

    Raises:
        InvalidRequest: the rule is lossy and not allowed, or the parameter is out of range.
    """
    known = LOSSY.get(rule)
    if known is None:
        if parameter:
            raise InvalidRequest(
                f"acceptance_parameter is {parameter:g}, but the acceptance rule {rule.value} has no parameter; "
                "leave it out"
            )
        return 0.0
    if rule not in allowed:
        raise InvalidRequest(
            f"the acceptance rule {rule.value} is lossy: its tokens may not be the target's own. This server does not "
            f"allow it; start it with --allow-lossy {rule.value} (allow_lossy of LocalEngine), or use "
            f"{AcceptanceRule.SHARED_NOISE.value}"
        )
    value = parameter or known.default
    if not (math.isfinite(value) and known.least <= value <= known.most and (not known.whole or value == int(value))):
        kind = "a whole number" if known.whole else "a number"
        raise InvalidRequest(
            f"acceptance_parameter is {parameter:g}; under {rule.value} it is {known.meaning}: {kind} from "
            f"{known.least:g} to {known.most:g}, or 0 for {known.default:g}"
        )
    return value
