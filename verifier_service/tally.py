"""What a verifier's passes did since it started."""

from collections import Counter
from dataclasses import dataclass

from sybil_engine.core.draft_tree import Graft
from sybil_engine.core.session import Commit
from sybil_engine.core.types import DrafterCount, Speculation
from sybil_engine.serving.metrics import PassMetrics, seconds_histogram


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """How one session took part in a pass.

    Attributes:
        requested: how it was to speculate when it was opened.
        speculation: how it did.
        judged, accepted: drafted tokens, as in `Commit`.
    """

    requested: Speculation
    speculation: Speculation
    judged: int
    accepted: int


class Tally:
    """Counts that the engine's thread writes and other threads read.

    Attributes:
        passes: their times and rows.
        windows: how often each was committed.
        committed_tokens: of all sessions.
        draft_wait_ns: time that sessions which draft have waited for their passes.
        drafters: how each drafter's tokens fared, by its name.
        blocks: how many came, by what became of them.
        round_trips: how long the first blocks after a commit took, without the drafting itself.
    """

    def __init__(self) -> None:
        self.passes = PassMetrics()
        self.windows: Counter[JudgedWindow] = Counter()
        self.committed_tokens = self.draft_wait_ns = 0
        self.drafters: dict[str, DrafterCount] = {}
        self.blocks: Counter[Graft] = Counter()
        self.round_trips = seconds_histogram(
            "round_trip_seconds", "From a commit that left nothing drafted to the next block, without its drafting"
        )

    def committed(self, requested: Speculation, speculation: Speculation, commit: Commit) -> None:
        """Count a commit of a session that speculates in this way."""
        self.windows[JudgedWindow(requested, speculation, commit.judged, commit.accepted)] += 1
        self.committed_tokens += len(commit.tokens)
        for each in commit.drafters:
            self.drafters[each.drafter] = each.plus(self.drafters.get(each.drafter, DrafterCount("")))
        if speculation is not Speculation.OFF:
            self.draft_wait_ns += commit.timings.wait_ns
