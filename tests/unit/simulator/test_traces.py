"""Traces say what the models said, and survive being stored."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simulator.drafting import guesses_of
from simulator.files import UnusableFile
from simulator.judging import Task, judge
from simulator.storage import Recording, load, save
from simulator.trace import RANKS, Trace, next_failures
from sybil_engine.core.noise import NoiseTape, gumbel_noise
from sybil_engine.core.types import SamplingParams
from sybil_engine.sampling.draw import Draw, rank_rows
from tests.unit.simulator.synthetic import synthetic_trace

VOCABULARY = 32
TOKENS = 4_000
PROMPT = (1, 2, 3)


def random_trace(seed: int, temperature: float, *, closeness: float = 1.0) -> tuple[Trace, torch.Tensor, torch.Tensor]:
    """A text drawn from random distributions under shared noise, as judged, and both distributions."""
    generator = torch.Generator().manual_seed(seed)
    target_logits = 2 * torch.randn(TOKENS, VOCABULARY, generator=generator)
    draft_logits = target_logits + closeness * torch.randn(TOKENS, VOCABULARY, generator=generator)
    positions = range(len(PROMPT), len(PROMPT) + TOKENS)
    noise = gumbel_noise([seed] * TOKENS, positions, VOCABULARY) if temperature else 0.0
    text = torch.argmax(target_logits + noise, dim=-1)
    task = Task("p", PROMPT, seed)
    trace = judge(task, SamplingParams(temperature=temperature), text, target_logits, draft_logits)
    return trace, torch.softmax(target_logits, -1), torch.softmax(draft_logits, -1)


# ------------------------------------------------------------------------------------------------------------ recording


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_drafter_that_is_the_target_is_always_right(temperature: float) -> None:
    trace, _, _ = random_trace(5, temperature, closeness=0.0)
    assert set(trace.shared_ranks) == {0}
    assert trace.accepted.all()


def test_at_temperature_0_both_kinds_of_sampling_are_equality() -> None:
    trace, target, draft = random_trace(6, 0.0)
    right = (target.argmax(-1) == draft.argmax(-1)).numpy()
    assert (trace.accepted == right).all()
    assert (trace.bonus_matched == right).all()
    assert ((np.array(trace.shared_ranks) == 0) == right).all()
    assert (trace.own_draft_ids == draft.argmax(-1).numpy()).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_the_ratio_test_accepts_as_often_as_the_distributions_overlap(seed: int) -> None:
    trace, target, draft = random_trace(seed, 1.0)
    overlap = torch.minimum(target, draft).sum(-1).mean().item()
    bonus_chance = (target * draft).sum(-1).mean().item()
    # Three standard deviations of as many coins.
    tolerance = 3 * 0.5 / TOKENS**0.5
    assert trace.accepted.mean() == pytest.approx(overlap, abs=tolerance)
    assert trace.bonus_matched.mean() == pytest.approx(bonus_chance, abs=tolerance)
    # A control that must fail: coins that ignore the text would accept a token as often as the drafter draws it.
    assert draft.max(-1).values.numpy().mean() != pytest.approx(overlap, abs=tolerance)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_the_ratio_test_judged_was_drawn_from_the_drafter(seed: int) -> None:
    trace, _, draft = random_trace(seed, 1.0)
    drawn = np.bincount(trace.own_draft_ids, minlength=VOCABULARY) / TOKENS
    assert drawn == pytest.approx(draft.mean(0).numpy(), abs=3 * 0.5 / TOKENS**0.5)
    rejected = ~trace.accepted
    assert (trace.own_draft_ids[rejected] != trace.target_ids[rejected]).all()


def test_shared_noise_guesses_the_next_token_far_more_often_than_independent_draws() -> None:
    trace, _, _ = random_trace(3, 1.0)
    assert trace.shared_ranks.count(0) / TOKENS > 2 * trace.bonus_matched.mean()


def test_a_correction_is_ranked_without_the_token_it_replaces() -> None:
    trace, _, _ = random_trace(4, 1.0)
    for index in range(200):
        others = [token for token in trace.own_ids[index].tolist() if token != trace.own_draft_ids[index]]
        target = int(trace.target_ids[index])
        if not trace.accepted[index] and target in others:
            assert trace.correction_ranks[index] == others.index(target)


def test_the_next_failure_is_found_from_anywhere() -> None:
    assert next_failures([True, False, True, True]) == [1, 1, 4, 4, 4]
    assert next_failures([]) == [0]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_guesses_and_certainties_are_those_of_the_drafter_s_engine(temperature: float) -> None:
    generator = torch.Generator().manual_seed(9)
    target_logits, draft_logits = torch.randn(2, 50, VOCABULARY, generator=generator)
    params = SamplingParams(temperature=temperature)
    trace = judge(Task("p", PROMPT, 9), params, target_logits.argmax(-1), target_logits, draft_logits)
    noise = NoiseTape(9, VOCABULARY)
    draws = [Draw(params, noise, position, rows=1) for position in range(len(PROMPT), len(PROMPT) + 50)]
    for recorded, ranked in zip(guesses_of(trace), rank_rows(draft_logits, draws, RANKS), strict=True):
        assert [guess.token_id for guess in recorded] == [guess.token_id for guess in ranked]
        assert [guess.certainty for guess in recorded] == pytest.approx([guess.certainty for guess in ranked], rel=1e-4)


# -------------------------------------------------------------------------------------------------------------- storage


def test_stored_traces_come_back(tmp_path: Path) -> None:
    traces = [random_trace(1, 0.0)[0], random_trace(2, 1.0)[0], synthetic_trace(7, [0.5])]
    file = tmp_path / "traces"
    save(Recording(traces, {"target": "t"}), file)
    again = load(file)
    assert again.about == {"target": "t"}
    assert again.temperatures() == [0.0, 1.0]
    assert [len(trace) for trace in again.at(0.0)] == [TOKENS, 7]
    for before, after in zip(traces, again.traces, strict=True):
        for field in fields(Trace):
            one, other = getattr(before, field.name), getattr(after, field.name)
            assert np.allclose(one, other) if isinstance(one, np.ndarray) else one == other


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match=r"no trace file .*sybil simulate record --out"):
        load(tmp_path / "none.npz")


def stored(tmp_path: Path) -> dict[str, NDArray[Any]]:
    save(Recording([synthetic_trace(5, [0.5])]), tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as archive:
        return dict(archive)


def rewritten_header(arrays: dict[str, NDArray[Any]], **changes: object) -> NDArray[Any]:
    return np.array(json.dumps(json.loads(str(arrays["header"])) | changes))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda arrays: arrays.pop("bonus_matched"), "it lacks bonus_matched"),
        (lambda arrays: arrays.pop("header"), "it lacks header"),
        (
            lambda arrays: arrays.update(header=rewritten_header(arrays, format="sybil-traces-1")),
            "(format: Input should be 'sybil-traces-3'); check the path, or write another with `sybil simulate record",
        ),
        (lambda arrays: arrays.update(header=np.array("{")), "Invalid JSON"),
        (lambda arrays: arrays.update(header=np.array("[]")), "Input should be an object"),
        (
            lambda arrays: arrays.update(header=rewritten_header(arrays, completions=[])),
            "completions: List should have at least 1 item",
        ),
        (lambda arrays: arrays.update(target_ids=np.zeros(4)), "target_ids has 4 tokens, the header says 5"),
        (lambda arrays: arrays.update(own_ids=np.zeros((5, RANKS - 1))), "own_ids has the shape"),
        (
            lambda arrays: arrays.update(shared_certainties=np.full((5, RANKS), np.nan)),
            "shared_certainties holds what is no probability",
        ),
        (lambda arrays: arrays.update(target_ids=np.array(["a"] * 5)), "invalid literal"),
        (
            lambda arrays: arrays.update(header=rewritten_header(arrays, about=None)),
            "about: Input should be an object",
        ),
        (
            lambda arrays: arrays.update(shared_certainties=np.full((5, RANKS), 5.0)),
            "shared_certainties holds what is no probability",
        ),
    ],
)
def test_a_malformed_file_is_refused_in_one_sentence(tmp_path: Path, spoil: object, sentence: str) -> None:
    arrays = stored(tmp_path)
    assert callable(spoil)
    spoil(arrays)
    file = tmp_path / "bad.npz"
    np.savez(file, allow_pickle=False, **arrays)
    with pytest.raises(UnusableFile) as caught:
        load(file)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_with_damaged_bytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.npz"
    save(Recording([synthetic_trace(2_000, [0.6, 0.2])], {}), file)
    content = bytearray(file.read_bytes())
    content[1500:1540] = b"\xff" * 40
    file.write_bytes(content)
    with pytest.raises(UnusableFile, match="is not a trace file that can be used"):
        load(file)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04N."])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.npz"
    file.write_bytes(content)
    with pytest.raises(UnusableFile, match="it is no NumPy archive"):
        load(file)
    with pytest.raises(UnusableFile, match="is not a trace file"):
        load(tmp_path)
