"""A verifier's metrics, read from its engine when somebody asks."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from sybil_engine.core.draft_tree import Graft
from sybil_engine.core.session import count_tested
from sybil_engine.core.types import MOST_WINDOW_TOKENS, DrafterCount, Speculation
from sybil_engine.serving.metrics import PREFIX, counter, gauge, occupancy_metrics, proposer_failures
from verifier_service.engine import Verifier
from verifier_service.policy.choice import WAYS, Choice
from verifier_service.tally import JudgedWindow

WindowCounts = Mapping[JudgedWindow, int]


def verifier_metrics(engine: Verifier) -> Iterator[Metric]:
    """All metrics of an engine that runs on another thread."""
    tally = engine.tally
    yield from occupancy_metrics(engine.occupancy)
    yield from tally.passes.collect()
    yield counter("committed_tokens", "Tokens that the target decided", tally.committed_tokens)
    yield from _windows(dict(tally.windows))
    yield counter(
        "draft_wait_seconds", "Time from commits to the next passes, of sessions that draft", tally.draft_wait_ns / 1e9
    )
    yield from tally.round_trips.collect()
    yield from _blocks(dict(tally.blocks))
    yield from _drafters(dict(tally.drafters))
    yield proposer_failures(engine.registry.failures)
    yield from _auto(engine.choices)


def _windows(windows: WindowCounts) -> Iterator[Metric]:
    """What was judged, and what came of it."""
    drafts = {window: count for window, count in windows.items() if window.judged}
    judged = sum(window.judged * count for window, count in drafts.items())
    accepted = sum(window.accepted * count for window, count in drafts.items())
    yield counter("spec_decode_num_drafts", "Windows of drafted tokens that were judged", sum(drafts.values()))
    yield counter("spec_decode_num_draft_tokens", "Drafted tokens in these windows", judged)
    yield counter("spec_decode_num_accepted_tokens", "Drafted tokens that were accepted", accepted)
    yield _by_position("spec_decode_num_accepted_tokens_per_pos", "Tokens accepted", drafts, lambda each: each.accepted)
    yield _by_position(
        "spec_decode_num_tested_tokens_per_pos",
        "Tokens accepted or first to be rejected",
        drafts,
        lambda each: count_tested(each.judged, each.accepted),
    )
    yield _window_lengths(windows)
    yield _session_passes(windows)


def _session_passes(windows: WindowCounts) -> CounterMetricFamily:
    passes: Counter[tuple[str, str]] = Counter()
    for window, count in windows.items():
        passes[window.requested.value, window.speculation.value] += count
    ways = counter(
        "session_passes",
        "Passes that sessions took part in, by what was asked for and what was done",
        labels=("requested", "speculation"),
    )
    for labels, count in passes.items():
        ways.add_metric(labels, count)
    return ways


def _by_position(
    name: str, text: str, windows: WindowCounts, reached: Callable[[JudgedWindow], int]
) -> CounterMetricFamily:
    """How many windows reached each position, counted from 0."""
    metric = counter(name, f"{text}, by position in the window", labels=("position",))
    for position in range(max(map(reached, windows), default=0)):
        metric.add_metric(
            (str(position),), sum(count for window, count in windows.items() if reached(window) > position)
        )
    return metric


def _window_lengths(windows: WindowCounts) -> HistogramMetricFamily:
    lengths = Counter({0: 0})
    for window, count in windows.items():
        lengths[window.judged] += count
    bounds = (*range(16), 31, MOST_WINDOW_TOKENS)
    buckets = [(f"{bound}.0", sum(count for length, count in lengths.items() if length <= bound)) for bound in bounds]
    return HistogramMetricFamily(
        f"{PREFIX}window_tokens",
        "Drafted tokens that a pass judged for a session",
        [*buckets, ("+Inf", lengths.total())],
        sum(length * count for length, count in lengths.items()),
    )


def _blocks(blocks: Mapping[Graft, int]) -> Iterator[Metric]:
    yield counter("received_blocks", "Blocks that came from drafters", sum(blocks.values()))
    discarded = counter("discarded_blocks", "Blocks that were of no use, by cause", labels=("cause",))
    for cause in Graft:
        if cause is not Graft.ADDED:
            discarded.add_metric((cause.value,), blocks.get(cause, 0))
    yield discarded


def _drafters(counts: Mapping[str, DrafterCount]) -> Iterator[Metric]:
    """What each drafter brought."""
    judged = counter("drafter_judged_tokens", "Drafted tokens that were judged, by drafter", labels=("drafter",))
    accepted = counter("drafter_accepted_tokens", "Of them, those accepted", labels=("drafter",))
    for drafter, count in counts.items():
        judged.add_metric((drafter,), count.judged)
        accepted.add_metric((drafter,), count.accepted)
    yield from (judged, accepted)


def _auto(choices: Mapping[bool, Choice]) -> Iterator[Metric]:
    """What `auto` holds to be the fastest at each load, and the figures that it goes by."""
    labels = ("shares_processor", "sessions", "speculation")
    chosen = gauge("auto_choice", "1 for the way of drafting that auto holds to be the fastest", labels=labels)
    speeds = gauge("auto_relative_speed", "Speed of a way of drafting over the fastest way's", labels=labels)
    gains = gauge(
        "auto_speedup",
        "Speed of drafting over plain decoding for a session alone; below 1 auto stops",
        labels=("shares_processor", "greedy"),
    )
    for shared, choice in choices.items():
        where = str(shared).lower()
        for sessions, best, ways in _compared(choice):
            for way, speed in ways.items():
                chosen.add_metric((where, str(sessions), way.value), way is best)
                speeds.add_metric((where, str(sessions), way.value), math.exp(speed))
        for greedy, gain in choice.gains.items():
            gains.add_metric((where, str(greedy).lower()), math.exp(gain.value))
    yield from (chosen, speeds, gains)
    load = next(iter(choices.values())).load
    yield gauge("auto_sessions", "Sessions that share a pass as auto counts them, a power of two", load.about_sessions)


def _compared(choice: Choice) -> Iterator[tuple[int, Speculation, dict[Speculation, float]]]:
    """The fastest way by how many sessions share a pass, and the log of each way's speed over it."""
    yield 1, choice.best, {way: choice.relative_speed(way) for way in WAYS}
    for sessions, trials in choice.in_company.items():
        best = trials.best
        ways = {way: trials.speedup(way) - trials.speedup(best) for way in (Speculation.OFF, *WAYS)}
        yield sessions, best, ways
