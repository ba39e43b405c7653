"""Llama layers in fewer calls: in a pass of a few rows, half the time is call overhead.

Products of the same input become one product: queries, keys and values; gate and up. Queries and keys are rotated by
one complex product, for which the numbers that rotate together must be adjacent. The rows of both weights are put into
that order. In the product of a query and a key, this changes only the order of the sum.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaModel,
    LlamaRotaryEmbedding,
    eager_attention_forward,
)


class FusedRotation(nn.Module):
    """Angles of positions, as complex numbers of length 1 (times the scale of some rotary embeddings)."""

    def __init__(self, rotary: LlamaRotaryEmbedding) -> None:
        super().__init__()
        self._rotary = rotary

    def forward(self, hidden_states: Tensor, position_ids: Tensor) -> Tensor:
        """Turn [sessions, rows] positions into [sessions, rows, 1, head_dim / 2] angles."""
        cosines, sines = (side.chunk(2, dim=-1)[0] for side in self._rotary(hidden_states, position_ids=position_ids))
        return torch.complex(cosines, sines).unsqueeze(2)


class FusedAttention(nn.Module):
    """Attention with one product for queries, keys and values."""

    def __init__(self, attention: LlamaAttention) -> None:
        super().__init__()
        self.config, self.layer_idx, self.scaling = attention.config, attention.layer_idx, attention.scaling
        self.num_key_value_groups = attention.num_key_value_groups
        self._head_dim = attention.head_dim
        self._kv_heads = attention.k_proj.out_features // self._head_dim
        self._heads = self._kv_heads * self.num_key_value_groups
        heads = torch.arange((self._heads + 2 * self._kv_heads) * self._head_dim).view(-1, self._head_dim)
        rotating, values = heads.split((self._heads + self._kv_heads, self._kv_heads))
        # In each head that rotates, the two halves alternate.
        pairs = rotating.unflatten(1, (2, -1)).transpose(1, 2)
        order = torch.cat([pairs.flatten(), values.flatten()])
        self.qkv_proj = _joined([attention.q_proj, attention.k_proj, attention.v_proj], order)
        self.o_proj = attention.o_proj

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; `position_embeddings` comes from `FusedRotation`."""
        heads = self.qkv_proj(hidden_states).unflatten(-1, (-1, self._head_dim))
        rotating, values = heads.split((self._heads + self._kv_heads, self._kv_heads), dim=2)
        pairs = torch.view_as_complex(rotating.unflatten(-1, (-1, 2)))
        rotated = torch.view_as_real(pairs * position_embeddings).flatten(-2)
        queries, keys = rotated.split((self._heads, self._kv_heads), dim=2)
        queries, keys, values = (side.transpose(1, 2) for side in (queries, keys, values))
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(
            self, queries, keys, values, attention_mask, scaling=self.scaling, dropout=0.0, **others
        )
        return self.o_proj(attended.flatten(2)), weights


class FusedMLP(nn.Module):
    """The gated layer with one product for gate and up."""

    def __init__(self, mlp: LlamaMLP) -> None:
        super().__init__()
        self.gate_up_proj = _joined([mlp.gate_proj, mlp.up_proj])
        self.down_proj = mlp.down_proj
        self._activate = functional.silu if isinstance(mlp.act_fn, nn.SiLU) else mlp.act_fn

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        result: Tensor = self.down_proj(self._activate(gate) * up)
        return result


def fuse_llama(model: PreTrainedModel) -> int:
    """Replace in place the attention and the MLP of every layer of a float32 Llama.

    Returns:
        How many layers were changed: 0 for other architectures.
    """
    if type(model.base_model) is not LlamaModel or model.dtype != torch.float32:
        return 0
    base: Any = model.base_model
    for layer in base.layers:
        layer.self_attn = FusedAttention(layer.self_attn)
        layer.mlp = FusedMLP(layer.mlp)
    base.rotary_emb = FusedRotation(base.rotary_emb)
    return len(base.layers)


def _joined(projections: list[nn.Linear], order: Tensor | None = None) -> nn.Linear:
    """One layer with the outputs of several; `order`, if given, lists the old place of each output."""
    parameters: dict[str, Tensor] = {}
    for name, _ in projections[0].named_parameters():
        joined = torch.cat([projection.get_parameter(name).detach() for projection in projections])
        parameters[name] = joined if order is None else joined[order]
    outputs, inputs = parameters["weight"].shape
    layer = nn.Linear(inputs, outputs, bias="bias" in parameters, device="meta").requires_grad_(False)
    layer.load_state_dict(parameters, assign=True)
    return layer
