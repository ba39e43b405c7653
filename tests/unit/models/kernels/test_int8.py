"""Quantised layers: near what they were made from, and the same bits for a row whatever stands beside it."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from sybil_engine.models.kernels.int8 import QuantizedLinear, input_range, quantize_linear_layers
from tests.unit.models.random_models import random_model

pytestmark = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="FBGEMM is for x86 processors"
)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize(("outputs", "inputs"), [(384, 384), (2048, 384), (384, 1024), (7, 5)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_row_has_the_same_bits_in_any_company(outputs: int, inputs: int, with_bias: bool) -> None:
    layer = QuantizedLinear(torch.randn(outputs, inputs), torch.randn(outputs) if with_bias else None)
    # Rows of very different size: a scale that they shared would show.
    rows = torch.randn(64, inputs) * torch.logspace(-4, 4, 64).unsqueeze(1)
    together = layer(rows)
    for count in range(1, 64):
        assert torch.equal(layer(rows[:count]), together[:count])
        assert torch.equal(layer(rows[64 - count :]), together[64 - count :])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_outputs_are_near_those_of_the_layer_it_was_made_from(scale: float) -> None:
    weight, bias, rows = torch.randn(96, 256), torch.randn(96) * scale, torch.randn(32, 256) * scale
    expected = nn.functional.linear(rows, weight, bias)
    error = (QuantizedLinear(weight, bias)(rows) - expected).norm() / expected.norm()
    # Two roundings to 8 bits of numbers whose largest are about three times their spread.
    assert 0.001 < error < 0.02


def test_without_vnni_two_products_fit_16_bits() -> None:
    largest, zero_point = input_range(vnni=False)
    assert zero_point - largest > 0
    assert 2 * (zero_point + largest) * 127 < 2**15


def test_the_narrow_range_is_less_exact_and_no_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    weight, rows = torch.randn(96, 256), torch.randn(32, 256)
    layer = QuantizedLinear(weight, None)
    expected = nn.functional.linear(rows, weight)
    assert 0.001 < (layer(rows) - expected).norm() / expected.norm() < 0.03


def test_rows_and_outputs_of_zeros_stay_zeros() -> None:
    weight = torch.randn(8, 16)
    weight[3] = 0
    rows = torch.randn(4, 16)
    rows[1] = 0
    product = QuantizedLinear(weight, None)(rows)
    assert (product[1] == 0).all()
    assert (product[:, 3] == 0).all()
    assert (product[0, :3] != 0).all()


def test_unpacked_weights_are_those_of_its_products() -> None:
    weight, bias = torch.randn(33, 20), torch.randn(33)
    layer = QuantizedLinear(weight, bias)
    weight_again, bias_again = layer.unpacked()
    assert torch.equal(bias_again, bias) if bias_again is not None else False
    assert (weight_again - weight).abs().max() <= weight.abs().max() / 127 / 2 * 1.01
    # One input of 1 and the others 0 is held exactly: out come that input's weights.
    for place in (0, 7, 19):
        row = torch.zeros(1, 20)
        row[0, place] = 1.0
        assert torch.allclose(layer(row)[0], weight_again[:, place] + bias, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_a_quantised_model_computes_nearly_what_it_computed(kind: str) -> None:
    model = random_model(kind).model
    token_ids = torch.arange(12).unsqueeze(0)
    model.set_attn_implementation("eager")
    before = model(input_ids=token_ids).logits
    linear_layers = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    assert quantize_linear_layers(model) == len(linear_layers)
    assert not any(isinstance(module, nn.Linear | Conv1D) for module in model.modules())
    after = model(input_ids=token_ids).logits
    assert 0 < (after - before).norm() / before.norm() < 0.1
