"""The model card: what to know about the embedded pair before relying on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from training.corpus import LICENCE, TEST_SPLITS, Corpus
from training.evaluation import Acceptance, Evaluation
from training.stages import FOLLOWING_PLANS, PAIR_CYCLES


def write_card(evaluation: Evaluation, corpus: Corpus, python_version: str, path: Path) -> None:
    """Write the card from measured figures."""
    loss = evaluation.loss
    megabytes = {name: size / 1e6 for name, size in evaluation.weight_bytes.items()}
    parts = [
        "# The embedded pair\n",
        "Two small Llama-architecture models that complete Python code, trained for this project from nothing but "
        "CPython's own standard library. They are here so that speculative decoding can be run, tested and measured "
        "without a download. Written by `python -m training evaluate`; every figure is measured on the saved "
        "bfloat16 weights, computing in float32.\n",
        "| | target | draft |\n|---|---|---|",
        f"| parameters | {evaluation.parameters['target']:,} | {evaluation.parameters['draft']:,} |",
        f"| weights, MB | {megabytes['target']:.1f} | {megabytes['draft']:.1f} |",
        f"| pass of one row, ms | {evaluation.target_pass_ms:.2f} | {evaluation.draft_pass_ms:.2f} |\n",
        f"A drafter pass takes 1/{evaluation.target_pass_ms / evaluation.draft_pass_ms:.1f} of a target pass (plain "
        "transformers, median of passes in turns after 256 cached tokens, two processor threads). Context: 1,024 "
        "tokens. Both share one byte-level BPE tokenizer of 4,096 tokens, in which every byte has a token; "
        "`<|endoftext|>` ends a file.\n",
        "## Loss of the target on left-out modules\n",
        f"**{loss.nats_per_token:.3f} nats per token** over {loss.tokens:,} tokens, with 512 to 1,024 tokens of "
        f"context (perplexity {math.exp(loss.nats_per_token):.1f}, {loss.bits_per_byte:.3f} bits per byte); "
        f"{loss.mean_of_modules:.3f} if every module counts the same. A sample: of every module the first window of "
        "1,024 tokens and every fourth after it. Another sample may differ by a few hundredths.\n",
        "| module | nats per token |\n|---|---|",
        *(f"| {module} | {nats:.3f} |" for module, nats in sorted(loss.nats_per_token_by_module.items())),
        "\n## Acceptance of one drafted token\n",
        "Teacher-forced: both models see the same tokens before each tested position. Shared noise is counted, the "
        "ratio test (draft cut to its most likely 64 tokens) is its exact expectation. At temperature 0 both rules "
        "are agreement of the most likely tokens.\n",
        "### After left-out text\n",
        *_acceptance_table(evaluation.text_acceptance),
        "\n### After the target's own continuations of the built-in prompts\n",
        *_acceptance_table(evaluation.continuation_acceptance),
        *_origin_and_limits(corpus, python_version),
        "## Samples: left-out modules, temperature 0.7, the first 96 tokens\n",
    ]
    for prompt, completion in evaluation.samples:
        parts.append(f"`{prompt.id}` from `{prompt.module}`; the target's part begins after `⟦`:\n")
        parts.append(f"````python\n{prompt.prompt}⟦{completion}\n````\n")
    path.write_text("\n".join(parts))


def _origin_and_limits(corpus: Corpus, python_version: str) -> list[str]:
    return [
        "\n## Training data and licence\n",
        f"Source text of the standard library of CPython {python_version}: "
        f"{sum(file.size_bytes for file in corpus.of('train')) / 1e6:.1f} MB to train on, "
        f"{sum(file.size_bytes for file in corpus.of('left_out')) / 1e6:.1f} MB left out, file by file in "
        f"`data_manifest.json`. Licence of that text: {LICENCE}; "
        f"{sum(file.size_bytes for split in TEST_SPLITS for file in corpus.of(split)) / 1e6:.1f} MB of its tests, read "
        "in the last stage only. See https://docs.python.org/3.11/license.html. Not used: installed packages, "
        "generated tables (`encodings`, `html.entities`), the manual inside `pydoc_data`, and what a machine's own "
        "build writes.\n",
        f"Left out, and never seen by tokenizer or models: {', '.join(corpus.modules('left_out'))}. The built-in "
        "prompts (`prompts.jsonl`) are cut from these.\n",
        "## Limits\n",
        "The target saw 7.7 million tokens of the library alone, its 2.5 million three times, and "
        f"{sum(cycle.plan.tokens for cycle in PAIR_CYCLES) / 1e6:.1f} million of library and tests together with the "
        "drafter, which then saw "
        f"{sum(plan.tokens for plan in FOLLOWING_PLANS) / 1e6:.1f} million more. The target knows Python's layout, "
        "its idioms and the library's habits; it does not know what code should compute, and its prose drifts. At "
        "temperature 0 it often "
        "ends in a loop. It may repeat passages of the standard library. It is a test subject for decoding, not an "
        "assistant; do not run what it writes.\n",
        "The two were trained together at the end, the target paying for disagreement too: it is more predictable than "
        "a target that never met its drafter, and acceptance is higher than distilling alone would give.\n",
    ]


def _acceptance_table(rows: Sequence[Acceptance]) -> list[str]:
    return [
        "| temperature | shared noise | ratio test | tested tokens |\n|---|---|---|---|",
        *(
            f"| {row.temperature} | {row.shared_noise:.3f} | {row.ratio_test:.3f} | {row.tested_tokens:,} |"
            for row in rows
        ),
    ]
