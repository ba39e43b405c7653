"""A model's matrix products, tested one by one, because row counts matter most in them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sybil_engine.models.kernels.int8 import QuantizedLinear
from sybil_engine.models.kernels.packed import PackedLinear

_CANCELLED_OUTPUTS = 64


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product of a model.

    Attributes:
        apply: [1, rows, inputs] to [1, rows, outputs].
        weight: [outputs, inputs].
        bias: [outputs], if there is one.
    """

    apply: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None


@torch.inference_mode()
def products_of(model: nn.Module) -> list[Product]:
    """One product of each kind and size in the model."""
    found: dict[tuple[object, ...], Product] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D | PackedLinear | QuantizedLinear):
            weight, bias = _weight_of(module)
            key = (type(module), weight.shape, weight.stride(), bias is None)
            found.setdefault(key, Product(module, weight, bias))
    return list(found.values())


def telling_inputs(product: Product, rows: int, generator: torch.Generator) -> Tensor:
    """Inputs whose products with some of the weights almost cancel, so that rounding differences show.

    In bfloat16 the final rounding hides all but one difference in many thousands; where large terms cancel, one in
    about 64 shows.

    Returns:
        [rows, inputs], in the weight's dtype.
    """
    outputs, inputs = product.weight.shape
    some = min(outputs, inputs // 2, _CANCELLED_OUTPUTS)
    chosen = torch.linspace(0, outputs - 1, some, dtype=torch.double).long().to(product.weight.device)
    weight = product.weight[chosen].double()
    wanted = torch.zeros(some, dtype=torch.double, device=weight.device)
    if product.bias is not None:
        wanted -= product.bias[chosen].double()
    start = torch.randn(rows, inputs, generator=generator, dtype=torch.double).to(weight.device)
    cancelling: Tensor = start + (wanted - start @ weight.mT) @ torch.linalg.pinv(weight).mT
    return cancelling.to(product.weight.dtype)


def outputs_in_groups(product: Product, inputs: Tensor, rows: int) -> Tensor:
    """[all rows, outputs]: the product of `inputs`, computed `rows` rows at a time; the last group is zero-padded."""
    padded = torch.nn.functional.pad(inputs, (0, 0, 0, -len(inputs) % rows))
    parts = [product.apply(group.unsqueeze(0))[0] for group in padded.split(rows)]
    return torch.cat(parts)[: len(inputs)]


def _weight_of(layer: nn.Linear | Conv1D | PackedLinear | QuantizedLinear) -> tuple[Tensor, Tensor | None]:
    """[outputs, inputs], and [outputs] if there is a bias."""
    if isinstance(layer, PackedLinear | QuantizedLinear):
        return layer.unpacked()
    return (layer.weight if isinstance(layer, nn.Linear) else layer.weight.mT), layer.bias
