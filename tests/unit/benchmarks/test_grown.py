"""A grown model computes what the original computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks import grown
from benchmarks.grown import Shape, check_growth, grow, parameters_of, plan
from sybil_engine.core.errors import InvalidSettings
from tests.unit.models.random_models import VOCABULARY_SIZE, save_folder

BASE = Shape(
    num_hidden_layers=8,
    hidden_size=384,
    intermediate_size=1024,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=64,
    vocab_size=4096,
    tie_word_embeddings=True,
)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.inference_mode()
def logits_of(model: Any) -> torch.Tensor:
    token_ids = torch.randint(VOCABULARY_SIZE, (2, 40), generator=torch.Generator().manual_seed(1))
    logits: torch.Tensor = model(token_ids).logits
    return logits


@pytest.mark.parametrize("size", ["100K", "300K", "900K"])
def test_a_grown_models_logits_are_the_originals(size: str, tmp_path: Path) -> None:
    original = save_folder(tmp_path / "original")
    folder = grow(str(original), size, into=tmp_path / "grown")
    assert Shape.of(LlamaConfig.from_pretrained(folder)).parameters == pytest.approx(parameters_of(size), rel=0.02)
    original_logits, grown_logits = logits_of(load(original)), logits_of(load(folder))
    torch.testing.assert_close(grown_logits, original_logits, atol=1e-4, rtol=0)
    # The control: the comparison fails for a model that is not quite the same.
    broken = load(folder)
    broken.model.norm.weight.data *= 1.001
    with pytest.raises(AssertionError):
        torch.testing.assert_close(logits_of(broken), original_logits, atol=1e-4, rtol=0)


def test_a_large_model_is_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grown, "_SHARD_BYTES", 100_000)
    folder = grow(str(save_folder(tmp_path / "original")), "300K", into=tmp_path / "grown")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in folder.glob("*.safetensors")}
    assert len(set(index["weight_map"].values())) > 2
    load(folder)


def test_a_grown_model_is_written_once(tmp_path: Path) -> None:
    original = save_folder(tmp_path / "original")
    first = grow(str(original), "300K", into=tmp_path / "grown")
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert grow(str(original), "300k", into=tmp_path / "grown") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("size", ["16M", "25M", "350M", "1.3B", "7B"])
def test_a_planned_shape_has_the_size_and_the_proportions_asked_for(size: str) -> None:
    shape = plan(BASE, parameters_of(size))
    assert shape is not None
    assert shape.parameters == pytest.approx(parameters_of(size), rel=0.02)
    assert shape.hidden_size % shape.num_attention_heads == 0
    assert shape.num_attention_heads % shape.num_key_value_heads == 0
    wider, deeper = shape.hidden_size / BASE.hidden_size, shape.num_hidden_layers / BASE.num_hidden_layers
    assert 0.5 < wider / deeper < 2


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ("350", "'350' is not a size to grow to"),
        ("-1M", "'-1M' is not a size to grow to"),
        ("0M", "'0M' is not a size to grow to"),
        ("12M", "cannot be grown to 12M: it has 20.5M parameters already"),
        ("9000B", "GB are free; name a smaller size"),
    ],
)
def test_an_impossible_size_is_one_sentence(size: str, sentence: str) -> None:
    with pytest.raises(InvalidSettings, match=r"^[^\n]+$") as raised:
        check_growth("embedded-target", size)
    assert sentence in str(raised.value)


def test_only_llama_models_grow(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="only Llama models can be grown"):
        check_growth(str(save_folder(tmp_path / "gpt2", "gpt2")), "1B")
