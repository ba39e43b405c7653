"""Where a simulation takes place: how long passes and messages take."""

import math
from dataclasses import dataclass

from sybil_engine.core.errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class Point:
    """Times of one pair of devices, in milliseconds.

    Attributes:
        verify_ms: a verify pass of one row.
        draft_ms: a draft pass of one row.
        rtt_ms: from drafter to verifier and back.
        row_ms: time that each further row adds to a verify pass.
        draft_row_ms: time that each further row adds to a draft pass.
        prompt_token_ms: to feed one token of a prompt to the target; to the draft model it takes less, as passes do.
        slowdown: see `Processors`.

    Raises:
        InvalidSettings: a time is negative or not finite, or a verify pass takes none.
    """

    verify_ms: float
    draft_ms: float
    rtt_ms: float
    row_ms: float = 0.0
    draft_row_ms: float = 0.0
    prompt_token_ms: float = 0.0
    slowdown: float = 0.0

    def __post_init__(self) -> None:
        times = {
            "verify": self.verify_ms,
            "draft": self.draft_ms,
            "round trip": self.rtt_ms,
            "row": self.row_ms,
            "draft row": self.draft_row_ms,
            "prompt token": self.prompt_token_ms,
        }
        for name, value in times.items():
            if not (math.isfinite(value) and value >= 0):
                raise InvalidSettings(f"{name} is {value:g} ms; it must be a finite number, 0 or more")
        if not (math.isfinite(self.slowdown) and self.slowdown >= 0):
            raise InvalidSettings(f"slowdown is {self.slowdown:g}; it must be a finite number, 0 or more")
        if self.verify_ms == 0:
            raise InvalidSettings("verify is 0 ms; a verify pass must take some time for anything to be faster than it")

    @property
    def one_way_ms(self) -> float:
        return self.rtt_ms / 2

    def pass_ms(self, drafted_rows: int) -> float:
        """Time of a verify pass that judges this many drafted tokens."""
        return self.verify_ms + drafted_rows * self.row_ms

    def draft_pass_ns(self, rows: int) -> int:
        """Time of a draft pass of this many rows, in nanoseconds."""
        # At least 1, because the engine divides by it.
        return max(1, round((self.draft_ms + (rows - 1) * self.draft_row_ms) * 1e6))

    def prompt_ns(self, tokens: int) -> int:
        """Time to feed this many tokens of a prompt to the target, in nanoseconds."""
        return round(tokens * self.prompt_token_ms * 1e6)

    def draft_prompt_ns(self, tokens: int) -> int:
        """Time to feed this many tokens of a prompt to the draft model, in nanoseconds."""
        return round(self.prompt_ns(tokens) * self.draft_ms / self.verify_ms)

    def pass_ns(self, rows: int) -> int:
        """Time of a verify pass of this many rows, in nanoseconds."""
        return round(self.pass_ms(rows - 1) * 1e6)

    def __str__(self) -> str:
        row = f", row {self.row_ms:g} ms" if self.row_ms else ""
        return f"verify {self.verify_ms:g} ms, draft {self.draft_ms:g} ms, round trip {self.rtt_ms:g} ms{row}"


def parse_point(text: str, row_ms: float) -> Point:
    """Read `verify,draft,rtt`, in milliseconds.

    Raises:
        InvalidSettings: not three numbers, or impossible ones.
    """
    try:
        verify_ms, draft_ms, rtt_ms = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidSettings(
            f"{text!r} is not a point; write three times in ms as verify,draft,rtt, for example 30,3,1"
        ) from None
    return Point(verify_ms, draft_ms, rtt_ms, row_ms)
