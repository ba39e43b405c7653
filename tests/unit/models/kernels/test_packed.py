"""Packed layers compute what stock ones do, the same bits for any number of rows, and only where nothing is lost."""

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sybil_engine.models.kernels.fused_norm import FusedRMSNorm, fuse_norms
from sybil_engine.models.kernels.packed import PackedLinear, pack_linear_layers
from tests.unit.models.random_models import random_model

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="FBGEMM is for x86 processors"
)


def held_by_float16(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).half().float()


@pytest.mark.parametrize(("outputs", "inputs"), [(384, 384), (128, 384), (1024, 384), (384, 1024), (7, 5)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_passes_of_many_sizes_give_each_row_the_same_bits(outputs: int, inputs: int, with_bias: bool) -> None:
    weight = held_by_float16(outputs, inputs)
    bias = held_by_float16(outputs) if with_bias else None
    layer = PackedLinear(weight, bias)
    rows = torch.randn(64, inputs)
    together = layer(rows)
    agreeing = {
        count
        for count in range(1, 64)
        if torch.equal(layer(rows[:count]), together[:count])
        and torch.equal(layer(rows[64 - count :]), together[64 - count :])
    }
    # Without AVX-512, FBGEMM has kernels of one and two rows that sum in another order; the probe leaves out the sizes
    # that need them.
    assert agreeing >= {3, 4, 5, 6, 8, 10, 12, 16, 24, 48}
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert agreeing == set(range(1, 64))
    assert torch.allclose(together, nn.functional.linear(rows, weight, bias), atol=1e-3)


def test_the_weights_come_back_as_they_were() -> None:
    weight, bias = held_by_float16(33, 20), held_by_float16(33)
    layer = PackedLinear(weight, bias)
    weight_again, bias_again = layer.unpacked()
    assert torch.equal(weight_again, weight)
    assert bias_again is not None
    assert torch.equal(bias_again, bias)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_a_packed_model_computes_what_it_computed(kind: str) -> None:
    model = random_model(kind, torch.float32).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    token_ids = torch.arange(12).unsqueeze(0)
    model.set_attn_implementation("eager")
    before = model(input_ids=token_ids).logits
    linear_layers = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    assert pack_linear_layers(model) == len(linear_layers)
    fused = fuse_norms(model)
    assert fused == sum(isinstance(module, FusedRMSNorm) for module in model.modules())
    assert (fused > 0) == (kind != "gpt2")
    assert torch.allclose(model(input_ids=token_ids).logits, before, atol=1e-3)


@pytest.mark.parametrize("number", [1e-9, 1 + 1e-6, 1e6])
def test_a_layer_with_one_number_that_float16_cannot_hold_is_left_alone(number: float) -> None:
    model = random_model("llama", torch.float32).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
        model.model.layers[0].mlp.up_proj.weight[0, 0] = number
    pack_linear_layers(model)
    assert isinstance(model.model.layers[0].mlp.up_proj, nn.Linear)
    assert isinstance(model.model.layers[0].mlp.down_proj, PackedLinear)
