"""Exact mode: what is committed does not depend on speculation, company, interruption or luck with messages."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import sybil_engine
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import SamplingParams, Speculation
from sybil_engine.models.loading import load
from tests.exactness.engines import LoadedPair, reopened_at

EMBEDDED = Path(sybil_engine.__file__).parent / "models" / "embedded"
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=1.0, top_p=0.9),
    SamplingParams(temperature=1.0, top_k=50),
)
PROMPTS = 40
MANY_PROMPTS = 20
SOME_PROMPTS = 10
HEDGED_PROMPTS = 8
FEW_PROMPTS = 5
MOST_BRANCH_ROWS = 5
TOKENS = 128

pytestmark = pytest.mark.timeout(900)


Openings = Callable[[Speculation], list[SessionOpen]]


def prompts(pair_name: str, *, full: bool = False) -> list[tuple[int, ...]]:
    """Prompts of real code for the embedded pair, random ones of 1 to 150 tokens for the random pairs.

    Args:
        full: all of them. Otherwise the embedded pair in float32 has more than the others: some processors take a
            multiple of the time for bfloat16, and products of whole numbers leave less to chance.
    """
    count = PROMPTS if full else MANY_PROMPTS if pair_name == "embedded-float32" else SOME_PROMPTS
    if pair_name.startswith("embedded"):
        tokenizer = Tokenizer.from_file(str(EMBEDDED / "target" / "tokenizer.json"))
        lines = (EMBEDDED / "prompts.jsonl").read_text().splitlines()[:count]
        return [tuple(tokenizer.encode(json.loads(line)["prompt"]).ids) for line in lines]
    chance = random.Random(5)
    return [tuple(chance.choices(range(512), k=chance.randint(1, 150))) for _ in range(count)]


def openings_of(token_ids: Sequence[tuple[int, ...]], speculation: Speculation) -> list[SessionOpen]:
    """One opening a prompt; the ways of sampling take turns."""
    return [
        SessionOpen(
            token_ids=prompt,
            prompt_tokens=len(prompt),
            sampling=SAMPLINGS[number % len(SAMPLINGS)],
            seed=number,
            max_position=len(prompt) + TOKENS,
            plan=DraftPlan(speculation, 4, rows=4 if speculation in (Speculation.HEDGED, Speculation.AUTO) else 1),
        )
        for number, prompt in enumerate(token_ids)
    ]


@pytest.fixture
def openings(pair_name: str, request: pytest.FixtureRequest) -> Openings:
    """Openings of this pair's prompts; all of them with `--full`."""
    return partial(openings_of, prompts(pair_name, full=request.config.getoption("--full")))


_PLAIN: dict[str, list[list[int]]] = {}


@pytest.fixture
def plain(pair: LoadedPair, pair_name: str, openings: Openings) -> list[list[int]]:
    """What the target commits without drafts."""
    if pair_name not in _PLAIN:
        done = pair.complete(openings(Speculation.OFF), together=8)
        _PLAIN[pair_name] = [each.token_ids for each in done]
        assert all(len(token_ids) == TOKENS for token_ids in _PLAIN[pair_name])
    return _PLAIN[pair_name]


@pytest.mark.parametrize("speculation", [Speculation.LOCKSTEP, Speculation.PIPELINED])
def test_speculation_changes_no_token(
    pair: LoadedPair, openings: Openings, plain: Sequence[list[int]], speculation: Speculation
) -> None:
    # A lockstep verifier waits a tenth of a second for a block that is lost.
    lost_blocks = 0.0 if speculation is Speculation.LOCKSTEP else 0.1
    done = pair.complete(openings(speculation), together=6, schedule_seed=1, lost_blocks=lost_blocks)
    assert [each.token_ids for each in done] == list(plain)
    tested, accepted = (sum(getattr(each, f"{name}_tokens") for each in done) for name in ("tested", "accepted"))
    assert 0.2 < accepted / tested < 1, "drafts that are never right, or never wrong, prove nothing"
    assert pair.drafter.passes_checked


