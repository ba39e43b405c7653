"""The evaluation of a saved pair: loss and acceptance on left-out modules, and the time of a pass."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from sybil_engine.core.noise import gumbel_noise
from sybil_engine.core.types import SamplingParams
from sybil_engine.prompts import Prompt
from sybil_engine.sampling.draw import draw_tokens
from sybil_engine.sampling.shaping import shape_logits
from training.corpus import SourceFile
from training.tokenizer import CONTEXT_TOKENS

TEMPERATURES = (0.0, 0.7, 1.0)
STRIDE_TOKENS = 512
CONTINUATION_TOKENS = 256
LOSS_EVERY_WINDOWS = 4
TESTED_EVERY_WINDOWS = 8
TESTED_EVERY_TOKENS = 2
CONTINUED_EVERY_PROMPTS = 3
"""A part of the left-out text is enough to compare pairs, and takes minutes on two cores."""

SAMPLE_TEMPERATURE = 0.7
SAMPLE_TOKENS = 96
NOISE_SEED = 7
RATIO_TEST_TOKENS = 64
TIMED_PASSES = 200
TIMED_CONTEXT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A piece of text and the part of it that counts.

    Attributes:
        group: the module or prompt that figures are averaged over.
        token_ids: context and counted tokens.
        first_counted: index of the first token whose prediction counts; at least 1.
    """

    group: str
    token_ids: tuple[int, ...]
    first_counted: int


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often the drafter's token is accepted.

    Attributes:
        temperature: of both models.
        shared_noise: acceptance_rate under shared noise.
        ratio_test: acceptance_rate under the ratio test, the draft cut to its most likely 64; in expectation.
        tested_tokens: number of positions.
    """

    temperature: float
    shared_noise: float
    ratio_test: float
    tested_tokens: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of a saved pair.

    Attributes:
        loss: of the target on left-out modules.
        text_acceptance: after left-out text, by temperature.
        continuation_acceptance: after text that the target wrote at that temperature.
        target_pass_ms: median time of a target pass of one row.
        draft_pass_ms: the same of the drafter.
        parameters: by model name.
        weight_bytes: by model name, as saved.
        samples: the first prompt of each category and the beginning of what the target wrote at temperature 0.7.
    """

    loss: TextLoss
    text_acceptance: list[Acceptance]
    continuation_acceptance: list[Acceptance]
    target_pass_ms: float
    draft_pass_ms: float
    parameters: dict[str, int]
    weight_bytes: dict[str, int]
    samples: list[tuple[Prompt, str]]


@dataclass(frozen=True, slots=True)
class TextLoss:
    """How well the target predicts left-out text.

    Attributes:
        nats_per_token: mean over tokens.
        nats_per_token_by_module: mean over each module's tokens.
        bits_per_byte: the same text's cost, whatever the tokenizer.
        tokens: predicted tokens.
    """

    nats_per_token: float
    nats_per_token_by_module: dict[str, float]
    bits_per_byte: float
    tokens: int

    @property
    def mean_of_modules(self) -> float:
        """Mean over modules in nats per token, each module counting the same."""
        return statistics.fmean(self.nats_per_token_by_module.values())


