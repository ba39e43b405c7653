"""An acceptance rule with its parameter, by name."""

from dataclasses import dataclass

from sybil_engine.core.acceptance import LOSSY, check_acceptance
from sybil_engine.core.errors import InvalidRequest
from sybil_engine.core.types import AcceptanceRule


@dataclass(frozen=True, slots=True)
class JudgeSetting:
    """One point of the sweep.

    Attributes:
        parameter: 0 for a rule that has none.
    """

    rule: AcceptanceRule
    parameter: float = 0.0

    @classmethod
    def of(cls, name: str) -> "JudgeSetting":
        """From a name such as `top-k:3`.

        Raises:
            ValueError, InvalidRequest: there is no such rule, or its parameter is out of range.
        """
        rule, _, parameter = name.partition(":")
        known = AcceptanceRule(rule)
        return cls(known, check_acceptance(known, float(parameter or 0), allowed=LOSSY))

    @classmethod
    def is_known(cls, name: str) -> bool:
        """Whether `of` takes this name."""
        try:
            cls.of(name)
        except (ValueError, InvalidRequest):
            return False
        return True

    @property
    def name(self) -> str:
        """As in the settings."""
        return f"{self.rule.value}:{self.parameter:g}" if self.parameter else self.rule.value

    @property
    def exact(self) -> bool:
        """Whether its tokens must be those of the target alone."""
        return self.rule is AcceptanceRule.SHARED_NOISE


EXACT = JudgeSetting(AcceptanceRule.SHARED_NOISE)
