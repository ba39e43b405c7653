"""The target: an 8-layer Llama trained on next-token loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training import attention
from training.optimizer import OptimizerSettings
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

PLAN = Plan(
    phases=(
        Phase(window_tokens=512, rows=12, piece_rows=2, tokens=343 * 12 * 512),
        Phase(window_tokens=1024, rows=8, piece_rows=2, tokens=390 * 8 * 1024),
    ),
    optimizer=OptimizerSettings(matrix_lr=4e-3, vector_lr=3e-3, matrix_decay=0.1, warmup_share=0.02, decay_share=0.6),
    seed=SEED,
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
    """Cross-entropy of the next token, compiled as a whole (layer by layer is quicker to compile and slower to run)."""

    @torch.compile(dynamic=False)
    def cross_entropy(token_ids: Tensor, next_token_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=token_ids).last_hidden_state
            logits = torch.nn.functional.linear(hidden, model.lm_head.weight).flatten(0, 1).float()
            chosen = logits.gather(1, next_token_ids.reshape(-1, 1)).squeeze(1)
            return (torch.logsumexp(logits, dim=-1) - chosen).mean()

    return cross_entropy


def train_target(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Sequence[int]], plan: Plan, checkpoint: Path
) -> LlamaForCausalLM:
    """Train the target, from its checkpoint if there is one."""
    model = make_model(CONFIG, tokenizer, plan.seed)
    sources = [
        Windows(documents, phase.window_tokens, phase.rows, plan.seed + index)
        for index, phase in enumerate(plan.phases)
    ]
    train(model, next_token_loss, sources, plan, checkpoint, "target")
    return model


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save weights as bfloat16, with config, generation config and tokenizer."""
    config = LlamaConfig.from_dict(model.config.to_dict())
    config.use_cache = True
    config._attn_implementation = "sdpa"
    saved = LlamaForCausalLM(config)
    saved.load_state_dict(model.state_dict())
    saved.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id
    )
    saved.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
