"""`python -m training`: reproduce the embedded pair, or one part of it.

Parts, in order: corpus, tokenizer, target, draft, pair, prompts, evaluate. Each reads the results of earlier ones from
build/training/ and sybil_engine/models/embedded/. Training continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from sybil_engine.prompts import built_in_prompts
from training.card import write_card
from training.corpus import TEST_SPLITS, Corpus, CorpusMismatch, Split, check_manifest, read_corpus, write_manifest
from training.evaluation import evaluate
from training.models import save_model
from training.prompts import cut_prompts, write_prompts
from training.stages import train_draft, train_pair, train_target
from training.tokenizer import load_tokenizer, train_tokenizer
from training.windows import encode_documents

ROOT = Path(__file__).parents[1]
PARTS = ("corpus", "tokenizer", "target", "draft", "pair", "prompts", "evaluate")


class Training:
    """The parts of training, and where they leave their results."""

    def __init__(self, corpus: Corpus, work: Path, embedded: Path):
        self._corpus = corpus
        self._work = work
        self._embedded = embedded
        work.mkdir(parents=True, exist_ok=True)
        embedded.mkdir(parents=True, exist_ok=True)

    def corpus(self) -> None:
        """Write the manifest."""
        write_manifest(self._corpus, self._embedded / "data_manifest.json")

    def tokenizer(self) -> None:
        """Train the tokenizer."""
        train_tokenizer(file.text for file in self._corpus.of("train")).save_pretrained(self._work / "tokenizer")

    def target(self) -> None:
        """Train the target and save it."""
        tokenizer = load_tokenizer(self._work / "tokenizer")
        documents = encode_documents(tokenizer, self._corpus.of("train"))
        model = train_target(tokenizer, documents, self._work)
        save_model(model, tokenizer, self._work / "alone" / "target")

    def draft(self) -> None:
        """Distil the drafter from the target that was trained alone, and save it."""
        target = self._work / "alone" / "target"
        tokenizer = load_tokenizer(target)
        documents = encode_documents(tokenizer, self._corpus.of("train"))
        model = train_draft(target, tokenizer, documents, self._work)
        save_model(model, tokenizer, self._work / "alone" / "draft")

    def pair(self) -> None:
        """Train both together, and save the pair that is shipped."""
        alone = self._work / "alone"
        tokenizer = load_tokenizer(alone / "target")
        documents: dict[Split, list[list[int]]] = {
            split: encode_documents(tokenizer, self._corpus.of(split)) for split in ("train", *TEST_SPLITS)
        }
        pair = train_pair(alone / "target", alone / "draft", documents, self._work)
        save_model(pair.target, tokenizer, self._embedded / "target")
        save_model(pair.draft, tokenizer, self._embedded / "draft")

    def prompts(self) -> None:
        """Cut the built-in prompts."""
        tokenizer = load_tokenizer(self._embedded / "target")
        prompts = cut_prompts(self._corpus.of("left_out"), tokenizer)
        write_prompts(prompts, self._embedded / "prompts.jsonl")

    def evaluate(self) -> None:
        """Measure the saved pair and write the model card."""
        evaluation = evaluate(
            self._embedded / "target",
            self._embedded / "draft",
            self._corpus.of("left_out"),
            built_in_prompts(self._embedded / "prompts.jsonl"),
            load_tokenizer(self._embedded / "target"),
        )
        (self._work / "evaluation.json").write_text(json.dumps(asdict(evaluation), indent=1) + "\n")
        python_version = json.loads((self._embedded / "data_manifest.json").read_text())["python_version"]
        write_card(evaluation, self._corpus, python_version, self._embedded / "MODEL_CARD.md")


def main() -> None:
    """Run one part, or all."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "training", help="checkpoints and figures")
    parser.add_argument(
        "--embedded", type=Path, default=ROOT / "sybil_engine" / "models" / "embedded", help="models and their papers"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="worker processes of one thread")
    parser.add_argument("--any-stdlib", action="store_true", help="train even if the standard library is another one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        corpus = read_corpus()
        manifest = arguments.embedded / "data_manifest.json"
        if manifest.exists() and not arguments.any_stdlib:
            check_manifest(corpus, manifest)
    except CorpusMismatch as mismatch:
        sys.exit(f"python -m training: {mismatch}")
    training = Training(corpus, arguments.work, arguments.embedded)
    for part in PARTS if arguments.part == "all" else (arguments.part,):
        print(f"== {part}", flush=True)
        getattr(training, part)()


if __name__ == "__main__":
    main()