def test_branches_judged_beside_the_trunk_change_no_token(
    pair: LoadedPair, pair_name: str, openings: Openings, plain: Sequence[list[int]]
) -> None:
    branch_rows = min(MOST_BRANCH_ROWS, pair.target_runner.max_rows // 2)
    if branch_rows < 2:
        pytest.skip(f"the probe kept no passes of 4 rows for {pair_name}: no room for a branch")
    judged, kept = pair.branches_judged, pair.branches_kept
    some = [replace(each, window_tokens=branch_rows - 1) for each in openings(Speculation.HEDGED)[:HEDGED_PROMPTS]]
    done = pair.complete(some, schedule_seed=4, lost_blocks=0.1)
    assert [each.token_ids for each in done] == list(plain[:HEDGED_PROMPTS])
    assert pair.branches_judged - judged > 20, "branches that are never judged prove nothing"
    assert pair.branches_kept - kept > 2


@pytest.mark.parametrize("drafters", [("lookup",), ("model", "suffix", "forced")], ids="+".join)
def test_no_set_of_drafters_changes_a_token(
    pair: LoadedPair, openings: Openings, plain: Sequence[list[int]], drafters: tuple[str, ...]
) -> None:
    some = [replace(each, drafters=drafters) for each in openings(Speculation.PIPELINED)[:FEW_PROMPTS]]
    done = pair.complete(some, together=4, schedule_seed=5, lost_blocks=0.1)
    assert [each.token_ids for each in done] == list(plain[:FEW_PROMPTS])
    judged = sum(count.judged for each in done for count in each.counts if count.drafter in drafters[1:])
    assert judged or len(drafters) == 1, "proposers whose tokens are never judged prove nothing"


def test_two_drafters_of_one_session_change_no_token(
    pair: LoadedPair, openings: Openings, plain: Sequence[list[int]]
) -> None:
    done = pair.complete(
        openings(Speculation.HEDGED)[:FEW_PROMPTS], together=2, schedule_seed=6, lost_blocks=0.1, drafters=2
    )
    assert [each.token_ids for each in done] == list(plain[:FEW_PROMPTS])
    assert sum(each.accepted_tokens for each in done) > 50


def test_company_changes_no_token(pair: LoadedPair, openings: Openings, plain: Sequence[list[int]]) -> None:
    order = random.Random(1).sample(range(len(plain)), SOME_PROMPTS)
    ways = list(Speculation)
    mixed = [openings(ways[number % len(ways)])[number] for number in order]
    done = pair.complete(mixed, together=8, schedule_seed=1)
    assert [each.token_ids for each in done] == [plain[number] for number in order]


def test_a_session_cut_anywhere_and_reopened_goes_on_with_the_same_tokens(
    pair: LoadedPair, openings: Openings, plain: Sequence[list[int]]
) -> None:
    chance = random.Random(7)
    plain = plain[:SOME_PROMPTS]
    cuts = [chance.randrange(TOKENS) for _ in plain]
    reopened = [
        reopened_at(opening, token_ids, cut)
        for opening, token_ids, cut in zip(openings(Speculation.PIPELINED), plain, cuts, strict=False)
    ]
    done = pair.complete(reopened, together=4, schedule_seed=2)
    assert [each.token_ids for each in done] == [token_ids[cut:] for token_ids, cut in zip(plain, cuts, strict=True)]


def test_a_target_that_drafts_for_itself_is_always_accepted() -> None:
    target = load("embedded-target")
    pair = LoadedPair(target, target, draft_numerics="exact")
    done = pair.complete(
        openings_of(prompts("embedded-float32"), Speculation.PIPELINED)[:10], together=2, schedule_seed=3
    )
    assert sum(each.accepted_tokens for each in done) == sum(each.tested_tokens for each in done) > 500
