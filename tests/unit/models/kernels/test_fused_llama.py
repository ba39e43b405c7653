"""Fused layers compute what the layers they replace compute, and replace no others."""

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from sybil_engine.models.kernels.fused_llama import FusedAttention, FusedMLP, fuse_llama

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(SIZES | changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.train(False).requires_grad_(False)
    return model


@torch.inference_mode()
def logits(model: PreTrainedModel) -> torch.Tensor:
    token_ids = torch.arange(60).view(2, 30)
    return model(input_ids=token_ids).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 6},
        {"head_dim": 16},
        {"attention_bias": True, "mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0}},
    ],
)
def test_a_fused_model_computes_the_same(changes: dict[str, Any]) -> None:
    model = llama(**changes)
    fused = copy.deepcopy(model)
    assert fuse_llama(fused) == 3
    assert isinstance(fused.model.layers[2].self_attn, FusedAttention)
    assert isinstance(fused.model.layers[2].mlp, FusedMLP)
    expected = logits(model)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(fused), expected, rtol=1e-4, atol=1e-4)


def test_other_architectures_and_types_are_left_alone() -> None:
    assert fuse_llama(llama().bfloat16()) == 0
    assert fuse_llama(Qwen2ForCausalLM(Qwen2Config(**SIZES))) == 0
