"""What a verifier and a drafter learn over all their sessions."""

from dataclasses import dataclass, field

from drafter_service.calibration import Calibration
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.proposers.proposer import ServiceKind
from sybil_engine.proposers.registry import Registry
from verifier_service.policy.choice import Choice
from verifier_service.policy.load import Load, SharedPass
from verifier_service.policy.pace import Pace


@dataclass(eq=False)
class Experience:
    """What one verifier and one drafter have learned since they started; every session adds to it.

    Attributes:
        pass_times: of verify passes during which the drafter works ahead.
        alone_times: of the other verify passes.
        draft_times: of draft passes.
        calibrations: what certainty means, by whether tokens are drawn without noise.
        shares_processor: whether drafting takes time from verify passes.
        load: of the verifier.
        registry, draft_registry: the proposers of verifier and drafter.
        choice: the comparisons of adaptive sessions.
    """

    pass_times: PassTimes = field(default_factory=PassTimes)
    alone_times: PassTimes = field(default_factory=PassTimes)
    draft_times: PassTimes = field(default_factory=PassTimes)
    calibrations: dict[bool, Calibration] = field(default_factory=lambda: {False: Calibration(), True: Calibration()})
    shares_processor: bool = False
    load: Load = field(default_factory=Load)
    registry: Registry = field(default_factory=lambda: Registry(ServiceKind.VERIFIER))
    draft_registry: Registry = field(default_factory=lambda: Registry(ServiceKind.DRAFTER))
    choice: Choice = field(init=False)

    def __post_init__(self) -> None:
        self.choice = Choice(
            shares_processor=self.shares_processor,
            pass_times=self.pass_times,
            alone_times=self.alone_times,
            load=self.load,
        )

    def pace(self) -> Pace:
        """Of a new session."""
        return Pace(self.pass_times, self.alone_times, self.load, shares_processor=self.shares_processor)

    def saw(self, shared: SharedPass, adaptive: int) -> None:
        """Learn from a pass what all sessions did; see `Choice.saw`."""
        self.load.saw(shared)
        self.choice.saw(shared, adaptive)
