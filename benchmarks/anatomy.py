"""What a traced session did with its time and its drafts.

There is one clock, the coordinator's. When a pass ran follows from when its commit arrived, less the time on the wire,
and from the durations that the verifier reports; when a token was drafted, from when its block arrived, in the same
way. So figures of single passes are estimates, good to about a wire's delay.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from benchmarks.trace import BlockEvent, CommitEvent, Trace
from coordinator.usage import count_tested
from sybil_engine.core.ledger import Ledger, extend_fingerprint
from sybil_engine.core.session import Commit
from sybil_engine.core.types import BlockOrigin, TokenOrigin


class Fate(Enum):
    """What became of a drafted token."""

    ACCEPTED = "accepted"  # the target drew the same
    REJECTED = "rejected"  # the target drew another one at its position
    STALE = "stale"  # it was drafted behind a token that did not stand
    LATE = "late"  # the pass that decided its position had begun without it, or the session ended before


@dataclass(frozen=True, slots=True)
class DraftedToken:
    """One drafted token from its draft pass to the verifier; times by the coordinator's clock."""

    position: int
    fate: Fate
    origin: BlockOrigin
    start_ns: int
    end_ns: int
    at_verifier_ns: int | None


@dataclass(frozen=True, slots=True)
class VerifyPass:
    """One pass of the session, and what came before it since the pass before.

    Attributes:
        draft_wait_ns: waited while the drafts it judged were still being drafted.
        wire_ns: waited while they, or the commit they follow, were on the wire.
        queue_ns: the rest of the wait: other sessions' passes, and the engine itself.
    """

    start_ns: int
    end_ns: int
    window_tokens: int
    accepted_tokens: int
    committed_tokens: int
    draft_wait_ns: int
    wire_ns: int
    queue_ns: int
    forward_ns: int
    sampling_ns: int


PARTS = ("queue_ns", "draft_wait_ns", "wire_ns", "forward_ns", "sampling_ns")


