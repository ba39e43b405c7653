"""In exact mode a row's bits depend on its session's tokens alone: not on who shares its pass, nor on its window."""

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sybil_engine.models.loading import load
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.rows import Rows
from tests.unit.models.random_models import random_model
from tests.unit.models.slots import open_slot

SESSIONS = 5
GENERATED = 24
CONTEXT_TOKENS = 640
BRANCH_CELLS = 96


RANDOM, EMBEDDED = ("llama", "gpt2", "qwen2"), ("embedded-target", "embedded-draft")
CASES = [*((kind, 1) for kind in RANDOM + EMBEDDED), ("llama", 2)]


@pytest.fixture(params=["float32", "bfloat16"], scope="module")
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CASES, ids=[f"{kind}-{threads}-threads" for kind, threads in CASES], scope="module")
def runner(request: pytest.FixtureRequest, dtype: str) -> Iterator[ModelRunner]:
    kind, threads = request.param
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    loaded = load(kind, dtype) if kind in EMBEDDED else random_model(kind, getattr(torch, dtype))
    yield ModelRunner(loaded, RunnerOptions(SESSIONS, CONTEXT_TOKENS, branch_cells=BRANCH_CELLS, alone_threads=2))
    torch.set_num_threads(before)


def random_tokens(runner: ModelRunner, count: int, chance: random.Random) -> list[int]:
    return [chance.randrange(runner.vocabulary_size) for _ in range(count)]


def texts_of(runner: ModelRunner, chance: random.Random) -> list[tuple[list[int], int]]:
    """Tokens of each session, and how many of them are prompt: short and long, across tile and span edges."""
    return [(random_tokens(runner, prompt + GENERATED, chance), prompt) for prompt in (3, 61, 250, 383, 500)]


def prefill(runner: ModelRunner, slot: int, token_ids: list[int]) -> None:
    for start in range(0, len(token_ids), runner.prefill_tokens):
        runner.prefill(Rows(slot, start, tuple(token_ids[start : start + runner.prefill_tokens])))


def one_by_one(runner: ModelRunner, text: list[int], prompt: int) -> tuple[Tensor, Tensor]:
    """Logits and cells of the generated part, fed alone, a row a pass."""
    slot = open_slot(runner)
    prefill(runner, slot, text[:prompt])
    logits = torch.cat([runner.forward([Rows(slot, at, (text[at],))]) for at in range(prompt, len(text))])
    cells = runner.cache.read(slot, range(len(text)))[0]
    runner.pool.release(slot)
    return logits, cells


def test_a_row_is_the_same_to_the_bit_in_any_company_and_any_window(runner: ModelRunner) -> None:
    """Sessions fed in random company and windows, on one thread or two, wrong tokens forgotten and right ones refed,
    against each alone."""
    assert len(runner.row_class) > 1
    chance = random.Random(1)
    texts = texts_of(runner, chance)
    expected = [one_by_one(runner, text, prompt) for text, prompt in texts]
    slots = [open_slot(runner) for _ in texts]
    chance.shuffle(slots)
    for slot, (text, prompt) in zip(slots, texts, strict=True):
        prefill(runner, slot, text[:prompt])
    fed = [prompt for _, prompt in texts]
    while live := [place for place, (text, _) in enumerate(texts) if fed[place] < len(text)]:
        members = chance.sample(live, chance.randint(1, len(live)))
        batch = []
        for place in members:
            text, prompt = texts[place]
            if chance.random() < 0.2:
                fed[place] = chance.randint(prompt, fed[place])
            right = text[fed[place] : fed[place] + chance.randint(1, 9)]
            wrong = random_tokens(runner, chance.randint(0, 3), chance)
            room = runner.context_tokens - fed[place] - len(right)
            batch.append(Rows(slots[place], fed[place], (*right, *wrong[:room])))
        alone = chance.random() < 0.5
        logits = runner.forward(batch, alone=alone).split([len(rows.token_ids) for rows in batch])
        for place, rows, got in zip(members, batch, logits, strict=True):
            text, prompt = texts[place]
            right_rows = sum(1 for _ in _agreeing(rows.token_ids, text[rows.position :]))
            first = rows.position - prompt
            assert torch.equal(got[:right_rows], expected[place][0][first : first + right_rows])
            fed[place] = rows.position + right_rows
    for place, slot in enumerate(slots):
        assert torch.equal(runner.cache.read(slot, range(len(texts[place][0])))[0], expected[place][1])
        runner.pool.release(slot)


def _agreeing(one: tuple[int, ...], other: list[int]) -> Iterator[int]:
    for left, right in zip(one, other, strict=False):
        if left != right:
            return
        yield left


def test_a_slot_used_before_leaks_nothing(runner: ModelRunner) -> None:
    chance = random.Random(5)
    text = random_tokens(runner, 60, chance)
    fresh, _ = one_by_one(runner, text, 40)
    one_by_one(runner, random_tokens(runner, 300, chance), 299)
    again, _ = one_by_one(runner, text, 40)
    assert torch.equal(fresh, again)


def test_replayed_tokens_leave_the_cells_of_the_first_run(runner: ModelRunner) -> None:
    """A session reopened with its ledger: prompt prefilled, the rest fed in windows of any length."""
    chance = random.Random(6)
    text = random_tokens(runner, 130, chance)
    _, cells = one_by_one(runner, text, 100)
    slot = open_slot(runner)
    prefill(runner, slot, text[:100])
    runner.forward([Rows(slot, 100, tuple(text[100:]))])
    assert torch.equal(runner.cache.read(slot, range(130))[0], cells)
    runner.pool.release(slot)


@pytest.mark.parametrize("start", [40, 250, 400])
def test_a_branch_beside_the_trunk_computes_what_it_would_compute_alone(runner: ModelRunner, start: int) -> None:
    chance = random.Random(start)
    rows = min(4, runner.max_rows)
    prompt = random_tokens(runner, start, chance)
    trunk, *branches = [random_tokens(runner, rows, chance) for _ in range(3)]
    slot = open_slot(runner)
    prefill(runner, slot, prompt)
    alone = [runner.forward([Rows(slot, start, tuple(tokens))]).clone() for tokens in (*branches, trunk)]
    keys = runner.cache.read(slot, range(start, start + rows))[0]
    batch = [Rows(slot, start, tuple(trunk))]
    batch += [
        Rows(slot, start, tuple(tokens), runner.branch_cells.start + 32 * place)
        for place, tokens in enumerate(branches)
    ]
    together = runner.forward(batch).split(rows)
    assert torch.equal(together[0], alone[-1])
    for mine, theirs in zip(together[1:], alone, strict=False):
        assert torch.equal(mine, theirs)
    # The trunk's cells are what they were; a branch's, once moved, are those of the branch fed alone.
    assert torch.equal(runner.cache.read(slot, range(start, start + rows))[0], keys)
    runner.keep_branches([batch[1]])
    moved = runner.cache.read(slot, range(start, start + rows))[0]
    runner.forward([Rows(slot, start, tuple(branches[0]))])
    assert torch.equal(runner.cache.read(slot, range(start, start + rows))[0], moved)
    runner.pool.release(slot)