def evaluate(
    target_folder: Path,
    draft_folder: Path,
    files: Sequence[SourceFile],
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerFast,
) -> Evaluation:
    """Evaluate saved weights on left-out files."""
    target, draft = (
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (target_folder, draft_folder)
    )
    windows = text_windows(files, tokenizer)
    prompts = prompts[::CONTINUED_EVERY_PROMPTS]
    continuations = {
        temperature: continue_prompts(target, tokenizer, prompts, temperature) for temperature in TEMPERATURES
    }
    target_pass_ms, draft_pass_ms = time_passes(target, draft)
    return Evaluation(
        loss=measure_loss(target, thin(windows, LOSS_EVERY_WINDOWS), tokenizer),
        text_acceptance=measure_acceptance(target, draft, thin(windows, TESTED_EVERY_WINDOWS), TEMPERATURES),
        continuation_acceptance=[
            acceptance
            for temperature, written in continuations.items()
            for acceptance in measure_acceptance(target, draft, written, [temperature])
        ],
        target_pass_ms=target_pass_ms,
        draft_pass_ms=draft_pass_ms,
        parameters={"target": target.num_parameters(), "draft": draft.num_parameters()},
        weight_bytes={
            folder.name: (folder / "model.safetensors").stat().st_size for folder in (target_folder, draft_folder)
        },
        samples=[
            (prompt, str(tokenizer.decode(list(written.token_ids[written.first_counted :][:SAMPLE_TOKENS]))))
            for prompt, written in zip(prompts, continuations[SAMPLE_TEMPERATURE], strict=True)
            if prompt.category not in {earlier.category for earlier in prompts[: prompts.index(prompt)]}
        ],
    )


def text_windows(files: Sequence[SourceFile], tokenizer: PreTrainedTokenizerFast) -> list[TextWindow]:
    """Cut files into windows of the whole context, of which the second half counts (of a file's first window, all).

    Each file is put between two end-of-text tokens; predicting the second one counts.
    """
    end = tokenizer.eos_token_id
    windows = []
    for file in files:
        token_ids = (end, *tokenizer(file.text, verbose=False).input_ids, end)
        counted = 1
        while counted < len(token_ids):
            start = max(0, counted - STRIDE_TOKENS)
            windows.append(TextWindow(file.module, token_ids[start : start + CONTEXT_TOKENS], counted - start))
            counted = start + CONTEXT_TOKENS
    return windows


@torch.inference_mode()
def continue_prompts(
    target: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], temperature: float
) -> list[TextWindow]:
    """Let the target continue each prompt by up to 256 tokens, which count."""
    end = tokenizer.eos_token_id
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(NOISE_SEED)
    batch = tokenizer([prompt.prompt for prompt in prompts], return_tensors="pt", padding=True)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    written: Tensor = target.generate(  # type: ignore[assignment, misc]
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=CONTINUATION_TOKENS,
        pad_token_id=end,
        **sampling,
    )
    windows = []
    for prompt, mask, row in zip(prompts, batch.attention_mask.tolist(), written.tolist(), strict=True):
        context = row[mask.index(1) : len(mask)]
        continuation = row[len(mask) :]
        if end in continuation:
            continuation = continuation[: continuation.index(end) + 1]
        windows.append(TextWindow(prompt.id, (*context, *continuation), len(context)))
    return windows


@torch.inference_mode()
def counted_logits(model: LlamaForCausalLM, window: TextWindow) -> Tensor:
    """Logits that predict a window's counted tokens.

    Returns:
        [counted tokens, vocabulary], float32.
    """
    logits: Tensor = model(input_ids=torch.tensor([window.token_ids[:-1]])).logits
    return logits[0, window.first_counted - 1 :]


def thin(windows: Sequence[TextWindow], every: int) -> list[TextWindow]:
    """Keep each group's first window and every `every`-th after it; a group's windows are consecutive."""
    groups = (list(group) for _, group in groupby(windows, key=lambda window: window.group))
    return [window for group in groups for window in group[::every]]


def measure_loss(
    target: LlamaForCausalLM, windows: Sequence[TextWindow], tokenizer: PreTrainedTokenizerFast
) -> TextLoss:
    """Measure the loss of the windows' counted tokens."""
    nats: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    text_bytes = 0
    for window in track(windows, description="loss"):
        counted = torch.tensor(window.token_ids[window.first_counted :])
        losses = torch.nn.functional.cross_entropy(counted_logits(target, window), counted, reduction="sum")
        nats[window.group] += losses.item()
        tokens[window.group] += len(counted)
        text_bytes += len(str(tokenizer.decode(counted.tolist(), skip_special_tokens=True)).encode())
    total_tokens = sum(tokens.values())
    return TextLoss(
        nats_per_token=sum(nats.values()) / total_tokens,
        nats_per_token_by_module={group: nats[group] / tokens[group] for group in nats},
        bits_per_byte=sum(nats.values()) / math.log(2) / text_bytes,
        tokens=total_tokens,
    )


