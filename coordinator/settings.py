"""Settings of both modes: connect to services that run elsewhere, or place them on this cluster."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from sybil_engine.core.acceptance import LOSSY
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.model_choice import Dtype
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET, NO_DRAFTER, TARGET_ITSELF
from sybil_engine.core.request import HIGHEST_PRIORITY
from sybil_engine.core.session import MOST_DRAFTERS_PER_SESSION
from sybil_engine.core.types import DEFAULT_DRAFTERS, MOST_WINDOW_TOKENS, AcceptanceRule, Speculation
from sybil_engine.serving.service_settings import DEFAULT_SLOW_READER_S
from sybil_engine.settings import MOST_PORT, Constraint, Port, Settings, Split, Words

_LOSSY_NAMES = [rule.value for rule in LOSSY]
_LOSSY = Constraint(f"some of {', '.join(_LOSSY_NAMES)}", lambda rules: set(rules) <= set(LOSSY))


class ServingSettings(Settings):
    """Settings of a coordinator in either mode."""

    host: str = Field(default="127.0.0.1", description="address to listen on for clients")
    port: Port = Field(default=50051, description="port to listen on; 0 picks a free one")
    metrics_port: Port = Field(
        default=0,
        description="port of the metrics, at /metrics; a fleet's further processes take the next ones; 0: none",
    )
    replicas: int = Field(default=1, ge=1, description="coordinator processes that share the port")
    speculation: Speculation = Field(
        default=Speculation.AUTO, description="how to draft ahead, for requests that do not say"
    )
    window_tokens: int = Field(
        default=0,
        ge=0,
        le=MOST_WINDOW_TOKENS,
        description="drafted tokens that one pass judges, for requests that do not say; 0: the policy's own choice",
    )
    default_drafters: Words = Field(
        default=(),
        description="who drafts, for requests that do not say: model, and proposers that need none; none: "
        + ", ".join(DEFAULT_DRAFTERS),
    )
    drafters_per_session: int = Field(
        default=1,
        ge=1,
        le=MOST_DRAFTERS_PER_SESSION,
        description="drafter services that work for one request at once, for requests that do not say",
    )
    max_waiting: int = Field(default=64, ge=0, description="requests that may wait, at each replica")
    max_priority: int = Field(
        default=0, ge=0, le=HIGHEST_PRIORITY, description="the highest priority that a client may ask for"
    )
    allow_lossy: Annotated[tuple[AcceptanceRule, ...], Split, _LOSSY] = Field(
        default=(), description=f"lossy acceptance rules that requests may ask for: {', '.join(_LOSSY_NAMES)}; none"
    )
    slow_reader_s: float = Field(
        default=DEFAULT_SLOW_READER_S, gt=0, description="seconds that a stream waits for its reader before it ends"
    )
    start_s: float = Field(default=300.0, ge=0, description="seconds to wait for the verifiers at start")
    drafter_start_s: float = Field(
        default=10.0, ge=0, description="seconds to wait for a drafter once a verifier is ready"
    )
    reopen_s: float = Field(
        default=30.0, ge=0, description="seconds a request waits for a verifier that is gone to come back"
    )
    grace_s: float = Field(default=10.0, ge=0, description="seconds that running requests may take to end at shutdown")

    @property
    def processes(self) -> tuple[str, ...]:
        """What a fleet's processes are: replicas first, then verifiers, then drafters."""
        return ("coordinator",) * self.replicas

    def process_metrics_port(self, number: int) -> int:
        """The metrics port of a fleet's process, by its place in `processes`; 0: it has none."""
        return self.metrics_port and self.metrics_port + number

    def check_metrics_ports(self) -> None:
        """Check that every process of a fleet can have a metrics port.

        Raises:
            InvalidSettings: there is no port for the last ones.
        """
        if self.process_metrics_port(len(self.processes) - 1) > MOST_PORT:
            raise InvalidSettings(
                f"--metrics-port is {self.metrics_port}, and {len(self.processes)} processes need a port each from "
                f"there on; it must be at most {MOST_PORT + 1 - len(self.processes)}"
            )


class CoordinatorSettings(ServingSettings):
    """Connect to drafters and verifiers that run elsewhere."""

    model_config = SettingsConfigDict(env_prefix="SYBIL_COORDINATOR_")

    drafters: Words = Field(
        default=(), description="host:port of each drafter; none: every request runs without speculation"
    )
    verifiers: Words = Field(default=("127.0.0.1:50052",), description="host:port of each verifier")
    ray: bool = Field(
        default=True, description="run replicas under Ray, which restarts them; otherwise one, in this process"
    )


class PlaceSettings(ServingSettings):
    """Start drafters and verifiers as Ray actors, on this machine or on the cluster at RAY_ADDRESS."""

    target: str = Field(default=EMBEDDED_TARGET, description=f"target model: {EMBEDDED_TARGET}, a folder or a hub id")
    draft: str = Field(
        default=EMBEDDED_DRAFT,
        description=f"draft model: {EMBEDDED_DRAFT}, a folder, a hub id, {TARGET_ITSELF}, or {NO_DRAFTER}; a type may "
        f"follow, as in {TARGET_ITSELF}:int8",
    )
    draft_layers: int = Field(
        default=0, ge=0, description=f"first layers of the target that draft, if the draft is {TARGET_ITSELF}; 0: all"
    )
    dtype: Dtype | None = Field(default=None, description="of both models; left out: each service's own choice")
    draft_dtype: Dtype | None = Field(default=None, description="of the draft model; left out: as --dtype says")
    device: str = Field(default="", description="of both models; empty: each service's own choice")
    verifiers: int = Field(default=1, ge=1, description="verifiers to start")
    drafters: int = Field(default=1, ge=0, description="drafters to start")
    target_threads: int = Field(default=0, ge=0, description="processor threads of a verifier; 0: its own choice")
    draft_threads: int = Field(default=0, ge=0, description="processor threads of a drafter; 0: its own choice")
    target_cpus: float = Field(default=1.0, ge=0, description="processors that Ray reserves for a verifier")
    draft_cpus: float = Field(default=1.0, ge=0, description="processors that Ray reserves for a drafter")
    target_gpus: float = Field(default=0.0, ge=0, description="GPUs that Ray reserves for a verifier")
    draft_gpus: float = Field(default=0.0, ge=0, description="GPUs that Ray reserves for a drafter")
    drafter_arguments: Words = Field(default=(), description="further flags for every drafter")
    verifier_arguments: Words = Field(default=(), description="further flags for every verifier")

    @property
    def processes(self) -> tuple[str, ...]:
        """See `ServingSettings.processes`."""
        drafters = 0 if self.draft == NO_DRAFTER else self.drafters
        return (*super().processes, *("verifier",) * self.verifiers, *("drafter",) * drafters)
