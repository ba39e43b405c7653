"""The settings that drafter and verifier share."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sybil_engine.settings import PORT, at_least

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True)
class ServiceSettings:
    """A process that hosts one model."""

    model: str = field(metadata={"help": "a folder, a hub id, embedded-target or embedded-draft"})
    dtype: Dtype = field(
        default="float32",
        metadata={"help": "of the weights; int8 quantises them, and the output is then the quantised model's own"},
    )
    device: str = field(default="cpu", metadata={"help": "for example cpu, cuda, cuda:1"})
    threads: int = field(
        default=0, metadata={"help": "processor threads of a pass; 0: all cores but one", "check": at_least(0)}
    )
    numerics: Literal["exact", "fast"] = field(
        default="exact",
        metadata={"help": "exact: every pass in shapes that agree bit for bit; fast: near ties may flip"},
    )
    row_class: int = field(
        default=0,
        metadata={
            "help": "exact: keep the class of pass shapes that holds this many rows; 0: the class that the rule says",
            "check": at_least(0),
        },
    )
    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    port: int = field(default=0, metadata={"help": "port to listen on; 0: a free one", "check": PORT})
    max_sessions: int = field(default=16, metadata={"help": "sessions at the same time", "check": at_least(1)})
    context_tokens: int = field(
        default=0, metadata={"help": "most tokens of a session; 0: the model's context", "check": at_least(0)}
    )
    packed: bool = field(
        default=True, metadata={"help": "keep linear layers packed where nothing is lost by it (x86, float32)"}
    )
    traced: bool = field(
        default=True, metadata={"help": "replay passes instead of running their Python each time (on a processor)"}
    )
    emulate_pass_ms: float = field(
        default=0.0,
        metadata={"help": "make every pass take at least this long, idle meanwhile", "check": at_least(0)},
    )
    emulate_row_ms: float = field(
        default=0.0, metadata={"help": "what each row behind the first adds to that", "check": at_least(0)}
    )
    emulate_delay_ms: float = field(
        default=0.0,
        metadata={"help": "hold every message of a session back this long, each way", "check": at_least(0)},
    )
