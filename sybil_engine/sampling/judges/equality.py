"""Equality under shared noise: a drafted token is accepted if and only if the target draws the same one."""

from dataclasses import dataclass
from typing import ClassVar

from sybil_engine.sampling.judges.judge import Verdict, Window


@dataclass(frozen=True, slots=True)
class Equality:
    """The default: the same tokens as without drafts, for every seed.

    Source: Daliri, Musco, Suresh 2024.
    """

    lossless: ClassVar[bool] = True
    wants_distributions: ClassVar[bool] = False
    allows_hedges: ClassVar[bool] = True

    def judge(self, window: Window) -> Verdict:
        """See `Judge.judge`."""
        for index, (drafted, drawn) in enumerate(zip(window.drafted, window.drawn, strict=False)):
            if drafted != drawn:
                return Verdict(tuple(window.drawn[: index + 1]))
        return Verdict(tuple(window.drawn[: len(window.drafted) + 1]))
