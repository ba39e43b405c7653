"""The settings of a benchmark run."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, model_validator
from pydantic_settings import SettingsConfigDict

from benchmarks.arms import ArmKind
from sybil_engine.core.model_choice import Dtype
from sybil_engine.core.types import MOST_WINDOW_TOKENS, Speculation
from sybil_engine.settings import Constraint, Settings, Split, Words

ARMS = tuple(each.value for each in Speculation)
PEERS = ("transformers", "transformers-assisted", "transformers-lookup")
# The dtypes that peers offer.
PEER_DTYPES = ("float32", "bfloat16", "float16")
_MOST_MS = 1_000_000


def _some_of(known: tuple[str, ...]) -> Constraint:
    return Constraint(f"one or more of {', '.join(known)}", lambda names: bool(names) and set(names) <= set(known))


_SOME_ARMS = Constraint(
    f"one or more of {', '.join(ARMS)}, each perhaps with its drafters as in auto@model+lookup, or with several "
    "drafter services as in hedged*2",
    lambda names: bool(names) and all(map(ArmKind.is_known, names)),
)


_A_SWEEP = Constraint(
    "window,temperature, or nothing", lambda names: not names or sorted(names) == ["temperature", "window"]
)
# What a sweep measures, unless told otherwise.
_SWEEP: dict[str, Any] = {
    "arms": ("off", "lockstep@model"),
    "lockstep_windows": (1, 2, 3, 4, 6, 8, 11, 15),
    "temperatures": (0, 0.4, 0.8, 1.0),
    "peers": ("none",),
}


class BenchSettings(Settings):
    """Measure how fast speculation is: every arm and every peer in one run, on the same prompts and seeds."""

    model_config = SettingsConfigDict(env_prefix="SYBIL_BENCH_")

    env: Literal["local", "native", "two-hosts", "emulated", "gpu"] = Field(
        default="native",
        description=(
            "local: the whole engine in one process; native: services on this machine; two-hosts: drafter and verifier "
            "on different cores; emulated: passes and messages of set durations; gpu: both models on a GPU"
        ),
    )
    sweep: Annotated[Words, _A_SWEEP] = Field(
        default=(),
        description=(
            "window,temperature: measure lockstep at every window and temperature, by category of prompts; arms, "
            "windows, temperatures and peers that are not named are chosen for it"
        ),
    )
    arms: Annotated[Words, _SOME_ARMS] = Field(
        default=ARMS,
        description="speculation to measure; auto@model+lookup names drafters, hedged*2 asks for two services",
    )
    lockstep_windows: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MOST_WINDOW_TOKENS)], ...],
        *(Split, Constraint(f"whole numbers from 1 to {MOST_WINDOW_TOKENS}", bool)),
    ] = Field(default=(3, 5, 7), description="windows of the lockstep arm, in tokens; the fastest stands for it")
    peers: Annotated[Words | None, _some_of((*PEERS, "none"))] = Field(
        default=None, description="others to measure beside them, or none; left out: all, but for --env emulated"
    )
    peer_dtypes: Annotated[Words, _some_of(PEER_DTYPES)] = Field(
        default=("float32", "bfloat16"), description="weights' types that the search for a peer's best setting tries"
    )
    preset: Literal["embedded", "gpt2"] | None = Field(default=None, description="a pair of models; left out: embedded")
    target: str = Field(default="", description="instead of the preset's: a folder or a hub id")
    draft: str = Field(
        default="",
        description="instead of the preset's: a folder, a hub id, target or none; a type may follow, as in target:int8",
    )
    draft_layers: int = Field(
        default=0, ge=0, description="--draft target: how many of the target's first layers draft; 0: all"
    )
    grow_target: str = Field(default="", description="enlarge the target to this size, such as 350M; the results stay")
    grow_draft: str = Field(default="", description="the same for the draft model, for example 25M")
    dtype: Dtype = Field(default="float32", description="of the target's weights")
    draft_dtype: Dtype | None = Field(
        default=None, description="of the draft model's weights; left out: as --draft says, or the target's"
    )
    numerics: Literal["exact", "fast"] = Field(default="exact", description="the verifier's; fast: tokens may differ")
    draft_device: Literal["cuda", "cpu"] = Field(default="cuda", description="--env gpu: where the draft model runs")
    verify_ms: float = Field(default=30, ge=0.001, le=_MOST_MS, description="--env emulated: length of a verify pass")
    draft_ms: float = Field(default=3, ge=0.001, le=_MOST_MS, description="--env emulated: length of a draft pass")
    rtt_ms: float = Field(default=1, ge=0, le=_MOST_MS, description="--env emulated: round trip drafter to verifier")
    row_ms: float = Field(default=0, ge=0, le=_MOST_MS, description="--env emulated: what a further row adds to a pass")
    verifier_arguments: Words = Field(default=(), description="further flags for the verifier")
    drafter_arguments: Words = Field(default=(), description="further flags for the drafter")
    window: int = Field(
        default=0, ge=0, le=MOST_WINDOW_TOKENS, description="most tokens of a window, but lockstep's; 0: automatic"
    )
    prompts: str = Field(default="", description="JSON lines with a prompt and perhaps a category; empty: built-in")
    count: int = Field(default=12, ge=1, description="prompts to use, a category at a time")
    max_tokens: int = Field(default=128, ge=1, description="tokens to generate for each")
    temperatures: Annotated[tuple[NonNegativeFloat, ...], Split, Constraint("numbers from 0 on", bool)] = Field(
        default=(0, 0.8), description="each measured apart"
    )
    repeat: int = Field(default=1, ge=1, description="runs of each prompt, with a seed each")

    @model_validator(mode="before")
    @classmethod
    def _choose_for_a_sweep(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {**_SWEEP, **given} if given.get("sweep") else given

    json_file: str = Field(default="", alias="json", description="file to write every figure to")
    report: str = Field(default="", description="folder to write plots and a page to")
