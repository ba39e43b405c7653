"""Under the ratio test, served: whatever is drafted, committed tokens have the target's distribution."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from drafter_service.engine import Drafter
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import AcceptanceRule, Block, SamplingParams, Speculation
from sybil_engine.sampling.judges import ratio_test
from tests.exactness.test_sampler_distribution import ACCEPT_ABOVE, chi_square_p_value
from tests.unit.fake_runner import FakeRunner, description, near_model, target_model
from verifier_service.engine import Verifier

pytestmark = pytest.mark.usefixtures("one_thread", "clock")

SEEDS = range(7_000, 8_200)
REJECT_BELOW = 1e-6
PROMPT = (3, 1, 4)
TOKENS = 3
# Cold enough that a few sequences take most of the probability.
SAMPLING = SamplingParams(temperature=0.6)


def opening(speculation: Speculation, seed: int, rule: AcceptanceRule = AcceptanceRule.RATIO_TEST) -> SessionOpen:
    return SessionOpen(
        PROMPT,
        len(PROMPT),
        SAMPLING,
        seed,
        max_position=len(PROMPT) + TOKENS + 2,
        plan=DraftPlan(speculation, budget=3, rows=4),
        acceptance_rule=rule,
        shares_processor=True,
    )


def committed(verifier: Verifier, drafter: Drafter, opening: SessionOpen) -> list[Commit]:
    """What a session commits, with drafter and verifier taking turns by chance."""
    commits: list[Commit | Exception] = []
    pushes: list[tuple[Block, ...] | Exception] = []
    session = verifier.open(opening, commits.append)
    draft = drafter.open(opening, pushes.append)
    chance = random.Random(opening.seed)
    seen: list[Commit] = []
    while not seen or seen[-1].finish_reason is None:
        for _ in range(chance.randrange(7)):
            drafter.step()
        for blocks in pushes:
            assert isinstance(blocks, tuple)
            for block in blocks:
                session.offer(block, 0)
        pushes.clear()
        verifier.step()
        for commit in commits[len(seen) :]:
            assert isinstance(commit, Commit), commit
            seen.append(commit)
            if not commit.finish_reason:
                draft.advance(commit.advance)
    drafter.close(draft)
    return seen


def completions(speculation: Speculation, seeds: Sequence[int]) -> list[tuple[int, ...]]:
    """What sessions commit after the prompt; the window is two tokens, so the third place is drawn freely at times."""
    verifier = Verifier(FakeRunner(max_rows=4), description(), 2)
    drafter = Drafter(FakeRunner(near_model), description())
    runs = [committed(verifier, drafter, opening(speculation, seed)) for seed in seeds]
    return [tuple(token.token_id for commit in run for token in commit.tokens)[:TOKENS] for run in runs]


def expected(length: int, prefix: tuple[int, ...] = ()) -> dict[tuple[int, ...], float]:
    """The target's probability of every sequence of tokens after the prompt; unlikely branches are pruned."""
    if length == 0:
        return {prefix: 1.0}
    probabilities = torch.softmax(target_model((*PROMPT, *prefix)) / SAMPLING.temperature, dim=-1).tolist()
    found = {}
    for token_id, probability in enumerate(probabilities):
        if probability > 0.01:
            for sequence, rest in expected(length - 1, (*prefix, token_id)).items():
                found[sequence] = probability * rest
    return found


def p_value(observed: Sequence[tuple[int, ...]]) -> float:
    likely = expected(TOKENS)
    counts = Counter(observed)
    seen = [counts[sequence] for sequence in likely]
    wanted = [len(observed) * probability for probability in likely.values()]
    return chi_square_p_value(
        torch.tensor([*seen, len(observed) - sum(seen)]), torch.tensor([*wanted, len(observed) - sum(wanted)])
    )


@pytest.mark.parametrize("speculation", [Speculation.LOCKSTEP, Speculation.PIPELINED, Speculation.HEDGED])
def test_committed_tokens_have_the_targets_distribution(speculation: Speculation) -> None:
    assert p_value(completions(speculation, SEEDS)) > ACCEPT_ABOVE


def test_accepting_whatever_is_drafted_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratio_test, "uniform_noise", lambda *_: torch.zeros(1, 1))
    assert p_value(completions(Speculation.PIPELINED, SEEDS)) < REJECT_BELOW


def test_corrections_from_the_targets_whole_distribution_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratio_test, "remainder", lambda draft, target: target)
    assert p_value(completions(Speculation.PIPELINED, SEEDS)) < REJECT_BELOW


@pytest.mark.parametrize("rule", [AcceptanceRule.SHARED_NOISE, AcceptanceRule.RATIO_TEST])
def test_how_likely_drafted_tokens_are_ends_no_window_under_the_ratio_test(rule: AcceptanceRule) -> None:
    verifier = Verifier(FakeRunner(max_rows=4), description(), 2)
    drafter = Drafter(FakeRunner(near_model), description())
    first = committed(verifier, drafter, opening(Speculation.AUTO, SEEDS[0], rule))[0].plan
    assert first.speculation is Speculation.LOCKSTEP
    assert (first.least_chance > 0) == (rule is AcceptanceRule.SHARED_NOISE)
