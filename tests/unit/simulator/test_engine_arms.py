"""This engine's arms are played by the engine's own rules, and keep its laws."""

from collections import deque
from itertools import pairwise

import pytest

from drafter_service.growth import Growth
from simulator.players.player import Outcome
from simulator.players.ssd import ssd
from simulator.players.sybil import Simulation, Sybil
from simulator.point import Point
from simulator.trace import Trace
from simulator.verifying import ANY_TOKEN, MOST_ROWS
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.pass_times import PassTimes
from sybil_engine.core.plan import DraftPlan, first_plan
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import FinishReason, PassTimings, Speculation
from sybil_engine.proposers.proposer import ServiceKind
from sybil_engine.proposers.registry import Registry
from sybil_engine.sampling.judges.judge import Verdict
from tests.unit.simulator.synthetic import synthetic_trace
from verifier_service.policy.choice import Choice
from verifier_service.policy.pace import Pace
from verifier_service.policy.rows import RowControl, Share
from verifier_service.policy.rule import State
from verifier_service.policy.rules import rule_for
from verifier_service.policy.windows import LearnedWindow
from verifier_service.session import SessionLimits, VerifierSession
from verifier_service.tally import Tally

NEAR, FAR = Point(30, 3, 1), Point(30, 1.5, 15)
POINTS = pytest.mark.parametrize("point", [NEAR, FAR, Point(12, 1, 0.2, row_ms=0.3)], ids=str)
ARMS = pytest.mark.parametrize("speculation", Speculation, ids=lambda speculation: speculation.value)
DRAFTING = pytest.mark.parametrize("speculation", list(Speculation)[1:], ids=lambda speculation: speculation.value)
AHEAD = pytest.mark.parametrize("speculation", [Speculation.PIPELINED, Speculation.HEDGED, Speculation.AUTO])


def play(speculation: Speculation, trace: Trace, point: Point = NEAR) -> Outcome:
    return Sybil(speculation).play(trace, point)


def commits(speculation: Speculation, trace: Trace, point: Point = NEAR) -> list[Commit]:
    return [commit for _, commit in Simulation(Sybil(speculation), trace, point).commits]


# ------------------------------------------------------------------------------------------------- laws of every arm


@ARMS
@POINTS
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_nothing_is_committed_but_the_target_s_text(speculation: Speculation, point: Point, temperature: float) -> None:
    trace = synthetic_trace(150, [0.7, 0.15, 0.05], temperature=temperature)
    made = commits(speculation, trace, point)
    assert [token_id for commit in made for token_id in commit.token_ids] == trace.target_ids.tolist()
    assert [commit.finish_reason for commit in made] == [None] * (len(made) - 1) + [FinishReason.LENGTH]


@ARMS
@POINTS
def test_playing_again_changes_nothing(speculation: Speculation, point: Point) -> None:
    trace = synthetic_trace(150, [0.7, 0.15, 0.05])
    assert play(speculation, trace, point) == play(speculation, trace, point)


@ARMS
@pytest.mark.parametrize("rtt_ms", [0, 1, 40])
def test_time_is_passes_and_the_waits_between_them(speculation: Speculation, rtt_ms: float) -> None:
    outcome = play(speculation, synthetic_trace(150, [0.7, 0.1, 0.1]), Point(30, 3, rtt_ms))
    assert outcome.tokens == 150
    assert outcome.duration_ms == pytest.approx(30 * outcome.passes + outcome.idle_ms)


@DRAFTING
@POINTS
def test_a_drafter_that_is_right_more_often_is_never_slower(speculation: Speculation, point: Point) -> None:
    durations = [play(speculation, synthetic_trace(400, [rate]), point).duration_ms for rate in (0.3, 0.6, 0.8, 0.95)]
    assert durations == sorted(durations, reverse=True)


@DRAFTING
@pytest.mark.parametrize("acceptance_rate", [0.0, 0.5, 0.9])
def test_drafting_that_costs_nothing_is_never_slower_than_plain_decoding(
    speculation: Speculation, acceptance_rate: float
) -> None:
    trace = synthetic_trace(200, [acceptance_rate])
    plain_ms = play(Speculation.OFF, trace).duration_ms
    assert plain_ms == 200 * 30
    assert play(speculation, trace, Point(30, 0, 0)).duration_ms <= plain_ms + 0.001


