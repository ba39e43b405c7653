"""The evaluation of a saved pair: loss and acceptance on left-out modules, and the time of a pass."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from timeit import timeit

import torch
from rich.progress import track
from torch import Tensor
from torch.nn.functional import cross_entropy
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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of a saved pair.

    Attributes:
        loss: of the target on left-out modules.
        text_acceptance: after left-out text, by temperature.
        continuation_acceptance: after what the target itself wrote at that temperature.
        pass_ms: median time of a pass of one row, by model name.
        parameters: by model name.
        weight_bytes: by model name, as saved.
        samples: the first prompt of each category and the beginning of what the target wrote at temperature 0.7.
    """

    loss: TextLoss
    text_acceptance: list[Acceptance]
    continuation_acceptance: list[Acceptance]
    pass_ms: dict[str, float]
    parameters: dict[str, int]
    weight_bytes: dict[str, int]
    samples: list[tuple[Prompt, str]]


def evaluate(
    target_folder: Path,
    draft_folder: Path,
    files: Sequence[SourceFile],
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerFast,
) -> Evaluation:
    """Evaluate saved weights on left-out files."""
    folders = {"target": target_folder, "draft": draft_folder}
    models: dict[str, LlamaForCausalLM] = {
        name: LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32) for name, folder in folders.items()
    }
    target, draft = models.values()
    windows = text_windows(files, tokenizer)
    prompts = prompts[::CONTINUED_EVERY_PROMPTS]
    written = {temperature: continue_prompts(target, tokenizer, prompts, temperature) for temperature in TEMPERATURES}
    samples: dict[str, tuple[Prompt, str]] = {}
    for prompt, window in zip(prompts, written[SAMPLE_TEMPERATURE], strict=True):
        beginning = list(window.token_ids[window.first_counted :][:SAMPLE_TOKENS])
        samples.setdefault(prompt.category, (prompt, str(tokenizer.decode(beginning))))
    return Evaluation(
        loss=measure_loss(target, thin(windows, LOSS_EVERY_WINDOWS), tokenizer),
        text_acceptance=measure_acceptance(target, draft, thin(windows, TESTED_EVERY_WINDOWS), TEMPERATURES),
        continuation_acceptance=[
            measure_acceptance(target, draft, own, [temperature])[0] for temperature, own in written.items()
        ],
        pass_ms=dict(zip(models, time_passes(target, draft), strict=True)),
        parameters={name: model.num_parameters() for name, model in models.items()},
        weight_bytes={name: (folder / "model.safetensors").stat().st_size for name, folder in folders.items()},
        samples=list(samples.values()),
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
    losses: dict[str, list[Tensor]] = defaultdict(list)
    text_bytes = 0
    for window in track(windows, description="loss"):
        counted = torch.tensor(window.token_ids[window.first_counted :])
        losses[window.group].append(cross_entropy(counted_logits(target, window), counted, reduction="none"))
        text_bytes += len(str(tokenizer.decode(counted.tolist(), skip_special_tokens=True)).encode())
    by_module = {module: torch.cat(each).double() for module, each in losses.items()}
    everything = torch.cat(list(by_module.values()))
    return TextLoss(
        nats_per_token=everything.mean().item(),
        nats_per_token_by_module={module: each.mean().item() for module, each in by_module.items()},
        bits_per_byte=everything.sum().item() / math.log(2) / text_bytes,
        tokens=len(everything),
    )


@torch.inference_mode()
def measure_acceptance(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, windows: Sequence[TextWindow], temperatures: Sequence[float]
) -> list[Acceptance]:
    """Measure how often the drafter's token stands, given the same text before it (teacher forcing)."""
    rates: dict[float, list[Tensor]] = {temperature: [] for temperature in temperatures}
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
            overlaps = stands if params.greedy else _overlaps(draft_shaped, target_shaped)
            rates[temperature].append(torch.stack((stands, overlaps), dim=1))
    acceptances = []
    for temperature in temperatures:
        tested = torch.cat(rates[temperature])
        shared_noise, ratio_test = tested.mean(0).tolist()
        acceptances.append(Acceptance(temperature, shared_noise, ratio_test, len(tested)))
    return acceptances


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
def time_passes(*models: LlamaForCausalLM) -> list[float]:
    """Time passes of one row after 256 cached tokens, in turns, so that other load hits all models alike.

    Returns:
        Median milliseconds of each model's pass.
    """
    decoders = [_decoder(model) for model in models]
    times_s = [[timeit(decode, number=1) for decode in decoders] for _ in range(TIMED_PASSES)]
    return [statistics.median(column) * 1e3 for column in zip(*times_s[1:], strict=True)]


def _decoder(model: LlamaForCausalLM) -> Callable[[], object]:
    """The call to time: one pass of one row, whose cell the next pass overwrites."""
    cache = DynamicCache(config=model.config)
    context = torch.arange(TIMED_CONTEXT_TOKENS + 1).unsqueeze(0)
    model(input_ids=context, past_key_values=cache, use_cache=True)

    def decode() -> None:
        cache.crop(-1)
        model(input_ids=context[:, :1], past_key_values=cache, use_cache=True)

    return decode
