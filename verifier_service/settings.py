"""The verifier's settings."""

from dataclasses import dataclass, field

from sybil_engine.serving.service_settings import ServiceSettings
from sybil_engine.settings import PORT, at_least

PREFIX = "SYBIL_VERIFIER_"


@dataclass(frozen=True)
class VerifierSettings(ServiceSettings):
    """Flags and SYBIL_VERIFIER_... variables."""

    model: str = field(
        default="embedded-target", metadata={"help": "the target model: a folder, a hub id or embedded-target"}
    )
    port: int = field(default=50052, metadata={"help": "port to listen on; 0: a free one", "check": PORT})
    max_window_tokens: int = field(
        default=15, metadata={"help": "drafted tokens that one pass may judge for a session", "check": at_least(0)}
    )
