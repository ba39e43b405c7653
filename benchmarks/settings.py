"""What can be set for a benchmark run."""

from dataclasses import dataclass, field
from typing import Literal

from sybil_engine.core.types import MOST_WINDOW_TOKENS, Speculation
from sybil_engine.serving.service_settings import Dtype
from sybil_engine.settings import Check, at_least, between

PREFIX = "SYBIL_BENCH_"
ARMS = tuple(each.value for each in Speculation)
PEERS = ("transformers", "transformers-assisted", "transformers-lookup")
# In which peers compute.
PEER_DTYPES = ("float32", "bfloat16", "float16")


def _some_of(known: tuple[str, ...]) -> Check:
    return Check(f"one or more of {', '.join(known)}", lambda names: bool(names) and set(names) <= set(known))


def _positive_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _temperature(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


_MOST_MS = 1e6
_ABOVE_0 = Check(f"above 0, and at most {_MOST_MS:,.0f}", lambda value: bool(0 < value <= _MOST_MS))
_FROM_0 = Check(f"at least 0, and at most {_MOST_MS:,.0f}", lambda value: bool(0 <= value <= _MOST_MS))


@dataclass(frozen=True)
class BenchSettings:
    """Measure how fast speculation is: every arm and every peer in one run, on the same prompts and seeds."""

    env: Literal["native", "two-hosts", "emulated", "gpu"] = field(
        default="native",
        metadata={
            "help": "native: this machine; two-hosts: drafter and verifier on different cores; emulated: passes and "
            "messages of set durations; gpu: both models on a GPU"
        },
    )
    arms: tuple[str, ...] = field(default=ARMS, metadata={"help": "speculation to measure", "check": _some_of(ARMS)})
    lockstep_windows: tuple[str, ...] = field(
        default=("3", "5", "7"),
        metadata={
            "help": "windows of the lockstep arm, in tokens; the fastest one is reported as lockstep",
            "check": Check(
                f"whole numbers from 1 to {MOST_WINDOW_TOKENS}",
                lambda each: all(_positive_whole(one) and int(one) <= MOST_WINDOW_TOKENS for one in each),
            ),
        },
    )
    peers: tuple[str, ...] | None = field(
        default=None,
        metadata={
            "help": "others to measure beside them, or none; left out: all, but for --env emulated",
            "check": _some_of((*PEERS, "none")),
        },
    )
    peer_dtypes: tuple[str, ...] = field(
        default=("float32", "bfloat16"),
        metadata={
            "help": "weights' types that the search for a peer's best setting tries",
            "check": _some_of(PEER_DTYPES),
        },
    )
    preset: Literal["embedded", "gpt2"] | None = field(
        default=None, metadata={"help": "a pair of models by name, embedded if none is named"}
    )
    target: str = field(default="", metadata={"help": "instead of the preset's: a folder or a hub id"})
    draft: str = field(default="", metadata={"help": "instead of the preset's: a folder, a hub id, or none"})
    grow_target: str = field(
        default="", metadata={"help": "enlarge the target to so many parameters, for example 350M, same results"}
    )
    grow_draft: str = field(default="", metadata={"help": "the same for the draft model, for example 25M"})
    dtype: Dtype = field(default="float32", metadata={"help": "of the target's weights"})
    draft_dtype: Dtype | None = field(default=None, metadata={"help": "of the draft model's; left out: the target's"})
    numerics: Literal["exact", "fast"] = field(
        default="exact", metadata={"help": "the verifier's; fast: differences are counted with their margins"}
    )
    target_threads: int = field(default=0, metadata={"help": "0: the environment's choice", "check": at_least(0)})
    draft_threads: int = field(default=0, metadata={"help": "0: the environment's choice", "check": at_least(0)})
    draft_device: Literal["cuda", "cpu"] = field(
        default="cuda", metadata={"help": "where the draft model runs under --env gpu"}
    )
    verify_ms: float | None = field(
        default=None, metadata={"help": "--env emulated: length of a verify pass, 30 if left out", "check": _ABOVE_0}
    )
    draft_ms: float | None = field(
        default=None, metadata={"help": "--env emulated: length of a draft pass, 3 if left out", "check": _ABOVE_0}
    )
    rtt_ms: float | None = field(
        default=None,
        metadata={
            "help": "--env emulated: round trip between drafter and verifier, 1 if left out",
            "check": _FROM_0,
        },
    )
    row_ms: float | None = field(
        default=None,
        metadata={
            "help": "--env emulated: what a verify pass's rows behind its first add, each; 0 if left out",
            "check": _FROM_0,
        },
    )
    verifier_arguments: tuple[str, ...] = field(default=(), metadata={"help": "further flags for the verifier"})
    drafter_arguments: tuple[str, ...] = field(default=(), metadata={"help": "further flags for the drafter"})
    window: int = field(
        default=0,
        metadata={
            "help": "most drafted tokens of a pass but for lockstep; 0: each arm's own",
            "check": between(0, MOST_WINDOW_TOKENS),
        },
    )
    prompts: str = field(
        default="", metadata={"help": "JSON lines, each with a prompt and perhaps a category; empty: built-in prompts"}
    )
    count: int = field(default=12, metadata={"help": "prompts to use, a category at a time", "check": at_least(1)})
    max_tokens: int = field(default=128, metadata={"help": "tokens to generate for each", "check": at_least(1)})
    temperatures: tuple[str, ...] = field(
        default=("0", "0.8"),
        metadata={
            "help": "each measured apart",
            "check": Check("numbers from 0 on", lambda each: bool(each) and all(_temperature(one) for one in each)),
        },
    )
    repeat: int = field(default=1, metadata={"help": "runs of each prompt, with a seed each", "check": at_least(1)})
    json: str = field(default="", metadata={"help": "file to write every figure to"})
    report: str = field(default="", metadata={"help": "folder to write plots and a page to"})
