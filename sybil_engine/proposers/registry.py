"""The proposers that a service offers, by name: those of this package, and those that other packages bring."""

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import entry_points

from sybil_engine.core.draft_tree import DraftTree
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.session import SessionOpen
from sybil_engine.proposers.aside import Aside, ProposerThread
from sybil_engine.proposers.asked import Asked, Failure, FailureCounts
from sybil_engine.proposers.ensemble import Ensemble
from sybil_engine.proposers.evidence import EvidenceTable
from sybil_engine.proposers.forced import Forced
from sybil_engine.proposers.lookup import Lookup
from sybil_engine.proposers.prediction import Prediction
from sybil_engine.proposers.proposer import EVERYWHERE, Proposer, ServiceKind
from sybil_engine.proposers.suffix import Suffix
from sybil_engine.proposers.suffix_memory import SuffixMemory

logger = logging.getLogger(__name__)

ENTRY_POINTS = "sybil_engine.proposers"
"""The group of entry points by which another package brings a proposer: its name, and its class."""

MakeProposer = Callable[[SessionOpen], Proposer]


class Registry:
    """What a service offers to its sessions.

    Args:
        place: the service that it belongs to.
        suffix_memory_bytes: what `suffix` may keep of earlier sessions' outputs; 0: nothing.

    Attributes:
        failures: what proposers did wrong.
    """

    def __init__(self, place: ServiceKind, suffix_memory_bytes: int = 0) -> None:
        own: dict[str, MakeProposer] = {
            "lookup": lambda opening: Lookup(),
            "suffix": SuffixMemory(suffix_memory_bytes).open if suffix_memory_bytes else lambda opening: Suffix(),
            "prediction": Prediction,
            "forced": lambda opening: Forced(),
        }
        self._makers = own | _brought(place) if place is ServiceKind.VERIFIER else _brought(place)
        # By name, and by whether tokens are drawn without noise.
        self._tables: dict[tuple[str, bool], EvidenceTable] = {}
        self.failures: FailureCounts = FailureCounts()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that it offers."""
        return tuple(self._makers)

    def ensemble(
        self,
        opening: SessionOpen,
        names: Sequence[str],
        ledger: Ledger,
        tree: DraftTree,
        noise: NoiseTape,
        vocabulary_size: int,
    ) -> Ensemble:
        """Those of these names that are offered here, for one session."""
        greedy = opening.sampling.greedy
        asked = []
        for name in dict.fromkeys(names):
            if name not in self._makers:
                continue
            try:
                proposer = self._makers[name](opening)
            except Exception:
                logger.exception("the proposer %s cannot be made", name)
                self.failures[name, Failure.RAISED] += 1
                continue
            table = self._tables.setdefault((name, greedy), EvidenceTable())
            asked.append(Asked(name, proposer, table, vocabulary_size, self.failures))
        return Ensemble(asked, ledger, tree, None if greedy else noise)


@cache
def _brought(place: ServiceKind) -> dict[str, MakeProposer]:
    """Proposers of other packages, each kind on a thread of its own."""
    makers: dict[str, MakeProposer] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            kind = entry.load()
        except Exception:
            logger.exception("the proposer %s of %s cannot be loaded", entry.name, entry.value)
            continue
        places = getattr(kind, "places", EVERYWHERE)
        if place in places and (place is ServiceKind.VERIFIER or ServiceKind.VERIFIER not in places):
            makers[entry.name] = partial(Aside, kind, ProposerThread())
    return makers
