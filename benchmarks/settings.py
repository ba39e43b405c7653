"""What a benchmark run measures."""

from dataclasses import dataclass, field
from typing import Literal

from sybil_engine.settings import Check, at_least

ARMS = ("off", "lockstep", "pipelined")
PEERS = ("transformers", "transformers-assisted", "transformers-lookup")


@dataclass(frozen=True)
class BenchSettings:
    """Flags of `python -m benchmarks`, and SYBIL_BENCH_... variables."""

    arms: tuple[str, ...] = field(
        default=ARMS,
        metadata={
            "help": f"speculation policies to measure, of {', '.join(ARMS)}",
            "check": Check(f"one or more of {', '.join(ARMS)}", lambda arms: bool(arms) and set(arms) <= set(ARMS)),
        },
    )
    peers: tuple[str, ...] = field(
        default=PEERS,
        metadata={
            "help": f"others to measure beside them, of {', '.join(PEERS)}; none to measure our arms alone",
            "check": Check(f"some of {', '.join(PEERS)}, or none", lambda peers: set(peers) <= {*PEERS, "none"}),
        },
    )
    target: str = field(
        default="embedded-target", metadata={"help": "target model: a folder, a hub id, embedded-target"}
    )
    draft: str = field(default="embedded-draft", metadata={"help": "draft model: a folder, a hub id, embedded-draft"})
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata={"help": "of both models, everywhere"})
    target_threads: int = field(default=0, metadata={"help": "0: the verifier's default", "check": at_least(0)})
    draft_threads: int = field(default=0, metadata={"help": "0: the drafter's default", "check": at_least(0)})
    window: int = field(default=0, metadata={"help": "most drafted tokens of a pass; 0: each arm's own choice"})
    prompts: int = field(default=12, metadata={"help": "built-in prompts, a category at a time", "check": at_least(1)})
    max_tokens: int = field(default=128, metadata={"help": "tokens to generate for each", "check": at_least(1)})
    temperatures: tuple[str, ...] = field(default=("0", "0.8"), metadata={"help": "each measured apart"})
    repeat: int = field(default=1, metadata={"help": "runs of each prompt", "check": at_least(1)})
    json: str = field(default="", metadata={"help": "file to write every figure to"})
