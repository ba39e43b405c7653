"""The settings of a load test."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import SettingsConfigDict

from loadtest.level import Level, rotated
from loadtest.segment import Segment
from loadtest.slo import Slo
from loadtest.workload import FILE_PROMPT_EXAMPLE, KINDS, FilePrompt, Workload
from reporting.outputs import check_file, check_report_folder
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.types import Speculation
from sybil_engine.prompts import read_prompt_lines
from sybil_engine.settings import Constraint, Settings, Split, Words

_ARMS = tuple(each.value for each in Speculation)
_MOST = 1_000_000
_LEAST_COMPARED = 8


def _range(raw: Any) -> Any:
    """`100-200` as its ends, and `150` as both."""
    if not isinstance(raw, str):
        return raw
    least, dash, most = raw.partition("-")
    return (least, most) if dash else (least, least)


_Tokens = Annotated[
    tuple[int, int] | None,
    BeforeValidator(_range),
    Constraint("a number of tokens, or a range such as 100-200", lambda ends: 1 <= ends[0] <= ends[1] <= _MOST),
]
_Users = Annotated[
    tuple[int, ...],
    Split,
    Constraint("numbers of users such as 1,4,16", lambda users: users and all(1 <= each <= 10_000 for each in users)),
]
_Rates = Annotated[
    tuple[float, ...],
    Split,
    Constraint("requests a second, above 0 and at most 10000", lambda rates: all(0 < rate <= 10_000 for rate in rates)),
]
_Arms = Annotated[
    Words, Constraint(f"one or more of {', '.join(_ARMS)}", lambda names: names and set(names) <= set(_ARMS))
]


class LoadtestSettings(Settings):
    """Put a running stack under load: arms interleaved, on the same prompts and seeds."""

    model_config = SettingsConfigDict(env_prefix="SYBIL_LOADTEST_")

    address: str = Field(default="127.0.0.1:50051", description="host:port of a coordinator; also SYBIL_ADDRESS")
    concurrency: _Users = Field(default=(1, 4, 16), description="closed loop: users at once")
    rate: _Rates = Field(default=(), description="open loop instead: requests a second, at random (Poisson) times")
    arms: _Arms = Field(default=("off", "lockstep", "auto"), description="speculation; the first is the measure")
    rounds: int = Field(default=3, ge=1, le=_MOST, description="runs of every arm at each level, in turn")
    requests: int | None = Field(default=None, ge=1, le=_MOST, description="of each run; left out: as --duration-s")
    duration_s: float = Field(default=10, ge=0.1, le=_MOST, description="seconds that each run sends for")
    ramp_s: float = Field(default=0, ge=0, le=_MOST, description="of each run: seconds to full load; not counted")
    prompts: Words = Field(default=("code",), description=f"kinds to mix ({', '.join(KINDS)}), or a JSONL file")
    prompt_tokens: _Tokens = Field(default=None, description="150 or 100-200; left out: as the kind has")
    max_tokens: _Tokens = Field(default=None, description="to generate; left out: as the kind has")
    ignore_end: bool = Field(default=True, description="generate past the model's end, so that lengths are as asked")
    shared_prefix: int = Field(default=0, ge=0, le=_MOST, description="tokens that prompts share, before their own")
    shared_share: float = Field(default=1, ge=0, le=1, description="share of the prompts that begin with them")
    temperature: float = Field(default=0, ge=0, le=100, description="0 is greedy")
    seed: int = Field(default=0, ge=0, le=2**32, description="of prompts, seeds and times")
    deadline_s: float | None = Field(default=None, ge=0.001, le=_MOST, description="of a request; left out: none")
    cancel: float = Field(default=0, ge=0, le=1, description="share of the clients that leave part-way")
    compare: int | None = Field(
        default=None, ge=0, le=_MOST, description="requests to compare tokens of; left out: one a user, at least 8"
    )
    slo: str = Field(default="", description="limits of a good request, such as ttft=1s,tpot=50ms")
    processes: int | None = Field(default=None, ge=1, le=256, description="of the client; left out: as needed")
    json_file: str = Field(default="", alias="json", description="file to write every figure to")
    report: str = Field(default="", description="folder to write plots and a page to")

    def checked(self) -> "LoadtestSettings":
        """The same, once everything that needs no server is known to work.

        Raises:
            InvalidSettings: values do not go together, or a limit, a file or a folder cannot be used.
        """
        self.limits()
        self.workload()
        if self.ramp_s >= self.duration_s and self.requests is None:
            raise InvalidSettings(
                f"--ramp-s {self.ramp_s:g} leaves nothing to measure of --duration-s {self.duration_s:g}; shorten it"
            )
        most_users = 0 if self.rate else max(self.concurrency)
        if self.requests is not None and self.requests < most_users:
            raise InvalidSettings(
                f"--requests {self.requests} is fewer than {most_users} users need; ask for at least one a user"
            )
        if self.json_file:
            check_file(Path(self.json_file), "--json")
        if self.report:
            check_report_folder(Path(self.report), "--report")
        return self

    def limits(self) -> Slo | None:
        return Slo.parse(self.slo) if self.slo else None

    def workload(self) -> Workload:
        """What is asked.

        Raises:
            InvalidSettings: prompts are neither kinds nor one file of prompts.
        """
        kinds = set(self.prompts) <= set(KINDS)
        if not self.prompts or (not kinds and len(self.prompts) > 1):
            raise InvalidSettings(
                f"--prompts is {','.join(self.prompts)!r}; give kinds ({', '.join(KINDS)}) or one JSONL file"
            )
        return Workload(
            kinds=self.prompts if kinds else (),
            lines=() if kinds else read_prompt_lines(Path(self.prompts[0]), FilePrompt, FILE_PROMPT_EXAMPLE),
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            shared_prefix_tokens=self.shared_prefix,
            shared_share=self.shared_share if self.shared_prefix else 0.0,
            temperature=self.temperature,
            seed=self.seed,
            ignore_end=self.ignore_end,
        )

    def levels(self) -> list[Level]:
        """Every load, once, from the lowest on."""
        if self.rate:
            return [Level(rate=rate) for rate in sorted(set(self.rate))]
        return [Level(concurrency=users) for users in sorted(set(self.concurrency))]

    def segments(self, workload: Workload) -> Iterator[Segment]:
        """What is sent, in order: at each level the arms alternate, round by round."""
        arms = [Speculation(name) for name in dict.fromkeys(self.arms)]
        for level in self.levels():
            # First what is not timed: it warms the server for this level, too.
            if self.compare != 0:
                yield from (self._comparison(workload, level, arm) for arm in arms)
            for round_number in range(self.rounds):
                for arm in rotated(arms, round_number):
                    yield self._segment(workload, level, arm, round_number)

    def _segment(self, workload: Workload, level: Level, arm: Speculation, round_number: int) -> Segment:
        return Segment(
            address=self.address,
            workload=workload,
            arm=arm,
            level=level,
            round_number=round_number,
            requests=self.requests,
            duration_s=self.duration_s if self.requests is None else None,
            ramp_s=self.ramp_s,
            deadline_s=self.deadline_s,
            leaving_share=self.cancel,
            # Of this test, too: an earlier one's prompts may still be cached.
            own_head="" if workload.lines else f"{arm.value} {secrets.token_hex(4)}",
        )

    def _comparison(self, workload: Workload, level: Level, arm: Speculation) -> Segment:
        """Requests of the same prompts in every arm, which would find one another's cells in the server's cache."""
        level = Level(concurrency=level.concurrency or _LEAST_COMPARED)
        requests = self.compare or max(_LEAST_COMPARED, level.concurrency or 0)
        return Segment(self.address, workload, arm, level, 0, requests, None, timed=False)
