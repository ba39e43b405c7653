"""The target: an 8-layer Llama trained on next-token loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training import attention
from training.optimizer import Course, Rates, make_optimizers
from training.tokenizer import CONTEXT_TOKENS
from training.trainer import Phase, Plan, train
from training.windows import Windows
from training.workers import Loss

SEED = 2026

CONFIG = LlamaConfig(
    hidden_size=384,
    intermediate_size=1024,
    num_hidden_layers=8,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=CONTEXT_TOKENS,
    tie_word_embeddings=True,
)

FIRST_CYCLE = Plan(
    phases=(
        Phase(window_tokens=512, rows=12, piece_rows=2, tokens=343 * 12 * 512),
        Phase(window_tokens=1024, rows=8, piece_rows=2, tokens=390 * 8 * 1024),
    ),
    course=Course(warmup_share=0.02, decay_share=0.6),
    seed=SEED,
)
FIRST_RATES = Rates(matrix_lr=4e-3, vector_lr=3e-3, matrix_decay=0.1)
LOWER_RATES = Rates(matrix_lr=2e-3, vector_lr=1e-3, matrix_decay=0.3)


def lower_cycle(steps: int, seed: int) -> Plan:
    """Plan another rise and fall of the rates, half as high, over the same text in another order."""
    return Plan(
        phases=(Phase(window_tokens=1024, rows=8, piece_rows=2, tokens=steps * 8 * 1024),),
        course=Course(warmup_share=0.05, decay_share=0.9),
        seed=seed,
    )


CYCLES = (
    (FIRST_CYCLE, FIRST_RATES),
    (lower_cycle(140, SEED + 10), LOWER_RATES),
    (lower_cycle(150, SEED + 11), LOWER_RATES),
)


def make_model(config: LlamaConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Make an untrained model that fits the tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig.from_dict(config.to_dict())
    config.vocab_size = len(tokenizer)
    config.bos_token_id = None
    config.eos_token_id = tokenizer.eos_token_id
    config.use_cache = False
    config._attn_implementation = attention.NAME
    return LlamaForCausalLM(config)


def next_token_loss(model: LlamaForCausalLM) -> Loss:
    """Cross-entropy of the next token, compiled layer by layer: all layers share one compilation."""
    for layer in model.model.layers:
        layer.compile(dynamic=False)

    @torch.compile(dynamic=False)
    def cross_entropy(hidden: Tensor, weight: Tensor, next_token_ids: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(hidden, weight).flatten(0, 1).float()
        chosen = logits.gather(1, next_token_ids.reshape(-1, 1)).squeeze(1)
        return (torch.logsumexp(logits, dim=-1) - chosen).mean()

    def loss(token_ids: Tensor, next_token_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=token_ids).last_hidden_state
            return cross_entropy(hidden, model.lm_head.weight, next_token_ids)

    return loss


def train_target(
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[Sequence[int]],
    cycles: Sequence[tuple[Plan, Rates]],
    work: Path,
) -> LlamaForCausalLM:
    """Train the target, cycle after cycle, from the last checkpoint in `work` if there is one."""
    model = make_model(CONFIG, tokenizer, SEED)
    for number, (plan, rates) in enumerate(cycles, 1):
        sources = [
            Windows(documents, phase.window_tokens, phase.rows, plan.seed + index)
            for index, phase in enumerate(plan.phases)
        ]
        optimizers = make_optimizers(model, rates)
        name = f"target {number}/{len(cycles)}"
        train(model, optimizers, next_token_loss, sources, plan, work / f"target-{number}.pt", name)
    return model


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save weights as bfloat16, with config, generation config and tokenizer."""
    config = LlamaConfig.from_dict(model.config.to_dict())
    config.use_cache = True
    config._attn_implementation = "sdpa"
    saved = LlamaForCausalLM(config)
    saved.load_state_dict(model.state_dict())
    saved.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id)
    for parameter in saved.parameters():
        # Every number fits float16, too, so that the engine can pack the weights without loss.
        parameter.data = parameter.data.bfloat16().half().bfloat16()
    saved.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
