"""The verifier's settings."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from sybil_engine.core.memory import ALLOWED, is_amount
from sybil_engine.core.references import EMBEDDED_TARGET
from sybil_engine.serving.service_settings import MOST_THREADS, ServiceSettings
from sybil_engine.settings import Constraint, Port


class VerifierSettings(ServiceSettings):
    """Host the target model, which has the last word."""

    model_config = SettingsConfigDict(env_prefix="SYBIL_VERIFIER_")

    model: str = Field(
        default=EMBEDDED_TARGET, description=f"the target model: a folder, a hub id or {EMBEDDED_TARGET}"
    )
    port: Port = Field(default=50052, description="port to listen on; 0: a free one")
    alone_threads: int = Field(
        default=0,
        ge=0,
        le=MOST_THREADS,
        description="threads of a pass while no drafter works; 0: as many as at any time",
    )
    suffix_memory: Annotated[str, Constraint(f"{ALLOWED}, or 0", lambda text: text == "0" or is_amount(text))] = Field(
        default="0",
        description="what the drafter `suffix` may keep of earlier completions, each tenant's apart; 0: nothing",
    )
    max_window_tokens: int = Field(default=15, ge=0, description="drafted tokens that one pass may judge for a session")
