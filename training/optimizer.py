"""The optimizer: Muon for the matrices inside the layers, AdamW for the embedding and the norms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
RMS_OF_UPDATE = 0.2


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


@dataclass(frozen=True, slots=True)
class Course:
    """How the rates rise and fall.

    Attributes:
        warmup_share: part of all tokens over which the rates rise.
        decay_share: part of all tokens, at the end, over which the rates fall to nothing.
    """

    warmup_share: float
    decay_share: float


def rate_factor(course: Course, progress: float) -> float:
    """Warm up, stay, decay: the factor on the peak rates after a share `progress` of all tokens."""
    rising = progress / course.warmup_share
    falling = (1.0 - progress) / course.decay_share
    return max(0.0, min(1.0, rising, falling))


class Muon(torch.optim.Optimizer):
    """Momentum whose updates are made orthogonal, matrices of one shape all at once.

    Source: Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv 2502.16982 (scaling of the update).
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix from its gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                by_shape[_wide(matrix).shape].append(matrix)
            for matrices in by_shape.values():
                momenta = torch.stack([_wide(self._momentum(matrix, group["momentum"])) for matrix in matrices])
                for matrix, update in zip(matrices, orthogonalize(momenta), strict=True):
                    matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
                    scale = RMS_OF_UPDATE * max(matrix.shape) ** 0.5
                    matrix.add_(update if matrix.shape == update.shape else update.mT, alpha=-group["lr"] * scale)

    def _momentum(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov momentum of one matrix."""
        if matrix.grad is None:
            raise RuntimeError("a matrix has no gradient: give Muon only the matrices that the loss depends on")
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        average: Tensor = state["momentum"]
        average.lerp_(matrix.grad, 1.0 - momentum)
        return matrix.grad.lerp(average, momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Move every singular value close to 1 (Newton-Schulz, in bfloat16).

    Args:
        matrices: [count, rows, columns], no more rows than columns.

    Returns:
        [count, rows, columns], float32.
    """
    linear, cubic, quintic = NEWTON_SCHULZ_COEFFICIENTS
    current = matrices.bfloat16()
    current = current / (current.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = current @ current.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        current = torch.baddbmm(current, polynomial, current, beta=linear)
    return current.float()


def make_optimizers(model: nn.Module, rates: Rates) -> tuple[Muon, torch.optim.AdamW]:
    """Share a model's parameters out between Muon and AdamW."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "head" not in name]
    taken = {id(matrix) for matrix in matrices}
    vectors = [p for p in model.parameters() if id(p) not in taken]
    return (
        Muon(matrices, lr=rates.matrix_lr, weight_decay=rates.matrix_decay),
        torch.optim.AdamW(vectors, lr=rates.vector_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )


def _wide(matrix: Tensor) -> Tensor:
    """The matrix, or its transpose if it has more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