@AHEAD
@pytest.mark.parametrize("point", [NEAR, FAR], ids=str)
def test_a_drafter_that_is_never_right_costs_next_to_nothing(speculation: Speculation, point: Point) -> None:
    outcome = play(speculation, synthetic_trace(600, [0.0]), point)
    assert outcome.duration_ms < 1.03 * 600 * 30


@AHEAD
def test_a_perfect_drafter_fills_the_windows(speculation: Speculation) -> None:
    assert play(speculation, synthetic_trace(160, [1.0]), Point(30, 0, 0)).tokens_per_pass == pytest.approx(16, rel=0.1)


@pytest.mark.parametrize("window_tokens", [2, 5])
@pytest.mark.parametrize("acceptance_rate", [0.5, 0.85])
def test_lockstep_is_draft_then_verify(window_tokens: int, acceptance_rate: float) -> None:
    trace = synthetic_trace(1_000, [acceptance_rate])
    point = Point(30, 3, 6, row_ms=0.5)
    arm = Sybil(Speculation.LOCKSTEP, window_tokens)
    # In synthetic traces the ratio test accepts what equality accepts. Only the text's end differs.
    peer = ssd((0,) * (window_tokens + 1), trace, point)
    assert arm.play(trace, point).duration_ms == pytest.approx(peer.duration_ms, rel=0.01)


# ------------------------------------------------------------------------------------------------------------ hedges


@pytest.mark.parametrize("seed", range(3))
def test_hedges_are_worth_having(seed: int) -> None:
    trace = synthetic_trace(300, [0.7, 0.15, 0.05], seed)
    for point in (NEAR, FAR):
        assert (
            play(Speculation.HEDGED, trace, point).duration_ms * 1.1
            < play(Speculation.PIPELINED, trace, point).duration_ms
        )


def test_costly_rows_are_left_out() -> None:
    trace = synthetic_trace(300, [0.6, 0.2])
    free, costly = (play(Speculation.HEDGED, trace, Point(30, 1, 1, row_ms)) for row_ms in (0, 20))
    assert costly.tokens_per_pass < free.tokens_per_pass - 1


# ------------------------------------------------------------------------------------------------ waits and messages


@pytest.mark.parametrize("speculation", [Speculation.PIPELINED, Speculation.HEDGED])
def test_a_pass_never_waits_when_what_it_waits_for_is_there(
    speculation: Speculation, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[bool, int]] = []
    start_waiting, launch = VerifierSession.start_waiting, VerifierSession.launch

    def noting_start(session: VerifierSession, now_ns: int) -> None:
        start_waiting(session, now_ns)
        waits.append((len(session.tree.trunk) >= session.plan.hold_until, 0))

    def noting_launch(session: VerifierSession, now_ns: int) -> int:
        wait_ns = launch(session, now_ns)
        waits[-1] = (waits[-1][0], wait_ns)
        return wait_ns

    monkeypatch.setattr(VerifierSession, "start_waiting", noting_start)
    monkeypatch.setattr(VerifierSession, "launch", noting_launch)
    play(speculation, synthetic_trace(200, [0.8, 0.1]))
    assert all(wait_ns == 0 for enough, wait_ns in waits if enough)
    assert any(wait_ns > 0 for enough, wait_ns in waits if not enough)
    assert sum(enough for enough, _ in waits) > 10


def test_blocks_are_sent_when_the_next_draft_pass_starts_or_none_follows() -> None:
    simulation = Simulation(Sybil(Speculation.PIPELINED), synthetic_trace(100, [0.8]), NEAR)
    starts = {start_ns for start_ns, _ in simulation.draft_passes}
    ends = {end_ns for _, end_ns in simulation.draft_passes}
    one_way_ns = 500_000
    sent = [arrives_ns - one_way_ns for arrives_ns, _ in simulation.blocks]
    assert set(sent) <= starts | ends
    # A window's blocks are held back until there are enough of them.
    assert len(sent) < len(simulation.draft_passes)


def test_draft_passes_follow_one_another_and_hear_commits_in_between() -> None:
    simulation = Simulation(Sybil(Speculation.HEDGED), synthetic_trace(100, [0.7, 0.2]), NEAR)
    passes = simulation.draft_passes
    assert all(end_ns - start_ns == 3_000_000 for start_ns, end_ns in passes)
    assert all(later[0] >= earlier[1] for earlier, later in pairwise(passes))
    known = {block.known_tokens for _, blocks in simulation.blocks for block in blocks}
    assert known <= {1 + sum(len(commit.tokens) for _, commit in simulation.commits[:count]) for count in range(101)}


