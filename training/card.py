"""The model card: what to know about the embedded pair before relying on it."""

import math
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from training.corpus import LICENCE, TEST_SPLITS, Corpus
from training.evaluation import Evaluation
from training.stages import FOLLOWING_PLANS, PAIR_CYCLES

TEMPLATE = Path(__file__).with_name("card.md.j2")


def write_card(evaluation: Evaluation, corpus: Corpus, python_version: str, path: Path) -> None:
    """Write the card from measured figures."""
    environment = Environment(trim_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True)
    card = environment.from_string(TEMPLATE.read_text()).render(
        evaluation=evaluation,
        perplexity=math.exp(evaluation.loss.nats_per_token),
        acceptance={
            "left-out text": evaluation.text_acceptance,
            "the target's own continuations of the built-in prompts": evaluation.continuation_acceptance,
        },
        megabytes={
            "train": corpus.size_bytes("train") / 1e6,
            "left_out": corpus.size_bytes("left_out") / 1e6,
            "tests": corpus.size_bytes(*TEST_SPLITS) / 1e6,
        },
        python_version=python_version,
        licence=LICENCE,
        left_out=corpus.modules("left_out"),
        pair_tokens=sum(cycle.plan.tokens for cycle in PAIR_CYCLES),
        following_tokens=sum(plan.tokens for plan in FOLLOWING_PLANS),
    )
    path.write_text(card)
