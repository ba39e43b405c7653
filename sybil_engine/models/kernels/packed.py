"""Linear layers with packed weights: float32 products that read half the bytes, with the same bits for any row count.

FBGEMM, which comes with torch on x86 processors, stores a weight as float16 in the order in which its kernels read it,
and multiplies and sums in float32. Where its kernels sum a row in the same order whatever other rows there are, packed
layers put all row counts into one shape class. A weight is packed only if float16 holds each of its numbers exactly,
so packing never changes a model. This is so for weights saved as float16, and for weights saved as bfloat16 without
numbers below about 1e-5 (`training` rounds these).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


class PackedLinear(nn.Module):
    """Inputs times packed weights, plus bias; all in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Pack a weight, [outputs, inputs], whose numbers float16 holds exactly, and a bias, [outputs]."""
        super().__init__()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def unpacked(self) -> tuple[Tensor, Tensor | None]:
        """The weight, [outputs, inputs], float32, and the bias, [outputs], if any. Unpacks at each call."""
        weight, bias = torch.ops.quantized.linear_unpack_fp16(self._packed)
        return weight, bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply [..., inputs], float32, into [..., outputs]."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs, self._packed)
        return product


def pack_linear_layers(model: PreTrainedModel) -> int:
    """Replace in place every linear layer that can be packed without loss.

    Returns:
        How many layers were replaced: 0 on another device or dtype, or without FBGEMM.
    """
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return 0
    found: list[tuple[nn.Module, str, Any]] = [
        (parent, name, module)
        for parent in model.modules()
        for name, module in parent.named_children()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    replaced = 0
    for parent, name, module in found:
        weight = module.weight.detach()
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.equal(weight.half().float(), weight):
            matrix = weight if isinstance(module, nn.Linear) else weight.mT.contiguous()
            bias = None if module.bias is None else module.bias.detach()
            setattr(parent, name, PackedLinear(matrix, bias))
            replaced += 1
    return replaced
