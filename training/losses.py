"""The losses: next tokens for the target alone, and agreement for the two together.

Layers are compiled one by one, so that all of them share one compilation.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, nll_loss
from transformers import LlamaForCausalLM

from training.models import TrainedPair
from training.workers import Loss


def next_token_loss(model: LlamaForCausalLM) -> Loss:
    """Cross-entropy of the next token."""
    for layer in model.model.layers:
        layer.compile(dynamic=False)

    @torch.compile(dynamic=False)
    def cost(hidden: Tensor, weight: Tensor, next_token_ids: Tensor) -> Tensor:
        return cross_entropy(linear(hidden, weight).flatten(0, 1).float(), next_token_ids.flatten())

    def loss(token_ids: Tensor, next_token_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=token_ids).last_hidden_state
            return cost(hidden, model.lm_head.weight, next_token_ids)

    return loss


def pair_loss(pair: TrainedPair, agreement_weight: float, best_guess_weight: float = 0.0) -> Loss:
    """Next-token loss of the target, plus the two models' disagreement.

    Disagreement is the divergence of the drafter from the target, plus the negative logarithm of the overlap of the two
    distributions. The overlap, the sum over the vocabulary of the smaller probability, is the ratio test's acceptance
    rate, and close to that of shared noise. For greedy acceptance, the negative logarithm of the drafter's probability
    of the target's most likely token can be added.
    """
    for layer in (*pair.target.model.layers, *pair.draft.model.layers):
        layer.compile(dynamic=False)

    @torch.compile(dynamic=False)
    def costs(
        target_hidden: Tensor, draft_hidden: Tensor, target_head: Tensor, draft_head: Tensor, next_token_ids: Tensor
    ) -> Tensor:
        target_logprobs = torch.log_softmax(linear(target_hidden, target_head).flatten(0, 1).float(), dim=-1)
        draft_logprobs = torch.log_softmax(linear(draft_hidden, draft_head).flatten(0, 1).float(), dim=-1)
        next_token = nll_loss(target_logprobs, next_token_ids.flatten())
        target_probs = target_logprobs.exp()
        divergence = (target_probs * (target_logprobs - draft_logprobs)).sum(-1)
        overlap = torch.minimum(target_probs, draft_logprobs.exp()).sum(-1)
        best_guess = draft_logprobs.gather(1, target_logprobs.argmax(-1, keepdim=True))
        return torch.stack((next_token, divergence.mean(), -overlap.log().mean(), -best_guess.mean()))

    def loss(token_ids: Tensor, next_token_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            target_hidden = pair.target.model(input_ids=token_ids).last_hidden_state
            draft_hidden = pair.draft.model(input_ids=token_ids).last_hidden_state
            next_token, divergence, difference, best_guess = costs(
                target_hidden, draft_hidden, pair.target.lm_head.weight, pair.draft.lm_head.weight, next_token_ids
            )
        total: Tensor = next_token + agreement_weight * (divergence + difference) + best_guess_weight * best_guess
        return total

    return loss
