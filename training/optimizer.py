"""The optimizers: Muon for the matrices inside the layers, AdamW for the embedding and the norms."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak learning rates of one model.

    Attributes:
        matrix_lr: of Muon, scaled so that an update has the root mean square an AdamW update would have.
        vector_lr: of AdamW.
        matrix_decay: decoupled weight decay of the matrices, per unit of learning rate.
    """

    matrix_lr: float
    vector_lr: float
    matrix_decay: float


def make_optimizers(model: nn.Module, rates: Rates) -> list[torch.optim.Optimizer]:
    """Divide a model's parameters between Muon and AdamW.

    Source: Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv 2502.16982 (scaling of the update).
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name and "head" not in name
        (matrices if is_matrix else vectors).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rates.matrix_lr, weight_decay=rates.matrix_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, lr=rates.vector_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
