"""Linear layers with 8-bit weights: a quarter of float32's bytes, and integer products.

Each output's weights are scaled so that the largest is 127. Each row of inputs is scaled so that its largest becomes 1,
and rounded to 8 bits for the product (FBGEMM, which comes with torch on x86 processors). Integer sums do not depend on
their order, and each row has its own scale, so a row's bits do not depend on other rows. Attention and norms stay in
float32, and pass shapes are probed as for other types.

Quantising makes another model; output is exact relative to that one.
"""

import warnings

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_LARGEST = 127
# All-zero rows and outputs need a scale above 0, since it is divided by.
_LEAST_SCALE = 1e-30


class QuantizedLinear(nn.Module):
    """Inputs times 8-bit weights, plus bias; inputs and outputs are float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise a weight, [outputs, inputs]; a bias, [outputs], stays as it is."""
        super().__init__()
        self._scales = (weight.abs().amax(dim=1) / _LARGEST).clamp_(min=_LEAST_SCALE)
        self._bias = bias
        self._whole = (weight / self._scales.unsqueeze(1)).round().to(torch.int8)
        self._packed = _pack(self._whole, self._scales)
        # torch has no public name for this.
        largest, self._zero_point = input_range(vnni=torch.cpu._is_vnni_supported())
        self._input_scale = 1 / largest

    def unpacked(self) -> tuple[Tensor, Tensor | None]:
        """The quantised weight, [outputs, inputs], as float32, and the bias, [outputs], if any."""
        return self._whole * self._scales.unsqueeze(1), self._bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply [..., inputs], float32, into [..., outputs]."""
        largest = torch.linalg.vector_norm(inputs, float("inf"), dim=-1, keepdim=True).clamp_(min=_LEAST_SCALE)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            inputs / largest, self._input_scale, self._zero_point, self._packed
        )
        product = product.mul_(largest)
        return product if self._bias is None else product.add_(self._bias)


def input_range(*, vnni: bool) -> tuple[int, int]:
    """The largest quantised input, and the zero point (inputs are unsigned).

    Without VNNI, pairs of products are added in 16 bits, so inputs must stay below 128.
    """
    return (127, 128) if vnni else (63, 64)


def quantize_linear_layers(model: PreTrainedModel) -> int:
    """Replace in place every linear layer of a float32 model on a processor; embeddings stay as they are.

    Returns:
        How many layers were replaced.
    """
    found = [
        (parent, name, module)
        for parent in model.modules()
        for name, module in parent.named_children()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    for parent, name, module in found:
        weight = module.weight.detach()
        matrix = weight if isinstance(module, nn.Linear) else weight.mT.contiguous()
        bias: Tensor | None = module.bias  # torch's annotation omits None
        setattr(parent, name, QuantizedLinear(matrix, None if bias is None else bias.detach()))
    return len(found)


def _pack(whole: Tensor, scales: Tensor) -> object:
    with warnings.catch_warnings():
        # torch warns that it will drop quantised tensors; its version is pinned.
        warnings.simplefilter("ignore")
        weight = torch._make_per_channel_quantized_tensor(
            whole, scales.double(), torch.zeros(len(scales), dtype=torch.long), 0
        )
        return torch.ops.quantized.linear_prepack(weight, None)
