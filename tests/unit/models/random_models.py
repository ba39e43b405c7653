"""Tiny models with random weights, in memory or in a folder as the hub would hold them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sybil_engine.core.types import ModelDescription
from sybil_engine.models.loading import LoadedModel, attention_for

VOCABULARY_SIZE = 97
CONTEXT_TOKENS = 700
_ROPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT_TOKENS,
    "vocab_size": VOCABULARY_SIZE,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_LEARNED: dict[str, Any] = {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": CONTEXT_TOKENS,
    "vocab_size": VOCABULARY_SIZE,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_VALUES: dict[str, dict[str, Any]] = {
    "llama": _ROPE | {"num_key_value_heads": 2},
    "qwen2": _ROPE | {"num_key_value_heads": 1},
    "mistral": _ROPE | {"num_key_value_heads": 2, "sliding_window": None},
    "gpt_neox": _ROPE,
    "phi": _ROPE,
    "opt": _ROPE | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt2": _LEARNED,
    "gptj": _LEARNED | {"rotary_dim": 8},
}
FAMILIES = tuple(_VALUES)


def config_of(kind: str, layers: int = 2) -> PreTrainedConfig:
    """A config of a tiny model of this architecture."""
    config_class: Any = CONFIG_MAPPING[kind]
    values = _VALUES[kind]
    config: PreTrainedConfig = config_class(
        **values | {"n_layer" if "n_layer" in values else "num_hidden_layers": layers}
    )
    return config


def random_model(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0, layers: int = 2) -> LoadedModel:
    """A tiny model of this architecture, its weights drawn from `seed`."""
    config = config_of(kind, layers)
    implementation = attention_for(config)
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=implementation)
    description = ModelDescription(
        model_id=f"random {kind}",
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary_size=VOCABULARY_SIZE,
        tokenizer_fingerprint="",
        tokenizer_parts={},
        end_token_ids=(0,),
        begin_token_id=None,
        context_tokens=CONTEXT_TOKENS,
        dtype=str(dtype).removeprefix("torch."),
        device="cpu",
    )
    return LoadedModel(model.eval().requires_grad_(False), description, implementation)


@torch.inference_mode()
def plain_logits(loaded: LoadedModel, token_ids: list[int]) -> torch.Tensor:
    """[tokens, vocabulary] of one full-sequence forward, with transformers' own attention and no cache."""
    loaded.model.set_attn_implementation("eager")
    try:
        logits: torch.Tensor = loaded.model(torch.tensor([token_ids]), use_cache=False).logits[0].float()
    finally:
        loaded.model.set_attn_implementation(loaded.attention)
    return logits


def byte_tokenizer(**vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer of a few tokens."""
    known = {"<|end|>": 0, "a": 1, "b": 2, "ab": 3, **vocabulary}
    tokenizer = Tokenizer(models.BPE(vocab=known, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def save_folder(folder: Path, kind: str = "llama", layers: int = 2) -> Path:
    """Save a tiny model with its tokenizer as Hugging Face would."""
    random_model(kind, layers=layers).model.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return folder
