"""The drafter's settings."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from sybil_engine.core.model_choice import ModelChoice, draft_choice
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET, TARGET_ITSELF
from sybil_engine.serving.service_settings import MOST_THREADS, ServiceSettings
from sybil_engine.settings import Port


class DrafterSettings(ServiceSettings):
    """Host the draft model, which guesses ahead."""

    model_config = SettingsConfigDict(env_prefix="SYBIL_DRAFTER_")

    model: str = Field(
        default=EMBEDDED_DRAFT,
        description=f"the draft model: a folder, a hub id, {EMBEDDED_DRAFT}, or {TARGET_ITSELF}; a type may follow, as "
        f"in {TARGET_ITSELF}:int8, which comes before --dtype",
    )
    target: str = Field(
        default=EMBEDDED_TARGET, description=f"the target model, whose weights draft if the model is {TARGET_ITSELF}"
    )
    layers: int = Field(
        default=0, ge=0, description=f"how many of its first layers draft, if the model is {TARGET_ITSELF}; 0: all"
    )
    port: Port = Field(default=50053, description="port to listen on; 0: a free one")
    # A small model gains nothing from more threads; this leaves the other cores to the target.
    threads: int = Field(
        default=1, ge=0, le=MOST_THREADS, description="processor threads of a pass; 0: all cores but one"
    )
    # Output does not depend on the drafter: a draft pass that rounds differently only costs a little acceptance.
    numerics: Literal["exact", "fast"] = Field(
        default="fast", description="exact: every pass in shapes that agree bit for bit"
    )

    @property
    def choice(self) -> ModelChoice:
        """See `ServiceSettings.choice`."""
        return draft_choice(self.model, self.target, self.layers, both=self.dtype)
