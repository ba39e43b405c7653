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
_Requests = Annotated[
    tuple[int, ...], Split, Constraint("numbers of requests from 1 on", lambda each: all(1 <= n <= _MOST for n in each))
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
    rounds: int = Field(default=3, ge=1, le=_MOST, description="runs of every arm at each level, taking turns")
    requests: _Requests = Field(default=(), description="of a run: a number, or one a level; empty: as --duration-s")
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
        self._check_amounts()
        self._check_unused()
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

    def levels(self) -> dict[Level, int | None]:
        """Every load, once, from the lowest on, and how many requests a run at it has; None: it runs for a time."""
        amounts = self.rate or self.concurrency
        requests = self.requests if len(self.requests) > 1 else (*self.requests, None)[:1] * len(amounts)
        return {
            Level(rate=amount) if self.rate else Level(concurrency=int(amount)): number
            for amount, number in sorted(zip(amounts, requests, strict=True), key=lambda pair: pair[0])
        }

    def segments(self, workload: Workload) -> Iterator[Segment]:
        """What is sent, in order: arms take turns at each level, and levels in each round.

        So whatever the machine does meanwhile falls on all arms and levels alike.
        """
        arms = [Speculation(name) for name in dict.fromkeys(self.arms)]
        levels = self.levels()
        # First what is not timed: it warms the server, too.
        if self.compare != 0:
            compared = dict.fromkeys(level.concurrency or _LEAST_COMPARED for level in levels)
            yield from (self._comparison(workload, users, arm) for users in compared for arm in arms)
        for round_number in range(self.rounds):
            for level, requests in levels.items():
                for arm in rotated(arms, round_number):
                    yield self._segment(workload, level, requests, arm, round_number)

    def _check_amounts(self) -> None:
        """Refuse amounts that leave nothing to send, or nothing to measure."""
        amounts = self.rate or self.concurrency
        if len(self.requests) > 1 and len(self.requests) != len(amounts):
            raise InvalidSettings(
                f"--requests has {len(self.requests)} numbers for {len(amounts)} levels; give one, or one a level"
            )
        for level, requests in reversed(self.levels().items()):
            if requests is not None and requests < (level.concurrency or 0):
                raise InvalidSettings(
                    f"--requests {requests} is fewer than {level.concurrency} users need; ask for at least one a user"
                )
        if self.requests:
            return
        if self.ramp_s >= self.duration_s:
            raise InvalidSettings(
                f"--ramp-s {self.ramp_s:g} leaves nothing to measure of --duration-s {self.duration_s:g}; shorten it"
            )
        measured_s = self.duration_s - self.ramp_s
        if self.rate and min(self.rate) * measured_s < 1:
            raise InvalidSettings(
                f"--rate {min(self.rate):g} is less than one request in the {measured_s:g} s that are measured; "
                "raise it, or --duration-s"
            )

    def _check_unused(self) -> None:
        """Refuse settings that would change nothing, since whoever gave them expects that they do."""
        given = self.model_fields_set
        from_file = not set(self.prompts) <= set(KINDS)
        unused = {
            "concurrency": (bool(self.rate), "with --rate"),
            "duration_s": (bool(self.requests), "with --requests"),
            "prompt_tokens": (from_file, "with a file of prompts"),
            "shared_prefix": (from_file, "with a file of prompts"),
            "shared_share": (not self.shared_prefix, "without --shared-prefix"),
        }
        for name, (changes_nothing, why) in unused.items():
            if name in given and changes_nothing:
                raise InvalidSettings(f"--{name.replace('_', '-')} changes nothing {why}; leave it out")

    def _segment(
        self, workload: Workload, level: Level, requests: int | None, arm: Speculation, round_number: int
    ) -> Segment:
        return Segment(
            address=self.address,
            workload=workload,
            arm=arm,
            level=level,
            round_number=round_number,
            stage=f"{level} {round_number}",
            requests=requests,
            duration_s=self.duration_s if requests is None else None,
            ramp_s=self.ramp_s,
            deadline_s=self.deadline_s,
            leaving_share=self.cancel,
            # Of this test, too: an earlier one's prompts may still be cached.
            own_head="" if workload.lines else f"{arm.value} {secrets.token_hex(4)}",
        )

    def _comparison(self, workload: Workload, users: int, arm: Speculation) -> Segment:
        """Requests of the same prompts in every arm, which would find one another's cells in the server's cache."""
        level = Level(concurrency=users)
        requests = self.compare or max(_LEAST_COMPARED, users)
        return Segment(self.address, workload, arm, level, 0, f"{level} compared", requests, timed=False)
