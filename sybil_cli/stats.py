"""What a completion took, and the rates that follow from it; each rate has one name and one definition."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts and times of one completion, or of several added up; see Usage in generation_service.proto for each."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    verify_passes: int = 0
    drafted_tokens: int = 0
    tested_tokens: int = 0
    accepted_tokens: int = 0
    time_to_first_token_ns: int = 0
    total_ns: int = 0
    verify_ns: int = 0
    overlap_ns: int = 0
    reopened_streams: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Counts)))


@dataclass(frozen=True, slots=True)
class Stats:
    """The rates of a completion; None where nothing was there to divide by.

    Attributes:
        tokens_per_second: completion tokens / time from the request's arrival to its last token.
        acceptance_rate: accepted / tested drafted tokens, where tested are those up to a pass's first rejection.
        draft_efficiency: accepted / drafted tokens.
        tokens_per_pass: completion tokens / verify passes.
        overlap: share of verify time during which the drafter was working on the same session.
        wasted_draft_tokens: drafted and never tested.
    """

    tokens_per_second: float | None
    time_to_first_token_ns: int | None
    acceptance_rate: float | None
    draft_efficiency: float | None
    tokens_per_pass: float | None
    overlap: float | None
    wasted_draft_tokens: int
    verify_passes: int

    @classmethod
    def of(cls, counts: Counts) -> "Stats":
        """The rates that follow from counts."""
        return cls(
            tokens_per_second=_ratio(counts.completion_tokens, counts.total_ns / 1e9),
            time_to_first_token_ns=counts.time_to_first_token_ns or None,
            acceptance_rate=_ratio(counts.accepted_tokens, counts.tested_tokens),
            draft_efficiency=_ratio(counts.accepted_tokens, counts.drafted_tokens),
            tokens_per_pass=_ratio(counts.completion_tokens, counts.verify_passes),
            overlap=_ratio(counts.overlap_ns, counts.verify_ns),
            wasted_draft_tokens=counts.drafted_tokens - counts.tested_tokens,
            verify_passes=counts.verify_passes,
        )


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
