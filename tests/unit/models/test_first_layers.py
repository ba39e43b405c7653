"""The first layers of a model are its own weights, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from sybil_engine.core.errors import InvalidSettings, ModelError, UnsupportedModel
from sybil_engine.models.configs import read_config
from sybil_engine.models.first_layers import empty_model, first_layers, refuse_indivisible
from sybil_engine.models.loading import describe, load
from sybil_engine.models.trial import plain_pass
from tests.unit.models.random_models import FAMILIES, plain_logits, save_folder

LAYERS = 3
TOKENS = [5, 1, 8, 44, 2, 90, 17]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("family"), request.param, layers=LAYERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(tmp_path, layers=LAYERS)


@pytest.mark.parametrize("layers", range(1, LAYERS + 1))
def test_a_part_is_made_of_the_weights_of_the_whole(
    family: Path, layers: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole, part = load(str(family), packed=False), load(str(family), layers=layers, packed=False)
    weights = whole.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in part.model.state_dict().items())
    held = sum(weight.numel() for weight in part.model.parameters())
    assert part.description.parameters == held
    assert (held < whole.description.parameters) == (layers < LAYERS)
    # Its cache has as many layers.
    assert plain_pass(part)[0].layers == layers
    # The weights that it has no place for are no reason for a warning.
    assert not caplog.records


@pytest.mark.parametrize(("family", "stack"), [("llama", "layers"), ("gpt2", "h")], indirect=["family"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_part_computes_what_the_whole_computes_if_it_is_left_early(family: Path, stack: str, layers: int) -> None:
    left_early, part = load(str(family), packed=False), load(str(family), layers=layers, packed=False)
    base: Any = left_early.model.base_model
    del getattr(base, stack)[layers:]
    assert torch.equal(plain_logits(part, TOKENS), plain_logits(left_early, TOKENS))
    whole = load(str(family), packed=False)
    assert not torch.allclose(plain_logits(part, TOKENS), plain_logits(whole, TOKENS), atol=0.1)


def test_a_part_says_what_it_is_and_keeps_the_tokenizer(folder: Path) -> None:
    whole, part = describe(str(folder)), describe(str(folder), layers=2)
    assert whole.model_id == str(folder)
    assert part.model_id == f"{folder}[:2 layers]"
    assert describe(str(folder), layers=1).model_id == f"{folder}[:1 layer]"
    kept = ("architecture", "vocabulary_size", "tokenizer_fingerprint", "end_token_ids", "context_tokens")
    assert [getattr(part, name) for name in kept] == [getattr(whole, name) for name in kept]


@pytest.mark.parametrize("layers", [-1, LAYERS + 1])
def test_more_layers_than_there_are_are_refused_before_weights_are_read(folder: Path, layers: int) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    for read in (describe, load):
        with pytest.raises(
            InvalidSettings, match=f"{layers} layers of .* are to draft, and it has 3; choose from 1 to 3"
        ):
            read(str(folder), layers=layers)


def test_a_config_that_does_not_count_layers_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="the config of odd does not say how many layers it has"):
        first_layers("odd", PreTrainedConfig(), 1)


def test_layers_that_cannot_be_told_from_the_others_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the family made its layers by another number than the one that was changed.
    whole = _config(folder)
    monkeypatch.setattr("sybil_engine.models.first_layers.empty_model", lambda _: empty_model(whole))
    with pytest.raises(UnsupportedModel, match="'llama' model, whose first layers cannot be told from the others"):
        describe(str(folder), layers=1)
    refuse_indivisible("x", whole, first_layers("x", whole, LAYERS))


def test_a_model_that_lacks_weights_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, {"format": "pt"})
    for layers in (0, 2):
        with pytest.raises(ModelError, match=r"lacks weights, model.layers.1.mlp.up_proj.weight for one; fetch"):
            load(str(folder), layers=layers)
    load(str(folder), layers=1)


def _config(folder: Path) -> PreTrainedConfig:
    return read_config(str(folder), folder)