class Anatomy:
    """One trace, taken apart."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._ledger = Ledger(trace.task.prompt, len(trace.task.prompt))
        # By position: when the pass that committed it began, and whether it was drafted.
        self._committed: dict[int, tuple[int, TokenOrigin]] = {}
        for event in trace.commits:
            start = len(self._ledger)
            self._ledger.append(event.commit)
            origins = event.commit.origins[start - event.commit.position :]
            pass_start_ns = self._pass_start_ns(event)
            self._committed |= {start + index: (pass_start_ns, origin) for index, origin in enumerate(origins)}
        # By fingerprint: what was drafted behind it, and the block that brought it.
        self._children: dict[int, list[tuple[int, BlockEvent]]] = {}
        for block_event in trace.blocks:
            fingerprint = block_event.block.prefix_fingerprint
            for token_id in block_event.block.token_ids:
                child = extend_fingerprint(fingerprint, token_id)
                self._children.setdefault(fingerprint, []).append((child, block_event))
                fingerprint = child

    @cached_property
    def passes(self) -> list[VerifyPass]:
        """Every pass, in order."""
        return [self._pass(number) for number in range(len(self.trace.commits))]

    @cached_property
    def drafted(self) -> list[DraftedToken]:
        """Every drafted token, in the order in which they arrived."""
        return [token for event in self.trace.blocks for token in self._tokens(event)]

    @property
    def fates(self) -> dict[str, int]:
        """How many drafted tokens had each fate."""
        counts = Counter(token.fate for token in self.drafted)
        return {fate.value: counts[fate] for fate in Fate}

    def _pass(self, number: int) -> VerifyPass:
        event = self.trace.commits[number]
        commit, timings = event.commit, event.commit.timings
        end_ns = event.arrived_ns - self.trace.verifier_wire_ns
        start_ns = self._pass_start_ns(event)
        # What precedes the first pass is the prefill.
        wait_ns = timings.wait_ns if number else 0
        draft_wait_ns, wire_ns = self._waited(number, start_ns - wait_ns, start_ns)
        return VerifyPass(
            start_ns=start_ns,
            end_ns=end_ns,
            window_tokens=commit.window_tokens,
            accepted_tokens=commit.accepted_tokens,
            committed_tokens=len(commit.token_ids),
            draft_wait_ns=draft_wait_ns,
            wire_ns=wire_ns,
            queue_ns=wait_ns - draft_wait_ns - wire_ns,
            forward_ns=timings.forward_ns,
            sampling_ns=timings.sampling_ns,
        )

    def _pass_start_ns(self, event: CommitEvent) -> int:
        timings = event.commit.timings
        return event.arrived_ns - self.trace.verifier_wire_ns - timings.sampling_ns - timings.forward_ns

    def _waited(self, number: int, free_ns: int, start_ns: int) -> tuple[int, int]:
        """How long a pass that could have begun at `free_ns` waited for drafts, and for messages."""
        if start_ns <= free_ns or not self.trace.blocks:
            return 0, 0
        last = self._last_judged(self.trace.commits[number].commit, start_ns)
        if last is None or last.offered_ns is None:
            # It waited for a draft that did not come in time.
            return start_ns - free_ns, 0
        missing_ns = min(max(0, last.offered_ns + self.trace.verifier_wire_ns - free_ns), start_ns - free_ns)
        draft_start_ns = last.arrived_ns - self.trace.drafter_wire_ns - last.block.draft_ns
        one_way_ns = self.trace.verifier_wire_ns + self.trace.drafter_wire_ns
        # Drafting that follows a commit waits for the commit's way, too.
        wire_ns = min(missing_ns, one_way_ns if draft_start_ns < free_ns else 2 * one_way_ns)
        return missing_ns - wire_ns, wire_ns

    def _last_judged(self, commit: Commit, start_ns: int) -> BlockEvent | None:
        """Of the blocks that brought what a pass judged, the one that came last; None if it judged nothing."""
        fingerprint = commit.prefix_fingerprint
        last: BlockEvent | None = None
        for _ in range(commit.window_tokens):
            there = [
                (child, event)
                for child, event in self._children.get(fingerprint, ())
                if event.offered_ns is not None and event.offered_ns <= start_ns
            ]
            if not there:
                break
            fingerprint, event = max(there, key=lambda pair: pair[1].block.origin is BlockOrigin.TRUNK)
            if last is None or (event.offered_ns or 0) > (last.offered_ns or 0):
                last = event
        return last

    def _tokens(self, event: BlockEvent) -> list[DraftedToken]:
        """A block's tokens; its time is shared out among them."""
        block = event.block
        end_ns = event.arrived_ns - self.trace.drafter_wire_ns
        each_ns = block.draft_ns // max(1, len(block.token_ids))
        start_ns = end_ns - each_ns * len(block.token_ids)
        at_verifier_ns = None if event.offered_ns is None else event.offered_ns + self.trace.verifier_wire_ns
        fingerprint = block.prefix_fingerprint
        tokens = []
        for index, token_id in enumerate(block.token_ids):
            position = block.position + index
            tokens.append(
                DraftedToken(
                    position=position,
                    fate=self._fate(position, fingerprint, token_id, at_verifier_ns),
                    origin=block.origin,
                    start_ns=start_ns + index * each_ns,
                    end_ns=start_ns + (index + 1) * each_ns,
                    at_verifier_ns=at_verifier_ns,
                )
            )
            fingerprint = extend_fingerprint(fingerprint, token_id)
        return tokens

    def _fate(self, position: int, fingerprint: int, token_id: int, at_verifier_ns: int | None) -> Fate:
        if position > len(self._ledger) or self._ledger.fingerprint(position) != fingerprint:
            return Fate.STALE
        if position not in self._committed or at_verifier_ns is None:
            return Fate.LATE
        pass_start_ns, origin = self._committed[position]
        if self._ledger[position] == token_id:
            return Fate.ACCEPTED if origin is TokenOrigin.DRAFTED else Fate.LATE
        return Fate.REJECTED if at_verifier_ns <= pass_start_ns else Fate.LATE


def acceptance_by_position(anatomies: Sequence[Anatomy]) -> list[tuple[int, int]]:
    """For each position in the window, from the first: tested and accepted tokens."""
    tested: Counter[int] = Counter()
    accepted: Counter[int] = Counter()
    for each in (each for anatomy in anatomies for each in anatomy.passes):
        tested.update(range(count_tested(each.window_tokens, each.accepted_tokens)))
        accepted.update(range(each.accepted_tokens))
    return [(tested[position], accepted[position]) for position in range(max(tested, default=-1) + 1)]


def pass_parts(anatomies: Sequence[Anatomy]) -> dict[str, float]:
    """Where the mean pass's time goes, by part, in nanoseconds; the first pass of a session is left out."""
    passes = [each for anatomy in anatomies for each in anatomy.passes[1:]]
    return {part: sum(getattr(each, part) for each in passes) / max(1, len(passes)) for part in PARTS}


def anatomy_figures(anatomies: Sequence[Anatomy]) -> dict[str, object]:
    """What JSON says of an arm's traces."""
    fates: Counter[str] = Counter()
    for anatomy in anatomies:
        fates.update(anatomy.fates)
    return {
        "sessions": len(anatomies),
        "passes": sum(len(anatomy.passes) for anatomy in anatomies),
        "acceptance_by_position": [
            {"tested": tested, "accepted": accepted} for tested, accepted in acceptance_by_position(anatomies)
        ],
        "mean_pass": pass_parts(anatomies),
        "fates": dict(fates),
    }
