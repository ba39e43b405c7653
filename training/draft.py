"""The drafter: one Llama layer distilled from the target's distributions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.optimizer import Course, Rates, make_optimizers
from training.target import make_model
from training.tokenizer import CONTEXT_TOKENS
from training.trainer import Phase, Plan, train
from training.workers import Loss

SEED = 1112
OVERLAP_WEIGHT = 1.0
TEACHER_ROWS = 2
READ_TOKENS = 1_200_000
"""Part of the corpus that the target reads; more would leave less time to learn from it."""

CONFIG = LlamaConfig(
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=CONTEXT_TOKENS,
    tie_word_embeddings=True,
)

PLAN = Plan(
    phases=(Phase(window_tokens=CONTEXT_TOKENS, rows=4, piece_rows=1, tokens=3_600_000),),
    course=Course(warmup_share=0.02, decay_share=0.6),
    seed=SEED,
)
RATES = Rates(matrix_lr=6e-3, vector_lr=3e-3, matrix_decay=0.02)


class TaughtWindows:
    """Windows of the corpus, and what the target thinks at each of their tokens.

    The target's last hidden states stand for its distributions: they take a tenth of the memory, and its head turns
    one into the other at a small part of the price of a pass. So the target reads the corpus once, and the drafter
    learns from it for several epochs.
    """

    def __init__(self, target_folder: Path, documents: Sequence[Sequence[int]], phase: Phase, seed: int, read: Path):
        documents = list(documents)
        random.Random(seed).shuffle(documents)
        tokens = torch.tensor(list(chain.from_iterable(documents)))[:READ_TOKENS]
        self._windows = tokens[: len(tokens) // phase.window_tokens * phase.window_tokens].view(-1, phase.window_tokens)
        if not read.exists():
            torch.save(teacher_states(target_folder, self._windows), read)
        self._hidden = torch.load(read, weights_only=True)
        self._rows = phase.rows
        self._seed = seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Windows of one step, the same for the same seed and step.

        Returns:
            [rows, window_tokens], int64, and the target's last hidden states, [rows, window_tokens, hidden], bfloat16.
        """
        epoch, place = divmod(step, len(self._windows) // self._rows)
        order = torch.randperm(len(self._windows), generator=torch.Generator().manual_seed(self._seed + epoch))
        chosen = order[place * self._rows : (place + 1) * self._rows]
        return self._windows[chosen], self._hidden[chosen]


def teacher_states(target_folder: Path, windows: Tensor) -> Tensor:
    """Let the target read every window, in as many processes as torch has threads.

    Args:
        target_folder: the saved target.
        windows: [count, window_tokens], int64.

    Returns:
        [count, window_tokens, hidden], bfloat16: the last hidden states, after the final norm.
    """
    hidden_size = LlamaConfig.from_pretrained(target_folder).hidden_size
    states = torch.empty(*windows.shape, hidden_size, dtype=torch.bfloat16)
    states.share_memory_()
    processes = torch.get_num_threads()
    spawn(_read, (target_folder, windows, states, processes), processes)
    return states


@torch.no_grad()
def _read(rank: int, target_folder: Path, windows: Tensor, states: Tensor, processes: int) -> None:
    """Read this process's share of the windows."""
    torch.set_num_threads(1)
    target = load_target(target_folder)
    starts = range(rank * TEACHER_ROWS, len(windows), processes * TEACHER_ROWS)
    for start in track(starts, description="target reads", disable=rank > 0):
        rows = windows[start : start + TEACHER_ROWS]
        states[start : start + TEACHER_ROWS] = target.model(input_ids=rows, use_cache=False).last_hidden_state


def load_target(folder: Path) -> LlamaForCausalLM:
    """Load the saved target as it is stored, in bfloat16."""
    target: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return target


def distillation_loss(draft: LlamaForCausalLM, target_head: Tensor) -> Loss:
    """Divergence from the target's distributions, plus the negative logarithm of what the two have in common.

    The common part, the sum over the vocabulary of the smaller probability, is what the ratio test accepts and what
    shared noise comes close to.

    Args:
        draft: the model to train.
        target_head: [vocabulary, hidden], bfloat16, what turns the target's hidden states into logits.
    """

    @torch.compile(dynamic=False)
    def loss(token_ids: Tensor, target_hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = draft.model(input_ids=token_ids).last_hidden_state
            draft_logits = torch.nn.functional.linear(hidden, draft.lm_head.weight).flatten(0, 1)
            target_logits = torch.nn.functional.linear(target_hidden, target_head).flatten(0, 1)
        draft_logprobs = torch.log_softmax(draft_logits.float(), dim=-1)
        target_logprobs = torch.log_softmax(target_logits.float(), dim=-1)
        target_probs = target_logprobs.exp()
        divergence = (target_probs * (target_logprobs - draft_logprobs)).sum(-1)
        overlap = torch.minimum(target_probs, draft_logprobs.exp()).sum(-1)
        return (divergence - OVERLAP_WEIGHT * overlap.log()).mean()

    return loss


def start_from_target(draft: LlamaForCausalLM, target: LlamaForCausalLM) -> None:
    """Start the drafter's embedding as the target's, seen along its principal directions."""
    embedding = target.lm_head.weight.detach().float()
    _, _, directions = torch.linalg.svd(embedding, full_matrices=False)
    width = draft.config.hidden_size
    with torch.no_grad():
        draft.lm_head.weight.copy_(embedding @ directions[:width].T)


def train_draft(
    target_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[Sequence[int]],
    plan: Plan,
    checkpoint: Path,
    config: LlamaConfig = CONFIG,
) -> LlamaForCausalLM:
    """Distil a drafter from a saved target, from its checkpoint if there is one."""
    target = load_target(target_folder)
    draft = make_model(config, tokenizer, plan.seed)
    start_from_target(draft, target)
    head = target.lm_head.weight.detach().clone()
    sources = [
        TaughtWindows(target_folder, documents, phase, plan.seed, checkpoint.with_suffix(".read.pt"))
        for phase in plan.phases
    ]
    optimizers = make_optimizers(draft, RATES)
    train(draft, optimizers, partial(distillation_loss, target_head=head), sources, plan, checkpoint, "draft")
    return draft
