"""`python -m benchmarks.prefill`: long prompts beside running streams, and prompts whose beginning was seen before.

Prompts are fed first come, first served, and in round robin, the order that the engine had before; both in turns on one
runner of the embedded target. Streams run without drafts, so that a pause is between two tokens. The cached prefix is
measured on the embedded pair in one process. Every completion is compared with the same one on a quiet engine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from statistics import fmean, median

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.prefill import Prompted, first_come
from sybil_engine.core.references import EMBEDDED_TARGET
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import ModelDescription, Speculation
from sybil_engine.models.hosting import host_model
from sybil_engine.models.loading import tokenizer_json
from sybil_engine.models.pages import PagePool
from sybil_engine.models.rows import Rows
from sybil_engine.models.runner import Runner
from sybil_engine.prompts import built_in_prompts
from sybil_local import LocalEngine
from verifier_service.engine import BRANCH_CELLS, Verifier
from verifier_service.session import VerifierSession
from verifier_service.settings import VerifierSettings

STREAMS, STREAM_TOKENS, STREAM_PROMPT_TOKENS = 4, 400, 16
CROWD, PROMPT_TOKENS, ANSWER_TOKENS = 8, 900, 8
PREFIX_TOKENS, TAIL_TOKENS = 512, 32

Choose = Callable[[Sequence[VerifierSession]], VerifierSession]


class RoundRobin:
    """Feeds the prompt that was fed longest ago."""

    def __init__(self) -> None:
        self._turns = count()
        self._fed: dict[int, int] = {}

    def __call__(self, prompts: Sequence[VerifierSession]) -> VerifierSession:
        session = min(prompts, key=self._last_turn)
        self._fed[session.number] = next(self._turns)
        return session

    def _last_turn(self, session: Prompted) -> int:
        return self._fed.get(session.number, -1)


@dataclass(eq=False, slots=True)
class TimedStream:
    """One session and when its commits came.

    Attributes:
        asked_ns: when it was opened.
        times_ns: of each commit.
        ended: whether it came to its end.
    """

    opening: SessionOpen
    asked_ns: int
    token_ids: list[int] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)
    ended: bool = False

    def take(self, event: Commit | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        self.token_ids += event.token_ids
        self.times_ns.append(time.monotonic_ns())
        self.ended = event.finish_reason is not None

    @property
    def first_token_ns(self) -> int:
        return self.times_ns[0] - self.asked_ns

    @property
    def gaps_ns(self) -> list[int]:
        return [after - before for before, after in pairwise(self.times_ns)]


class Stage:
    """One verifier with streams that always run, in this thread.

    Attributes:
        streams: all that were opened, those that run all the time first.
    """

    def __init__(self, verifier: Verifier, running: Sequence[SessionOpen]) -> None:
        self._verifier = verifier
        self._running = running
        self._open: dict[int, tuple[VerifierSession, TimedStream]] = {}
        self.background: list[TimedStream] = []
        for opening in running:
            self.background.append(self.open(opening))
        self.step_until(lambda: all(len(stream.times_ns) > 3 for stream in self.background))

    def open(self, opening: SessionOpen) -> TimedStream:
        stream = TimedStream(opening, time.monotonic_ns())
        session = self._verifier.open(opening, stream.take)
        self._open[session.number] = session, stream
        return stream

    def step_until(self, done: Callable[[], bool]) -> None:
        """Run the engine; streams of the background that end begin again."""
        while not done():
            self._verifier.step()
            for number, (_, stream) in list(self._open.items()):
                if stream.ended:
                    del self._open[number]
                    if stream in self.background:
                        self.background.append(self.open(stream.opening))

    def close(self) -> None:
        """End every session; a pass that is not committed yet is forgotten with them."""
        for session, _ in self._open.values():
            self._verifier.close(session)
        self._verifier.step()


@dataclass(frozen=True, slots=True)
class GoalFigure:
    """One measured ratio.

    Attributes:
        goal: the most that it should be.
        detail: what it was made of.
    """

    name: str
    value: float
    goal: float
    detail: str


class Bench:
    """The embedded target, and the texts that prompts are cut from.

    Attributes:
        differing: completions that differ from the same one on a quiet engine.
    """

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        hosted: tuple[Runner, ModelDescription] = host_model(settings, BRANCH_CELLS, wide_prefill=True)
        self._runner, self._description = hosted
        self._text = built_in_text(settings.model)
        self._quiet: dict[tuple[int, ...], list[int]] = {}
        self.differing = 0
        self.chunk_ns = self._chunk_ns()

    def crowd(self, repeats: int) -> list[GoalFigure]:
        """A crowd of prompts at once, beside running streams."""
        means: dict[str, list[float]] = {"first come": [], "round robin": []}
        pauses: dict[str, list[int]] = {name: [] for name in means}
        # The first turn is not counted: passes of a size are traced when they are first made.
        for repeat in range(-1, repeats):
            for name in means if repeat % 2 else reversed(means):
                stage = self._stage(first_come if name == "first come" else RoundRobin())
                began = len(stage.background[0].times_ns) - 1
                crowd = [stage.open(self._opening(PROMPT_TOKENS, ANSWER_TOKENS, number)) for number in range(CROWD)]
                stage.step_until(lambda crowd=crowd: all(stream.ended for stream in crowd))  # type: ignore[misc]
                if repeat >= 0:
                    means[name].append(fmean(stream.first_token_ns for stream in crowd))
                    pauses[name] += [max(stream.gaps_ns[began:], default=0) for stream in stage.background]
                self._end(stage, crowd)
        mean_ms = {name: fmean(values) / 1e6 for name, values in means.items()}
        longest_ns = max(pauses["first come"])
        return [
            GoalFigure(
                "mean time to first token, first come / round robin",
                mean_ms["first come"] / mean_ms["round robin"],
                0.6,
                ", ".join(f"{name} {value:.0f} ms" for name, value in mean_ms.items()),
            ),
            GoalFigure(
                "longest pause of a running stream, in chunk passes",
                longest_ns / self.chunk_ns,
                3.0,
                f"{longest_ns / 1e6:.0f} ms; a chunk pass takes {self.chunk_ns / 1e6:.1f} ms",
            ),
        ]

    def arrivals(self, seconds: float, repeats: int) -> GoalFigure:
        """Prompts that come one a second, beside running streams."""
        gaps: dict[str, list[int]] = {"alone": [], "beside prompts": []}
        for _ in range(repeats):
            for name, gaps_ns in gaps.items():
                stage = self._stage(first_come)
                crowd: list[TimedStream] = []
                begin_ns = time.monotonic_ns()
                for second in range(int(seconds)):
                    if name != "alone":
                        crowd.append(stage.open(self._opening(PROMPT_TOKENS, ANSWER_TOKENS, second)))
                    end_ns = begin_ns + int((second + 1) * 1e9)
                    stage.step_until(lambda end_ns=end_ns: time.monotonic_ns() >= end_ns)  # type: ignore[misc]
                stage.step_until(lambda crowd=crowd: all(stream.ended for stream in crowd))  # type: ignore[misc]
                gaps_ns += [gap for stream in stage.background for gap in stream.gaps_ns]
                self._end(stage, crowd)
        p99 = {name: sorted(values)[int(0.99 * len(values))] for name, values in gaps.items()}
        return GoalFigure(
            "growth of the 99th percentile between two tokens, in chunk passes",
            (p99["beside prompts"] - p99["alone"]) / self.chunk_ns,
            1.3,
            ", ".join(f"{name} {value / 1e6:.1f} ms" for name, value in p99.items()),
        )

    def _stage(self, choose: Choose) -> Stage:
        """Running streams on a fresh verifier that knows no prompt."""
        forget_prompts(self._runner.pool)
        settings = self._settings
        verifier = Verifier(self._runner, self._description, settings.max_window_tokens, settings.prefill_share, choose)
        running = [self._opening(STREAM_PROMPT_TOKENS, STREAM_TOKENS, 100 + number) for number in range(STREAMS)]
        return Stage(verifier, running)

    def _end(self, stage: Stage, crowd: Sequence[TimedStream]) -> None:
        stage.close()
        for stream in (*stage.background, *crowd):
            quiet = self._quiet_tokens(stream.opening)
            self.differing += stream.token_ids != quiet[: len(stream.token_ids)]

    def _quiet_tokens(self, opening: SessionOpen) -> list[int]:
        """The same completion while nothing else runs, and nothing was kept."""
        if opening.token_ids not in self._quiet:
            forget_prompts(self._runner.pool)
            stage = Stage(Verifier(self._runner, self._description, 0), [])
            stream = stage.open(opening)
            stage.step_until(lambda: stream.ended)
            self._quiet[opening.token_ids] = stream.token_ids
        return self._quiet[opening.token_ids]

    def _opening(self, tokens: int, more: int, number: int) -> SessionOpen:
        prompt = cut(self._text, tokens, number)
        return SessionOpen(prompt, tokens, seed=number, max_position=tokens + more)

    def _chunk_ns(self) -> float:
        """Median time of a chunk pass: as much of a prompt as is fed at once."""
        times_ns: list[int] = []
        tokens = self._runner.prefill_tokens
        for number in range(4):
            slot = self._runner.pool.allocate()
            self._runner.pool.reserve(slot, range(PROMPT_TOKENS))
            prompt = cut(self._text, PROMPT_TOKENS, 50 + number)
            for start in range(0, PROMPT_TOKENS - tokens, tokens):
                begin_ns = time.monotonic_ns()
                self._runner.prefill(Rows(slot, start, prompt[start : start + tokens]))
                times_ns.append(time.monotonic_ns() - begin_ns)
            self._runner.pool.release(slot)
        return median(times_ns)


def cached_prefix(prompts: int, speculation: str) -> tuple[GoalFigure, int]:
    """Prompts that come a second time, on the embedded pair; also how many completions differ from the first time."""
    times_s: dict[str, list[float]] = {"without": [], "with": []}
    differing = 0
    with LocalEngine(max_sessions=2) as engine:
        text = built_in_text(EMBEDDED_TARGET)
        engine.generate(list(text[: PREFIX_TOKENS + TAIL_TOKENS]), max_tokens=ANSWER_TOKENS, speculation=speculation)
        for number in range(1, prompts + 1):
            prompt = list(cut(text, PREFIX_TOKENS + TAIL_TOKENS, number))
            answers = []
            for name in times_s:
                begin_s, first_s, token_ids = time.perf_counter(), 0.0, list[int]()
                for delta in engine.stream(prompt, max_tokens=ANSWER_TOKENS, seed=number, speculation=speculation):
                    first_s = first_s or time.perf_counter() - begin_s
                    token_ids += delta.token_ids
                times_s[name].append(first_s)
                answers.append(token_ids)
            differing += answers[0] != answers[1]
    medians_ms = {name: 1e3 * median(values) for name, values in times_s.items()}
    return (
        GoalFigure(
            f"time to first token with a cached prefix of {PREFIX_TOKENS} tokens / without",
            medians_ms["with"] / medians_ms["without"],
            0.3,
            ", ".join(f"{name} {value:.1f} ms" for name, value in medians_ms.items()) + f", {prompts} prompts",
        ),
        differing,
    )


def built_in_text(model: str) -> tuple[int, ...]:
    """The built-in prompts as one row of tokens of a model."""
    tokenizer = Tokenizer.from_buffer(tokenizer_json(model))
    text = "\n\n".join(prompt.prompt for prompt in built_in_prompts())
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def cut(text: Sequence[int], tokens: int, number: int) -> tuple[int, ...]:
    """A piece of a text that shares no beginning with those of other numbers."""
    start = number * 37 % len(text)
    return tuple((*text[start:], *text, *text)[:tokens])


def forget_prompts(pool: PagePool) -> None:
    """Take the pages that are kept of earlier prompts, and give them back empty."""
    slots = []
    while pool.room:
        slots.append(pool.allocate())
        pages = min(pool.room, pool.table(slots[-1], pool.pages).size)
        pool.reserve(slots[-1], range(pages * pool.page_cells))
    for slot in slots:
        pool.release(slot)


def show(figures: Sequence[GoalFigure], differing: int) -> None:
    """Print a table of the figures beside their goals."""
    table = Table("measured", "is", "at most", "from", title="prompts beside running streams")
    for figure in figures:
        mark = "" if figure.value <= figure.goal else " [bold]missed[/bold]"
        table.add_row(figure.name, f"{figure.value:.2f}{mark}", f"{figure.goal:g}", figure.detail)
    console = Console()
    console.print(table)
    console.print(f"completions that differ from quiet ones: {differing}")


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefill", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="of each arm (3)")
    parser.add_argument("--seconds", type=int, default=8, help="of each run with prompts that come one a second (8)")
    parser.add_argument("--prompts", type=int, default=40, help="with a cached prefix (40)")
    parser.add_argument("--threads", type=int, default=0, help="processor threads of a pass; 0: all cores but one (0)")
    parser.add_argument("--prefill-share", type=float, default=1.0, help="as of a service (1)")
    parser.add_argument(
        "--speculation", choices=[each.value for each in Speculation], default="off", help="with a cached prefix (off)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(argv)
    if min(arguments.repeats, arguments.seconds, arguments.prompts) < 1:
        parser.error("--repeats, --seconds and --prompts must be at least 1")
    try:
        settings = VerifierSettings(
            threads=arguments.threads, prefill_share=arguments.prefill_share, max_sessions=STREAMS + 4 * CROWD
        )
    except InvalidSettings as error:
        parser.error(str(error))
    bench = Bench(settings)
    figures = [*bench.crowd(arguments.repeats), bench.arrivals(arguments.seconds, arguments.repeats)]
    prefix, differing = cached_prefix(arguments.prompts, arguments.speculation)
    figures.append(prefix)
    differing += bench.differing
    if arguments.json:
        print(json.dumps({"differing": differing} | {figure.name: figure.value for figure in figures}))
    else:
        show(figures, differing)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
