"""Good folders load; bad ones are refused by name, before weights are read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sybil_engine.core.errors import (
    CacheCannotForget,
    InvalidSettings,
    ModelError,
    ModelNotFound,
    NoSafetensors,
    NoTokenizer,
    UnsupportedModel,
)
from sybil_engine.models.loading import describe, load
from sybil_engine.models.presets import PRESETS, pair_of
from tests.unit.models.random_models import CONTEXT_TOKENS, VOCABULARY_SIZE, save_folder


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good_folder: Path, tmp_path: Path) -> Path:
    """A copy of the good folder, to be spoilt."""
    for path in good_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_is_described_without_reading_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    description = describe(str(folder))
    assert description.architecture == "LlamaForCausalLM"
    assert description.vocabulary_size == VOCABULARY_SIZE
    assert description.context_tokens == CONTEXT_TOKENS
    assert description.end_token_ids == (0,)
    assert description.begin_token_id is None
    assert len(description.tokenizer_fingerprint) == 64


def test_a_loaded_model_is_what_its_description_says(good_folder: Path) -> None:
    loaded = load(str(good_folder), "bfloat16")
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == loaded.description.parameters


def test_broken_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ModelError, match="cannot be loaded; fetch the model again"):
        load(str(folder))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no folder .*nowhere"):
        describe(str(tmp_path / "nowhere"))


def test_an_unreachable_hub_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("sybil_engine.models.finding.snapshot_download", unreachable)
    with pytest.raises(ModelNotFound, match=r"somebody/some-model.*no network.*check the name and the network"):
        describe("somebody/some-model")


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model.gguf"])
def test_only_safetensors_are_read(folder: Path, other: str) -> None:
    (folder / "model.safetensors").rename(folder / other)
    for read in (describe, load):
        with pytest.raises(NoSafetensors, match=f"only {other}.*save_pretrained"):
            read(str(folder))


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(NoSafetensors, match="no weights at all"):
        describe(str(folder))


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(NoTokenizer, match=r"tokenizer\.json"):
        load(str(folder))


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        describe(str(folder))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "mamba", "num_hidden_layers": 2}, "'mamba'.*layers 0, 1 .*running state.*Llama"),
        ({"model_type": "rwkv", "num_hidden_layers": 2}, "'rwkv'.*every layer keeps a running state"),
        ({"model_type": "jamba", "num_hidden_layers": 8}, "'jamba'.*linear_attention"),
        ({"model_type": "mistral", "sliding_window": 32, "num_hidden_layers": 2}, "'mistral'.*layers 0, 1 .*window"),
        ({"model_type": "gemma2", "num_hidden_layers": 2}, "'gemma2'.*layer 0 .*sliding_attention"),
    ],
)
def test_a_cache_that_cannot_forget_is_refused(folder: Path, config: dict[str, Any], says: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CacheCannotForget, match=says):
        describe(str(folder))


@pytest.mark.parametrize("model_type", ["vit", "t5", "bloom", "no_such_type"])
def test_what_is_no_causal_language_model_over_positions_is_refused(folder: Path, model_type: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UnsupportedModel):
        describe(str(folder))


def test_code_from_the_model_is_never_run(folder: Path) -> None:
    edit_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsupportedModel, match="brings its own code, which is never run"):
        describe(str(folder))


def test_several_end_tokens_are_collected_once_each(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 0, 10_000]}))
    assert describe(str(folder)).end_token_ids == (5, 0)


def test_unknown_settings_are_named(good_folder: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"float33.*float32, bfloat16, float16, int8"):
        describe(str(good_folder), dtype="float33")
    with pytest.raises(InvalidSettings, match=r"int8.*x86 processors only; choose another dtype"):
        describe(str(good_folder), dtype="int8", device="meta")
    with pytest.raises(InvalidSettings, match="abacus"):
        describe(str(good_folder), device="abacus")


def test_presets_name_pairs() -> None:
    assert pair_of("gpt2").target == "openai-community/gpt2-medium"
    with pytest.raises(InvalidSettings, match=", ".join(PRESETS)):
        pair_of("gpt5")
