from typing import Any

import pytest

from coordinator.pairing import check_pair, check_same_target, check_vocabulary, share_processors
from sybil_engine.core.errors import PairMismatch
from tests.unit.coordinator.toy import toy_description


def test_a_pair_with_one_tokenizer_matches_however_its_vocabularies_are_padded() -> None:
    check_pair(toy_description(), toy_description("toy-draft", vocabulary_size=512, context_tokens=64))


def test_different_tokenizers_are_refused_naming_both_and_what_differs() -> None:
    draft = toy_description(
        "other-draft", tokenizer_fingerprint="else", tokenizer_parts={"vocabulary": "v", "merges": "x", "added": "a"}
    )
    with pytest.raises(PairMismatch) as refusal:
        check_pair(toy_description(), draft)
    message = str(refusal.value)
    for words in ("other-draft", "toy-target", "fingerprint else and toy", "differ in added, merges", "Choose"):
        assert words in message


def test_a_model_that_does_not_know_every_token_is_refused() -> None:
    check_vocabulary(toy_description(vocabulary_size=260), 260)
    with pytest.raises(PairMismatch, match="knows token ids below 200, but its tokenizer has ids up to 259"):
        check_vocabulary(toy_description(vocabulary_size=200), 260)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"model_id": "x"}, "--model"),
        ({"parameters": 5}, "--model"),
        ({"tokenizer_fingerprint": "else"}, "--model"),
        ({"dtype": "bfloat16"}, "--dtype"),
        ({"numerics": "fast"}, "--numerics"),
        ({"kernels": "packed"}, "--device and --packed"),
        ({"threads": 2}, "--threads"),
    ],
)
def test_verifiers_that_may_commit_other_tokens_are_refused_naming_both_values_and_the_flag(
    change: dict[str, Any], flag: str
) -> None:
    known = toy_description(numerics="exact")
    check_same_target(known, toy_description(numerics="exact", max_sessions=9))
    other = toy_description(**({"numerics": "exact"} | change))
    name = next(iter(change))
    with pytest.raises(PairMismatch) as refusal:
        check_same_target(known, other)
    assert f"{name} is {getattr(known, name)} on one and {getattr(other, name)} on the other" in str(refusal.value)
    assert str(refusal.value).endswith(f"with the same {flag}")


def test_with_fast_numerics_verifiers_may_add_up_in_any_order() -> None:
    check_same_target(toy_description(), toy_description(kernels="packed", threads=2))


def test_exact_verifiers_of_row_classes_that_share_no_row_count_are_refused() -> None:
    known = toy_description(numerics="exact", row_class=(1, 2, 3))
    check_same_target(known, toy_description(numerics="exact", row_class=(1, 2, 3, 4, 8)))
    with pytest.raises(PairMismatch, match=r"\(1, 2, 3\) rows on one and \(4, 8\) on the other; .*--row-class"):
        check_same_target(known, toy_description(numerics="exact", row_class=(4, 8)))


@pytest.mark.parametrize(
    ("target_cores", "draft_cores", "threads", "shares"),
    [
        ((0, 1), (0, 1), 1, True),
        ((0, 1, 2, 3), (0, 1, 2, 3), 1, False),
        ((0, 1, 2, 3), (0, 1, 2, 3), 3, True),
        ((0,), (1,), 1, False),
        ((0, 1), (1, 2), 2, True),
        ((), (), 1, False),
    ],
)
def test_drafting_takes_time_from_passes_where_both_need_all_of_common_processors(
    target_cores: tuple[int, ...], draft_cores: tuple[int, ...], threads: int, shares: bool
) -> None:
    target, draft = (
        toy_description(processors=tuple(f"here/{core}" for core in cores), threads=threads)
        for cores in (target_cores, draft_cores)
    )
    assert share_processors(target, draft) == shares
    elsewhere = toy_description(processors=tuple(f"there/{core}" for core in draft_cores), threads=threads)
    assert not share_processors(target, elsewhere)
