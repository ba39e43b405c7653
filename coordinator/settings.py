"""What can be set, in both modes: connect to services that run elsewhere, or place them on this cluster."""

from dataclasses import dataclass, field

from sybil_engine.core.types import MOST_WINDOW_TOKENS, Speculation
from sybil_engine.serving.service_settings import Dtype
from sybil_engine.settings import PORT, at_least, between


@dataclass(frozen=True)
class ServingSettings:
    """What a coordinator needs to know in either mode."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on for clients"})
    port: int = field(default=50051, metadata={"help": "port to listen on; 0 picks a free one", "check": PORT})
    replicas: int = field(
        default=1, metadata={"help": "coordinator processes that share the port", "check": at_least(1)}
    )
    speculation: Speculation = field(
        default=Speculation.AUTO, metadata={"help": "who drafts ahead, for requests that do not say"}
    )
    window_tokens: int = field(
        default=0,
        metadata={
            "help": "drafted tokens that one pass judges, for requests that do not say; 0: the policy's own choice",
            "check": between(0, MOST_WINDOW_TOKENS),
        },
    )
    max_waiting: int = field(
        default=64, metadata={"help": "requests that may wait for a free verifier slot", "check": at_least(0)}
    )
    start_s: float = field(
        default=300.0, metadata={"help": "seconds to wait for the verifiers at start", "check": at_least(0)}
    )
    drafter_start_s: float = field(
        default=10.0,
        metadata={"help": "seconds to wait for a drafter once a verifier is ready", "check": at_least(0)},
    )
    reopen_s: float = field(
        default=30.0,
        metadata={"help": "seconds a request waits for a verifier that is gone to come back", "check": at_least(0)},
    )
    grace_s: float = field(
        default=10.0,
        metadata={"help": "seconds that running requests may take to end at shutdown", "check": at_least(0)},
    )


@dataclass(frozen=True)
class CoordinatorSettings(ServingSettings):
    """Connect to drafters and verifiers that run elsewhere."""

    drafters: tuple[str, ...] = field(
        default=(), metadata={"help": "host:port of each drafter; none: every request runs without speculation"}
    )
    verifiers: tuple[str, ...] = field(default=("127.0.0.1:50052",), metadata={"help": "host:port of each verifier"})
    ray: bool = field(
        default=True, metadata={"help": "run replicas under Ray, which restarts them; otherwise one, in this process"}
    )


@dataclass(frozen=True)
class PlaceSettings(ServingSettings):
    """Start drafters and verifiers as Ray actors, on this machine or on the cluster at RAY_ADDRESS."""

    target: str = field(
        default="embedded-target", metadata={"help": "target model: embedded-target, a folder or a hub id"}
    )
    draft: str = field(
        default="embedded-draft", metadata={"help": "draft model: embedded-draft, a folder, a hub id, or none"}
    )
    dtype: Dtype | None = field(default=None, metadata={"help": "of both models; left out: each service's own choice"})
    draft_dtype: Dtype | None = field(default=None, metadata={"help": "of the draft model; left out: as --dtype says"})
    device: str = field(default="", metadata={"help": "of both models; empty: each service's own choice"})
    verifiers: int = field(default=1, metadata={"help": "verifiers to start", "check": at_least(1)})
    drafters: int = field(default=1, metadata={"help": "drafters to start", "check": at_least(0)})
    target_threads: int = field(
        default=0, metadata={"help": "processor threads of a verifier; 0: its own choice", "check": at_least(0)}
    )
    draft_threads: int = field(
        default=0, metadata={"help": "processor threads of a drafter; 0: its own choice", "check": at_least(0)}
    )
    target_cpus: float = field(
        default=1.0, metadata={"help": "processors that Ray reserves for a verifier", "check": at_least(0)}
    )
    draft_cpus: float = field(
        default=1.0, metadata={"help": "processors that Ray reserves for a drafter", "check": at_least(0)}
    )
    target_gpus: float = field(
        default=0.0, metadata={"help": "GPUs that Ray reserves for a verifier", "check": at_least(0)}
    )
    draft_gpus: float = field(
        default=0.0, metadata={"help": "GPUs that Ray reserves for a drafter", "check": at_least(0)}
    )
    drafter_arguments: tuple[str, ...] = field(default=(), metadata={"help": "further flags for every drafter"})
    verifier_arguments: tuple[str, ...] = field(default=(), metadata={"help": "further flags for every verifier"})
