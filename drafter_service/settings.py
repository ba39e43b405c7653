"""The drafter's settings."""

from dataclasses import dataclass, field
from typing import Literal

from sybil_engine.serving.service_settings import ServiceSettings
from sybil_engine.settings import PORT, at_least

PREFIX = "SYBIL_DRAFTER_"


@dataclass(frozen=True)
class DrafterSettings(ServiceSettings):
    """Flags and SYBIL_DRAFTER_... variables."""

    model: str = field(
        default="embedded-draft", metadata={"help": "the draft model: a folder, a hub id or embedded-draft"}
    )
    port: int = field(default=50053, metadata={"help": "port to listen on; 0: a free one", "check": PORT})
    # A small model gains nothing from more threads, and leaves the other cores to the target.
    threads: int = field(
        default=1, metadata={"help": "processor threads of a pass; 0: all cores but one", "check": at_least(0)}
    )
    # The target has the last word: what a draft pass rounds differently costs at most a little acceptance.
    numerics: Literal["exact", "fast"] = field(
        default="fast", metadata={"help": "exact: every pass in shapes that agree bit for bit"}
    )
