"""How a traced session spent its time, and what became of its drafts.

There is one clock, the coordinator's. The time of a pass is computed from the arrival of its commit, minus the time on
the wire, and from the durations that the verifier reports; the time of a draft pass likewise from its block. So figures
of single passes are estimates, accurate to about a wire's delay.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.trace import BlockEvent, CommitEvent, SessionTrace
from sybil_engine.core.ledger import Ledger, extend_fingerprint
from sybil_engine.core.session import count_tested
from sybil_engine.core.types import BlockOrigin, TokenOrigin


class Fate(StrEnum):
    """What became of a drafted token."""

    ACCEPTED = "accepted"  # the target drew the same
    REJECTED = "rejected"  # the target drew another one at its position
    STALE = "stale"  # it was drafted after a token that was rejected
    LATE = "late"  # the pass for its position had already begun, or the session had ended


@dataclass(frozen=True, slots=True)
class DraftedToken:
    """One drafted token from its draft pass to the verifier; times by the coordinator's clock."""

    fate: Fate
    origin: BlockOrigin
    start_ns: int
    end_ns: int
    at_verifier_ns: int | None


@dataclass(frozen=True, slots=True)
class VerifyPass:
    """One pass of the session, and the wait before it.

    Attributes:
        draft_wait_ns: waited while the drafts it judged were still being drafted.
        wire_ns: waited while they, or the commit they follow, were on the wire.
        queue_ns: the rest of the wait: other sessions' passes, and the engine itself.
    """

    start_ns: int
    end_ns: int
    judged: int
    accepted: int
    draft_wait_ns: int
    wire_ns: int
    queue_ns: int
    forward_ns: int
    sampling_ns: int


PARTS = ("queue_ns", "draft_wait_ns", "wire_ns", "forward_ns", "sampling_ns")


class Anatomy:
    """One trace, taken apart.

    Attributes:
        passes: every pass, in order.
        drafted: every drafted token, in the order in which they arrived.
    """

    def __init__(self, trace: SessionTrace) -> None:
        self.trace = trace
        self._ledger = Ledger(trace.task.prompt, len(trace.task.prompt))
        # By position: when the pass that committed the token began, and the token's origin.
        self._committed: dict[int, tuple[int, TokenOrigin]] = {}
        for event in trace.commits:
            start = len(self._ledger)
            fresh = self._ledger.append(event.commit)
            for position, token in enumerate(event.commit.tokens[len(event.commit.tokens) - fresh :], start):
                self._committed[position] = (self._pass_start_ns(event), token.origin)
        # By fingerprint: the token drafted after it, and that token's block.
        self._children: dict[int, list[tuple[int, BlockEvent]]] = defaultdict(list)
        self.drafted = [token for event in trace.blocks for token in self._tokens(event)]
        self.passes = [self._pass(event) for event in trace.commits]

    def _pass(self, event: CommitEvent) -> VerifyPass:
        commit, timings = event.commit, event.commit.timings
        start_ns, wait_ns = self._pass_start_ns(event), timings.wait_ns
        last = self._last_judged(commit.prefix_fingerprint, commit.judged, start_ns)
        draft_wait_ns, wire_ns = self._waited(last, start_ns, wait_ns)
        return VerifyPass(
            start_ns=start_ns,
            end_ns=event.arrived_ns - self.trace.verifier_wire_ns,
            judged=commit.judged,
            accepted=commit.accepted,
            draft_wait_ns=draft_wait_ns,
            wire_ns=wire_ns,
            queue_ns=wait_ns - draft_wait_ns - wire_ns,
            forward_ns=timings.forward_ns,
            sampling_ns=timings.sampling_ns,
        )

    def _pass_start_ns(self, event: CommitEvent) -> int:
        timings = event.commit.timings
        return event.arrived_ns - self.trace.verifier_wire_ns - timings.sampling_ns - timings.forward_ns

    def _waited(self, last: BlockEvent | None, start_ns: int, wait_ns: int) -> tuple[int, int]:
        """How long a pass waited for drafts, and for messages.

        Args:
            last: the block that arrived last of those that it judged.
        """
        if wait_ns <= 0 or not self.trace.blocks:
            return 0, 0
        if last is None or last.offered_ns is None:
            # It waited for a draft that came too late.
            return wait_ns, 0
        free_ns = start_ns - wait_ns
        missing_ns = min(max(0, last.offered_ns + self.trace.verifier_wire_ns - free_ns), wait_ns)
        draft_start_ns = last.arrived_ns - self.trace.drafter_wire_ns - last.block.draft_ns
        one_way_ns = self.trace.verifier_wire_ns + self.trace.drafter_wire_ns
        # Drafting that starts with a commit also waits for the commit's message.
        wire_ns = min(missing_ns, one_way_ns if draft_start_ns < free_ns else 2 * one_way_ns)
        return missing_ns - wire_ns, wire_ns

    def _last_judged(self, fingerprint: int, judged: int, start_ns: int) -> BlockEvent | None:
        """The block that arrived last of those that a pass judged; None if it judged none."""
        used = []
        for _ in range(judged):
            there = [
                (child, event)
                for child, event in self._children.get(fingerprint, ())
                if event.offered_ns is not None and event.offered_ns <= start_ns
            ]
            if not there:
                break
            fingerprint, event = max(there, key=lambda pair: pair[1].block.origin is BlockOrigin.TRUNK)
            used.append(event)
        return max(used, key=lambda event: event.offered_ns or 0, default=None)

    def _tokens(self, event: BlockEvent) -> Iterator[DraftedToken]:
        """A block's tokens; its draft time is divided among them."""
        block = event.block
        each_ns = block.draft_ns // max(1, len(block.token_ids))
        end_ns = event.arrived_ns - self.trace.drafter_wire_ns - each_ns * len(block.token_ids)
        at_verifier_ns = None if event.offered_ns is None else event.offered_ns + self.trace.verifier_wire_ns
        fingerprint = block.prefix_fingerprint
        for position, token_id in enumerate(block.token_ids, block.position):
            start_ns, end_ns = end_ns, end_ns + each_ns
            fate = self._fate(position, fingerprint, token_id, at_verifier_ns)
            yield DraftedToken(fate, block.origin, start_ns, end_ns, at_verifier_ns)
            child = extend_fingerprint(fingerprint, token_id)
            self._children[fingerprint].append((child, event))
            fingerprint = child

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
        tested.update(range(count_tested(each.judged, each.accepted)))
        accepted.update(range(each.accepted))
    return [(tested[position], accepted[position]) for position in range(len(tested))]


def pass_parts(anatomies: Sequence[Anatomy]) -> dict[str, float]:
    """Where the mean pass's time goes, by part, in nanoseconds; first passes, which hold the prefill, are left out."""
    passes = [each for anatomy in anatomies for each in anatomy.passes[1:]]
    return {part: sum(getattr(each, part) for each in passes) / max(1, len(passes)) for part in PARTS}


def anatomy_figures(anatomies: Sequence[Anatomy]) -> dict[str, object]:
    """What JSON says of an arm's traces."""
    by_position = acceptance_by_position(anatomies)
    fates = Counter(token.fate for anatomy in anatomies for token in anatomy.drafted)
    return {
        "passes": sum(len(anatomy.passes) for anatomy in anatomies),
        "acceptance_by_position": [{"tested": tested, "accepted": accepted} for tested, accepted in by_position],
        "mean_pass": pass_parts(anatomies),
        "fates": {fate: fates[fate] for fate in Fate},
    }
