"""The two models: their configurations, how they start, how the target grows, and how they are saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training import attention
from training.tokenizer import CONTEXT_TOKENS

TARGET = {"num_hidden_layers": 8, "hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6}
DRAFT = {"num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4}
"""Sizes of the two."""


class TrainedPair(nn.Module):
    """Both models, trained as one."""

    def __init__(self, target: LlamaForCausalLM, draft: LlamaForCausalLM):
        super().__init__()
        self.target = target
        self.draft = draft


def make_model(sizes: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Make an untrained model that fits the tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
        **sizes,
    )
    config._attn_implementation = attention.NAME
    return LlamaForCausalLM(config)


def load_for_training(folder: Path) -> LlamaForCausalLM:
    """Load a saved model in float32, with the attention that training uses."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention.NAME
    )
    model.config.use_cache = False
    return model


@torch.no_grad()
def start_from_target(draft: LlamaForCausalLM, target: LlamaForCausalLM) -> None:
    """Start the drafter's embedding as the target's, projected on its principal directions."""
    embedding = target.lm_head.weight.float()
    _, _, directions = torch.linalg.svd(embedding, full_matrices=False)
    draft.lm_head.weight.copy_(embedding @ directions[: draft.config.hidden_size].T)


def add_layers(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """Make a deeper model that computes the same: new layers between the old ones add nothing yet.

    A new layer is a copy of the one before it whose output projections are zero.
    """
    config = LlamaConfig.from_dict({**model.config.to_dict(), "num_hidden_layers": layers})
    config._attn_implementation = attention.NAME
    grown = LlamaForCausalLM(config)
    old_layers = model.config.num_hidden_layers
    sources = [place * old_layers // layers for place in range(layers)]
    grown.load_state_dict(model.state_dict(), strict=False)
    for place, source in enumerate(sources):
        layer = grown.model.layers[place]
        layer.load_state_dict(model.model.layers[source].state_dict())
        if place and sources[place - 1] == source:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
    return grown


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Turn weights into bfloat16, and save them with config, generation config and tokenizer."""
    model.config.use_cache = True
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id)
    for parameter in model.parameters():
        # Every number fits float16, too, so that the engine can pack the weights without loss.
        parameter.data = parameter.data.bfloat16().half().bfloat16()
    model.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
