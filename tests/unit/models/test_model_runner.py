"""Passes over the paged cache compute what a plain forward computes, and keep sessions apart."""

import random

import numpy as np
import pytest
import torch

from sybil_engine.core.errors import ContextExceeded, InexactDevice, UnsupportedModel
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.rows import Rows, TreeRows
from tests.unit.models.random_models import VOCABULARY_SIZE, plain_logits, random_model
from tests.unit.models.slots import open_slot

NO_CELLS = np.empty(0, dtype=np.int64)


def random_tokens(count: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(VOCABULARY_SIZE) for _ in range(count)]


def prefill(runner: ModelRunner, slot: int, token_ids: list[int]) -> None:
    for start in range(0, len(token_ids), runner.prefill_tokens):
        runner.prefill(Rows(slot, start, tuple(token_ids[start : start + runner.prefill_tokens])))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "mistral", "gpt_neox", "opt", "phi", "gptj"])
def test_ragged_batches_equal_a_plain_forward(kind: str) -> None:
    loaded = random_model(kind)
    runner = ModelRunner(loaded, RunnerOptions(max_sessions=4, context_tokens=330, numerics="fast"))
    chance = random.Random(kind)
    texts = [random_tokens(count, seed) for seed, count in enumerate((330, 33, 101))]
    expected = [plain_logits(loaded, text) for text in texts]
    slots = [open_slot(runner) for _ in texts]
    fed = [len(text) * 4 // 5 for text in texts]
    for slot, text, count in zip(slots, texts, fed, strict=True):
        prefill(runner, slot, text[:count])
    while live := [place for place, text in enumerate(texts) if fed[place] < len(text)]:
        batch = []
        members = chance.sample(live, chance.randint(1, len(live)))
        for place in members:
            end = fed[place] + chance.randint(1, 9)
            batch.append(Rows(slots[place], fed[place], tuple(texts[place][fed[place] : end])))
        logits = runner.forward(batch).split([len(rows.token_ids) for rows in batch])
        for place, rows, got in zip(members, batch, logits, strict=True):
            torch.testing.assert_close(got, expected[place][rows.position :][: len(got)], atol=1e-4, rtol=1e-4)
            fed[place] += len(got)


def test_junk_in_other_slots_and_after_a_session_is_never_seen() -> None:
    loaded = random_model("llama")
    text = random_tokens(40, 1)
    clean = ModelRunner(loaded, RunnerOptions(max_sessions=3, context_tokens=64, numerics="fast"))
    dirty = ModelRunner(loaded, RunnerOptions(max_sessions=3, context_tokens=64, numerics="fast"))
    dirty.cache.keys.normal_(std=9)
    dirty.cache.values.normal_(std=9)
    for runner in (clean, dirty):
        prefill(runner, open_slot(runner), text[:30])
    rows = Rows(0, 30, tuple(text[30:]))
    assert torch.equal(clean.forward([rows]), dirty.forward([rows]))


def test_a_pass_writes_its_rows_cells_and_no_others() -> None:
    runner = ModelRunner(random_model("gpt2"), RunnerOptions(max_sessions=4, context_tokens=64, numerics="fast"))
    slots = [open_slot(runner) for _ in range(4)]
    for slot in slots:
        prefill(runner, slot, random_tokens(20, slot))
    before = runner.cache.keys.clone()
    runner.run([Rows(2, 20, (5,)), Rows(0, 11, (3, 1))], 8)
    changed = (runner.cache.keys != before).flatten(2).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    cells = [*runner.pool.place(0, [11, 12]), *runner.pool.place(2, [20]), runner.cache.padding_cell]
    assert changed == sorted(cells)


def test_the_last_position_of_the_context_can_be_fed_and_none_beyond() -> None:
    loaded = random_model("gpt2")
    runner = ModelRunner(loaded, RunnerOptions(max_sessions=1, context_tokens=70, numerics="fast"))
    text = random_tokens(70, 4)
    prefill(runner, open_slot(runner), text[:69])
    logits = runner.forward([Rows(0, 69, (text[69],))])
    torch.testing.assert_close(logits[0], plain_logits(loaded, text)[69], atol=1e-4, rtol=1e-4)
    with pytest.raises(ContextExceeded, match="position 69 do not fit the context of 70"):
        runner.forward([Rows(0, 69, (1, 2))])
    with pytest.raises(ContextExceeded):
        runner.prefill(Rows(0, 70, (1,)))


@pytest.mark.parametrize("lanes", [2, 3])
def test_chunks_fed_at_the_same_time_fill_the_same_cells(lanes: int) -> None:
    text = random_tokens(150, 7)
    one, several = (
        ModelRunner(random_model("llama"), RunnerOptions(2, 160, chunk_tokens=16, numerics="fast", prefill_lanes=count))
        for count in (1, lanes)
    )
    for runner in (one, several):
        prefill(runner, open_slot(runner), text)
    sides = [runner.cache.read(0, range(len(text))) for runner in (one, several)]
    for keys_or_values in zip(*sides, strict=True):
        assert torch.equal(*keys_or_values)


def test_more_of_a_prompt_than_is_fed_at_once_is_refused() -> None:
    runner = ModelRunner(random_model("llama"), RunnerOptions(1, 70, chunk_tokens=8, numerics="fast"))
    with pytest.raises(ValueError, match="in parts of 8"):
        runner.prefill(Rows(open_slot(runner), 0, (1,) * 9))


def test_a_model_that_computes_something_else_over_the_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def short_sighted(cells: torch.Tensor, span: int, **how: object) -> torch.Tensor:
        return visibility(cells.clamp(max=2), span, **how)  # type: ignore[arg-type]

    from sybil_engine.models.attention import visibility

    monkeypatch.setattr("sybil_engine.models.attention.visibility", short_sighted)
    with pytest.raises(UnsupportedModel, match="other logits over a paged cache"):
        ModelRunner(random_model("llama"), RunnerOptions(max_sessions=1, context_tokens=64, numerics="fast"))


def test_the_thread_count_may_not_change_under_exact_numerics() -> None:
    runner = ModelRunner(random_model("llama"), RunnerOptions(max_sessions=1, context_tokens=128))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with pytest.raises(InexactDevice, match="threads"):
            runner.forward([Rows(open_slot(runner), 0, (1,))])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("position", [40, 56, 59])
def test_a_branch_beside_a_shorter_trunk_keeps_its_cells_up_to_the_end_of_the_context(position: int) -> None:
    text = random_tokens(64, 5)
    trunk, branch = tuple(text[position : position + 2]), tuple(random_tokens(5, 6))
    logits = []
    for beside_trunk in (False, True):
        runner = ModelRunner(
            random_model("llama"), RunnerOptions(1, 64, numerics="fast", branch_cells=32, traced=False)
        )
        prefill(runner, open_slot(runner), text[:position])
        first_cell = runner.branch_cells.start if beside_trunk else None
        # Longer rows come first in a pass.
        batch = [Rows(0, position, branch, first_cell)] + [Rows(0, position, trunk)] * beside_trunk
        logits.append(runner.run(batch, 8)[: len(branch)])
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_a_tree_may_lie_in_any_of_its_cells_to_the_last() -> None:
    runner = ModelRunner(random_model("llama"), RunnerOptions(max_sessions=1, context_tokens=64, numerics="fast"))
    token_ids, slot = tuple(random_tokens(2, 3)), open_slot(runner)

    def logits(first: int) -> torch.Tensor:
        tree = TreeRows(slot, token_ids, (0, 1), NO_CELLS, [(first,), (first, first + 1)])
        return runner.forward_tree(runner.prepare_tree([tree]))

    # What lies in the padding's cell is no part of any tree.
    runner.cache.keys[:, -1] = 9
    torch.testing.assert_close(logits(runner.tree_cells - 2), logits(0), atol=1e-5, rtol=1e-5)


def test_a_row_of_a_tree_sees_all_of_its_path_wherever_the_cells_lie() -> None:
    """A row whose cell was freed by another branch may lie hundreds of cells before its own path."""
    loaded = random_model("llama")
    runner = ModelRunner(loaded, RunnerOptions(max_sessions=1, context_tokens=512, numerics="fast"))
    text = random_tokens(6, 7)
    expected = plain_logits(loaded, text)
    slot, path = open_slot(runner), (500, 3, 260, 130, 511, 0)
    for position in range(len(path)):
        trunk = np.array(path[: position // 2], dtype=np.int64)
        tree = TreeRows(slot, (text[position],), (position,), trunk, [path[position // 2 : position + 1]])
        logits = runner.forward_tree(runner.prepare_tree([tree]))
        torch.testing.assert_close(logits[0], expected[position], atol=1e-4, rtol=1e-4)