# ------------------------------------------------------------------------------------------------- the rules are real


@DRAFTING
def test_a_session_driven_by_hand_makes_the_same_commits_and_plans(speculation: Speculation) -> None:
    trace = synthetic_trace(150, [0.75, 0.12, 0.05])
    simulation = Simulation(Sybil(speculation), trace, NEAR)
    pass_times, alone_times = PassTimes(), PassTimes()
    opening = SessionOpen((0,), 1, seed=trace.seed, max_position=151, plan=first_plan(speculation))
    rule = rule_for(opening, 15, Pace(pass_times, alone_times), Choice(pass_times=pass_times), by_chance=True)
    limits = SessionLimits(151, ANY_TOKEN, 15)
    session = VerifierSession(
        opening,
        0,
        limits,
        rule,
        NoiseTape(0, ANY_TOKEN),
        lambda _: None,
        0,
        0,
        tally=Tally(),
        registry=Registry(ServiceKind.VERIFIER),
        has_room=lambda: True,
    )
    pushes = deque(simulation.blocks)
    text = trace.target_ids.tolist()

    def offer_until(now_ns: int) -> None:
        while pushes and pushes[0][0] <= now_ns:
            arrived_ns, blocks = pushes.popleft()
            for block in blocks:
                session.offer(block, arrived_ns)

    def verdict_on(share: Share[VerifierSession]) -> Verdict:
        wanted = text[len(session.ledger) - 1 :]
        drafted = [node.token_id for node in share.path or ()]
        agreeing = next((at for at, token_id in enumerate(drafted) if token_id != wanted[at]), len(drafted))
        return Verdict(tuple(wanted[: agreeing + 1]))

    for end_ns, expected in simulation.commits:
        start_ns = end_ns - expected.timings.forward_ns
        offer_until(start_ns)
        assert session.due_in_ns(start_ns) <= 0
        (shares,) = RowControl(MOST_ROWS, pass_times).choose([session])
        session.launch(start_ns)
        offer_until(end_ns)
        verdicts = [verdict_on(share) for share in shares]
        session.learn(shares[0].path or (), verdicts[0])
        best = max(range(len(shares)), key=lambda number: verdicts[number].accepted)
        times = pass_times if session.plan.speculation.drafts_ahead else alone_times
        plain_ns = session.pace.alone_times.expected_ns(1)
        made = session.commit(shares[best].path or (), verdicts[best], (), expected.timings, end_ns, plain_ns)
        assert made == expected
        times.add(sum(share.rows for share in shares), end_ns - start_ns)


@pytest.mark.parametrize("window_tokens", [0, 2, 3])
def test_the_player_follows_the_engine_s_rule(window_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(rule: LearnedWindow, state: State) -> DraftPlan:
        return DraftPlan(Speculation.PIPELINED, budget=window_tokens, hold_until=window_tokens)

    monkeypatch.setattr(LearnedWindow, "next", plan)
    made = commits(Speculation.PIPELINED, synthetic_trace(120, [1.0]), Point(30, 1, 1))
    # Only the session's end leaves room for less.
    assert {commit.judged for commit in made[1:-1]} == {window_tokens}


def test_the_player_follows_the_engine_s_row_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowControl, "choose", lambda control, due: [[Share(session, 1, ())] for session in due])
    assert {commit.judged for commit in commits(Speculation.HEDGED, synthetic_trace(50, [0.9]))} == {0}


def test_the_player_follows_the_engine_s_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Growth, "has_candidates", lambda growth, hedge_cells: False)
    assert {commit.judged for commit in commits(Speculation.PIPELINED, synthetic_trace(50, [0.9]))} <= {0, 1}


def test_services_go_on_learning_from_trace_to_trace() -> None:
    traces = [synthetic_trace(60, [0.2], seed) for seed in range(8)]
    arm = Sybil(Speculation.AUTO)
    for trace in traces:
        arm.play(trace, NEAR)
    calibration = arm.experience.calibrations[True]
    assert arm.experience.pass_times.known
    assert calibration.chance(0, 0.2) != Sybil(Speculation.AUTO).experience.calibrations[True].chance(0, 0.2)


def test_times_of_a_commit_are_those_of_its_pass() -> None:
    timings = [commit.timings for commit in commits(Speculation.LOCKSTEP, synthetic_trace(30, [1.0]))]
    # After each commit: the way there and back, and five draft passes.
    assert set(timings[1:-1]) == {PassTimings(wait_ns=16_000_000, forward_ns=30_000_000)}