@torch.inference_mode()
def measure_acceptance(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, windows: Sequence[TextWindow], temperatures: Sequence[float]
) -> list[Acceptance]:
    """Measure how often the drafter's token is accepted, given the same text before it (teacher forcing)."""
    shared: dict[float, list[Tensor]] = defaultdict(list)
    ratio: dict[float, list[Tensor]] = defaultdict(list)
    for index, window in enumerate(track(windows, description="acceptance")):
        target_logits, draft_logits = (
            counted_logits(model, window)[::TESTED_EVERY_TOKENS] for model in (target, draft)
        )
        rows, vocabulary_size = target_logits.shape
        noise = gumbel_noise([NOISE_SEED + index] * rows, range(rows), vocabulary_size)
        for temperature in temperatures:
            params = SamplingParams(temperature=temperature)
            target_shaped = shape_logits(target_logits, params)
            draft_shaped = shape_logits(draft_logits, params)
            draw_noise = None if params.greedy else noise
            stands = (draw_tokens(draft_shaped, draw_noise) == draw_tokens(target_shaped, draw_noise)).float()
            shared[temperature].append(stands)
            ratio[temperature].append(stands if params.greedy else _overlaps(draft_shaped, target_shaped))
    return [
        Acceptance(
            temperature=temperature,
            shared_noise=torch.cat(shared[temperature]).mean().item(),
            ratio_test=torch.cat(ratio[temperature]).mean().item(),
            tested_tokens=sum(map(len, ratio[temperature])),
        )
        for temperature in temperatures
    ]


def _overlaps(draft_shaped: Tensor, target_shaped: Tensor) -> Tensor:
    """Chance that the ratio test accepts: the sum of the smaller of the two probabilities, the draft cut to its top 64.

    Args:
        draft_shaped, target_shaped: [rows, vocabulary], shaped logits.

    Returns:
        [rows], float32.
    """
    draft_probs, token_ids = torch.softmax(draft_shaped, dim=-1).topk(RATIO_TEST_TOKENS)
    target_probs = torch.softmax(target_shaped, dim=-1).gather(1, token_ids)
    return torch.minimum(draft_probs / draft_probs.sum(-1, keepdim=True), target_probs).sum(-1)


@torch.inference_mode()
def time_passes(target: LlamaForCausalLM, draft: LlamaForCausalLM) -> tuple[float, float]:
    """Time passes of one row after 256 cached tokens, in turns, so that other load hits both models alike.

    Returns:
        Median milliseconds of the target's pass and of the drafter's.
    """
    decode_target, decode_draft = _decoder(target), _decoder(draft)
    times_ms = [(_time_ms(decode_target), _time_ms(decode_draft)) for _ in range(TIMED_PASSES)]
    target_ms, draft_ms = (statistics.median(column) for column in zip(*times_ms[1:], strict=True))
    return target_ms, draft_ms


def _decoder(model: LlamaForCausalLM) -> Callable[[], object]:
    """The call to time: one pass of one row, whose cell the next pass overwrites."""
    cache = DynamicCache(config=model.config)
    context = torch.arange(TIMED_CONTEXT_TOKENS + 1).unsqueeze(0)
    model(input_ids=context, past_key_values=cache, use_cache=True)

    def decode() -> None:
        cache.crop(-1)
        model(input_ids=context[:, :1], past_key_values=cache, use_cache=True)

    return decode


def _time_ms(call: Callable[[], object]) -> float:
    started_ns = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started_ns) / 1e6
