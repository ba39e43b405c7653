"""Shaping a row's logits before a token is drawn. Drafter and verifier call the same function.

The order is temperature, top-k, top-p, min-p; each works on the renormalised result of the one before it. Ties go to
the lowest token id.
"""

import math

import torch
from torch import Tensor

from sybil_engine.core.types import SamplingParams


def shape_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Apply temperature, top-k, top-p and min-p.

    Args:
        logits: [rows, vocabulary], float32.

    Returns:
        [rows, vocabulary], float32: log-probabilities up to a constant for each row, -inf for dropped tokens. Under
        greedy sampling, the logits themselves, of which the draw takes the largest.
    """
    if params.greedy:
        return logits
    # With the largest logit subtracted, the quotients cannot overflow, however low the temperature.
    temperature = max(params.temperature, torch.finfo(torch.float32).tiny)
    shaped = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    if params.top_k or params.top_p < 1:
        shaped = _keep_most_likely(shaped, params.top_k, params.top_p)
    if params.min_p:
        floor = shaped.amax(dim=-1, keepdim=True) + math.log(params.min_p)
        shaped = shaped.masked_fill(shaped < floor, -math.inf)
    return shaped


def _keep_most_likely(shaped: Tensor, top_k: int, top_p: float) -> Tensor:
    ordered, token_ids = torch.sort(shaped, dim=-1, descending=True, stable=True)
    if top_k:
        ordered[:, top_k:] = -math.inf
    if top_p < 1:
        probabilities = torch.softmax(ordered, dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        dropped = before >= top_p
        # The most likely token always stays, even if top_p is too small for a float32.
        dropped[:, 0] = False
        ordered = ordered.masked_fill(dropped, -math.inf)
    return torch.empty_like(shaped).scatter_(-1, token_ids, ordered)
