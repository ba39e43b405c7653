"""The pair: target and drafter trained together, so that the target also learns to be predictable.

A target trained alone knows its corpus half by heart and is sure of itself in ways that no small model can follow.
Here it grows by a few layers, and both models go on together: the target still learns next tokens, and both pay for
where their distributions differ. Peers of different size that learn from each other: Zhang et al. 2018, arXiv
1706.00384.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from training.attention import NAME as ATTENTION
from training.optimizer import Course, Rates, make_optimizers
from training.trainer import Phase, Plan, train
from training.windows import Windows
from training.workers import Loss

SEED = 3011
LAYERS = 12
AGREEMENT_WEIGHT = 1.0
"""What a nat of disagreement costs the target, in nats of next-token loss."""

TARGET_RATES = Rates(matrix_lr=2.5e-3, vector_lr=1.5e-3, matrix_decay=0.2)
DRAFT_RATES = Rates(matrix_lr=6e-3, vector_lr=3e-3, matrix_decay=0.02)
PLAN = Plan(
    phases=(Phase(window_tokens=1024, rows=8, piece_rows=2, tokens=430 * 8 * 1024),),
    course=Course(warmup_share=0.03, decay_share=0.9),
    seed=SEED,
)


class Pair(nn.Module):
    """Both models, as one thing to train."""

    def __init__(self, target: LlamaForCausalLM, draft: LlamaForCausalLM):
        super().__init__()
        self.target = target
        self.draft = draft


def load_for_training(folder: Path) -> LlamaForCausalLM:
    """Load a saved model in float32, with the attention that training uses."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=ATTENTION
    )
    model.config.use_cache = False
    return model


def add_layers(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """Make a deeper model that computes the same: new layers stand between old ones and add nothing yet.

    A new layer is a copy of the one before it whose output projections are zero.
    """
    config = LlamaConfig.from_dict({**model.config.to_dict(), "num_hidden_layers": layers})
    config._attn_implementation = ATTENTION
    grown = LlamaForCausalLM(config)
    old_layers = model.config.num_hidden_layers
    sources = [place * old_layers // layers for place in range(layers)]
    state = {name: weight for name, weight in model.state_dict().items() if ".layers." not in name}
    grown.load_state_dict(state, strict=False)
    for place, source in enumerate(sources):
        layer = grown.model.layers[place]
        layer.load_state_dict(model.model.layers[source].state_dict())
        if place and sources[place - 1] == source:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
    return grown


def pair_loss(pair: Pair, agreement_weight: float) -> Loss:
    """Next-token loss of the target, plus what the two models' disagreement costs both.

    Disagreement is the divergence of the drafter from the target, plus the negative logarithm of what the two
    distributions have in common.
    """
    for layer in (*pair.target.model.layers, *pair.draft.model.layers):
        layer.compile(dynamic=False)

    @torch.compile(dynamic=False)
    def costs(
        target_hidden: Tensor, draft_hidden: Tensor, target_head: Tensor, draft_head: Tensor, nexts: Tensor
    ) -> Tensor:
        target_logits = torch.nn.functional.linear(target_hidden, target_head).flatten(0, 1).float()
        draft_logits = torch.nn.functional.linear(draft_hidden, draft_head).flatten(0, 1).float()
        target_logprobs = torch.log_softmax(target_logits, dim=-1)
        draft_logprobs = torch.log_softmax(draft_logits, dim=-1)
        loss = -target_logprobs.gather(1, nexts.reshape(-1, 1)).squeeze(1)
        target_probs = target_logprobs.exp()
        divergence = (target_probs * (target_logprobs - draft_logprobs)).sum(-1)
        overlap = torch.minimum(target_probs, draft_logprobs.exp()).sum(-1)
        return torch.stack((loss.mean(), divergence.mean(), -overlap.log().mean()))

    def loss(token_ids: Tensor, next_token_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            target_hidden = pair.target.model(input_ids=token_ids).last_hidden_state
            draft_hidden = pair.draft.model(input_ids=token_ids).last_hidden_state
            next_token, divergence, difference = costs(
                target_hidden, draft_hidden, pair.target.lm_head.weight, pair.draft.lm_head.weight, next_token_ids
            )
        total: Tensor = next_token + agreement_weight * (divergence + difference)
        return total

    return loss


def train_pair(
    target_folder: Path,
    draft_folder: Path,
    documents: Sequence[Sequence[int]],
    checkpoint: Path,
) -> Pair:
    """Train a saved target, grown, and a saved drafter together, from the checkpoint if there is one."""
    torch.manual_seed(SEED)
    pair = Pair(add_layers(load_for_training(target_folder), LAYERS), load_for_training(draft_folder))
    optimizers = [*make_optimizers(pair.target, TARGET_RATES), *make_optimizers(pair.draft, DRAFT_RATES)]
    sources = [Windows(documents, phase.window_tokens, phase.rows, SEED) for phase in PLAN.phases]
    train(pair, optimizers, partial(pair_loss, agreement_weight=AGREEMENT_WEIGHT), sources, PLAN, checkpoint, "pair")
    return pair
