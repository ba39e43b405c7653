"""The settings that drafter and verifier share."""

import os
from typing import Annotated, Literal

from pydantic import Field

from sybil_engine.core.memory import ALLOWED, is_amount
from sybil_engine.core.model_choice import Dtype, ModelChoice
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET
from sybil_engine.settings import Constraint, Port, Settings

MOST_THREADS = 4 * (os.cpu_count() or 1)
"""More than the machine can start would end the process."""

MOST_SESSIONS = 65536
"""Far more than fit into any machine's memory; what fits into this one's shows when the model is loaded."""

LEAST_PREFILL_SHARE, MOST_PREFILL_SHARE = 0.05, 64.0
"""With less prompts would hardly ever be fed; with more streams would stand still."""

LEAST_CONTEXT_TOKENS = 16
"""Holds the tokens of a model's trial, see `sybil_engine.models.trial`."""

DEFAULT_SLOW_READER_S = 60.0


class ServiceSettings(Settings):
    """A process that hosts one model."""

    model: str = Field(description=f"a folder, a hub id, {EMBEDDED_TARGET} or {EMBEDDED_DRAFT}")
    dtype: Dtype = Field(
        default="float32",
        description="of the weights; int8 quantises them, and the output is then the quantised model's own",
    )
    device: str = Field(default="cpu", description="for example cpu, cuda, cuda:1")
    threads: int = Field(
        default=0, ge=0, le=MOST_THREADS, description="processor threads of a pass; 0: all cores but one"
    )
    numerics: Literal["exact", "fast"] = Field(
        default="exact", description="exact: every pass in shapes that agree bit for bit; fast: near ties may flip"
    )
    row_class: int = Field(
        default=0,
        ge=0,
        description="exact: keep the class of pass shapes that holds this many rows; 0: the class that the rule says",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Port = Field(default=0, description="port to listen on; 0: a free one")
    metrics_port: Port = Field(default=0, description="port of the metrics, at /metrics; 0: none")
    max_sessions: int = Field(default=64, ge=1, le=MOST_SESSIONS, description="sessions at the same time")
    cache_memory: Annotated[str, Constraint(ALLOWED, is_amount)] = Field(
        default="25%", description=f"of all keys and values: {ALLOWED}"
    )
    slow_reader_s: float = Field(
        default=DEFAULT_SLOW_READER_S, gt=0, description="seconds that a stream waits for its reader before it ends"
    )
    context_tokens: Annotated[
        int,
        Constraint(
            f"at least {LEAST_CONTEXT_TOKENS}, or 0 for the model's own context",
            lambda tokens: tokens == 0 or tokens >= LEAST_CONTEXT_TOKENS,
        ),
    ] = Field(default=0, description="most tokens of a session")
    prefill_share: float = Field(
        default=1.0,
        ge=LEAST_PREFILL_SHARE,
        le=MOST_PREFILL_SHARE,
        description="prompt fed before each pass of running streams, in multiples of what is fed at once",
    )
    packed: bool = Field(
        default=True, description="keep linear layers packed where nothing is lost by it (x86, float32)"
    )
    traced: bool = Field(
        default=True, description="replay passes instead of running their Python each time (on a processor)"
    )
    emulate_pass_ms: float = Field(
        default=0.0, ge=0, description="make every pass take at least this long, idle meanwhile"
    )
    emulate_row_ms: float = Field(default=0.0, ge=0, description="what each row after the first adds to that")
    emulate_delay_ms: float = Field(
        default=0.0, ge=0, description="hold every message of a session back this long, each way"
    )

    @property
    def choice(self) -> ModelChoice:
        """The weights to load.

        Raises:
            InvalidSettings: the settings name none.
        """
        return ModelChoice(self.model, self.dtype)
