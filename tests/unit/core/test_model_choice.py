"""What a draft model's reference names."""

from pathlib import Path

import pytest

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.model_choice import ModelChoice, draft_choice


@pytest.mark.parametrize(
    ("draft", "layers", "meant"),
    [
        ("small", 0, ModelChoice("small", "bfloat16")),
        ("some/folder:int8", 0, ModelChoice("some/folder", "int8")),
        ("target", 0, ModelChoice("big", "bfloat16")),
        ("target", 3, ModelChoice("big", "bfloat16", 3)),
        ("target:int8", 0, ModelChoice("big", "int8")),
        ("target:float16", 3, ModelChoice("big", "float16", 3)),
        ("./target", 0, ModelChoice("./target", "bfloat16")),
    ],
)
def test_a_reference_names_a_model_or_the_target_and_perhaps_a_type(
    draft: str, layers: int, meant: ModelChoice
) -> None:
    assert draft_choice(draft, "big", layers, both="bfloat16") == meant


def test_a_type_of_the_draft_model_alone_comes_before_that_of_both() -> None:
    assert draft_choice("small", "big", dtype="int8", both="bfloat16").dtype == "int8"
    assert draft_choice("small:int8", "big", dtype="int8", both="bfloat16").dtype == "int8"


def test_a_folder_with_a_colon_in_its_name_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "mine:int8"
    folder.mkdir()
    assert draft_choice(str(folder), "big") == ModelChoice(str(folder))
    assert draft_choice(f"{folder}:int8", "big") == ModelChoice(str(folder), "int8")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("small:int4", "big"), "'small:int4' is no draft model: .* one of float32, .*, int8, as in small:int8"),
        (("target:", "big"), "'target:' is no draft model: .* as in target:int8"),
        ((":int8", "big"), "':int8' is no draft model: a colon stands between a model and the type"),
        (("small", "big", 2), "2 layers are to draft, but the draft model is small; .* say target for the draft model"),
        (("none", "big", 2), "2 layers are to draft, but the draft model is none"),
        (("big", "big", 2), "2 layers are to draft, but the draft model is big"),
        (("small:int8", "big", 0, "float32"), "is small:int8, and its type is to be float32; leave one of the types"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(arguments: tuple[str, str], sentence: str) -> None:
    with pytest.raises(InvalidSettings, match=sentence):
        draft_choice(*arguments)
