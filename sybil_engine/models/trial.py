"""The trial of a model when it starts: does it compute over a paged cache what it computes without one?"""

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from sybil_engine.core.errors import UnsupportedModel
from sybil_engine.core.types import ModelDescription
from sybil_engine.models.cache import CellShape
from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.numerics.fed_rows import ProbedRunner, probed_slots
from sybil_engine.models.pages import PAGE_CELLS
from sybil_engine.models.rows import Rows

_TRIAL_TOKENS = (3, 1, 4, 1, 5, 9, 2, 6)
_TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.1, "int8": 0.1}


class TriedRunner(ProbedRunner, Protocol):
    """What the trial needs of a model runner."""

    def prefill(self, prompt: Rows) -> None:
        """Feed a part of a prompt."""


@torch.inference_mode()
def plain_pass(loaded: LoadedModel) -> tuple[CellShape, Tensor]:
    """Run one pass without a paged cache, with the model's own attention.

    Returns:
        What the cache holds for a token in a layer, and the logits, [trial tokens, vocabulary_size], float32.

    Raises:
        UnsupportedModel: it differs between layers.
    """
    model = loaded.model
    cache = DynamicCache(config=model.config)
    model.set_attn_implementation("eager")
    try:
        token_ids = torch.tensor([_TRIAL_TOKENS], device=model.device) % loaded.description.vocabulary_size
        logits = model(input_ids=token_ids, past_key_values=cache, use_cache=True).logits[0].float()
    finally:
        model.set_attn_implementation(loaded.attention)
    layers: list[Any] = cache.layers
    left = {(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers}
    if len(left) != 1:
        raise UnsupportedModel(
            f"{loaded.description.model_id} keeps cells of different shapes in different layers; "
            "use a model whose layers are alike, such as Llama, GPT-2 or Qwen2"
        )
    kv_heads, key_dim, value_dim = left.pop()
    return CellShape(len(layers), kv_heads, key_dim, value_dim), logits


def compare_with_plain_pass(runner: TriedRunner, plain_logits: Tensor, description: ModelDescription) -> None:
    """Feed the same tokens over the paged cache: the first half as a prompt, the second in a decode pass.

    Raises:
        UnsupportedModel: the logits differ, so the model has a feature that is not known here.
    """
    tokens = tuple(token % description.vocabulary_size for token in _TRIAL_TOKENS)
    half = len(tokens) // 2
    with probed_slots(runner, 1) as ((slot,), _):
        runner.cache.pool.reserve(slot, range(PAGE_CELLS))
        runner.prefill(Rows(slot, 0, tokens[:half]))
        logits = runner.run([Rows(slot, half, tokens[half:])], len(tokens) - half).float()
    plain_logits = plain_logits[half:]
    error = float((logits - plain_logits).norm() / plain_logits.norm().clamp(min=1e-30))
    if not error < _TOLERANCE[description.dtype]:
        raise UnsupportedModel(
            f"{description.model_id} computes other logits over a paged cache than without one (relative error "
            f"{error:.2g}); use another architecture, such as Llama, GPT-2 or Qwen2"
        )
