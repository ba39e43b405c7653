"""`python -m training`: reproduce the embedded pair, or one part of it.

Parts, in order: corpus, tokenizer, target, draft, pair, prompts, evaluate. Each reads the results of earlier ones from
build/training/ and sybil_engine/models/embedded/. Training continues from its last checkpoint.
"""

import json
from dataclasses import asdict
from pathlib import Path

import click
import torch
from transformers import PreTrainedTokenizerFast

from sybil_engine.prompts import built_in_prompts
from training.card import write_card
from training.corpus import TEST_SPLITS, Corpus, CorpusMismatch, Split, check_manifest, read_corpus, write_manifest
from training.evaluation import evaluate
from training.models import save_model
from training.prompts import cut_prompts
from training.stages import train_draft, train_pair, train_target
from training.tokenizer import train_tokenizer
from training.windows import Documents, encode_documents

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "sybil_engine" / "models" / "embedded"
PARTS = ("corpus", "tokenizer", "target", "draft", "pair", "prompts", "evaluate")


class Training:
    """The parts of training, and where they leave their results."""

    def __init__(self, corpus: Corpus, work: Path, embedded: Path):
        self._corpus = corpus
        self._work = work
        self._alone = work / "alone"
        self._embedded = embedded
        work.mkdir(parents=True, exist_ok=True)
        embedded.mkdir(parents=True, exist_ok=True)

    def _documents(self, tokenizer: PreTrainedTokenizerFast, split: Split) -> Documents:
        return encode_documents(tokenizer, self._corpus.of(split))

    def corpus(self) -> None:
        """Write the manifest."""
        write_manifest(self._corpus, self._embedded / "data_manifest.json")

    def tokenizer(self) -> None:
        """Train the tokenizer."""
        train_tokenizer(file.text for file in self._corpus.of("train")).save_pretrained(self._work / "tokenizer")

    def target(self) -> None:
        """Train the target and save it."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self._work / "tokenizer")
        model = train_target(tokenizer, self._documents(tokenizer, "train"), self._work)
        save_model(model, tokenizer, self._alone / "target")

    def draft(self) -> None:
        """Distil the drafter from the target that was trained alone, and save it."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self._alone / "target")
        model = train_draft(self._alone / "target", tokenizer, self._documents(tokenizer, "train"), self._work)
        save_model(model, tokenizer, self._alone / "draft")

    def pair(self) -> None:
        """Train both together, and save the pair that is shipped."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self._alone / "target")
        documents: dict[Split, Documents] = {
            split: self._documents(tokenizer, split) for split in ("train", *TEST_SPLITS)
        }
        pair = train_pair(self._alone / "target", self._alone / "draft", documents, self._work)
        save_model(pair.target, tokenizer, self._embedded / "target")
        save_model(pair.draft, tokenizer, self._embedded / "draft")

    def prompts(self) -> None:
        """Cut the built-in prompts."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self._embedded / "target")
        prompts = cut_prompts(self._corpus.of("left_out"), tokenizer)
        lines = [json.dumps(asdict(prompt)) + "\n" for prompt in prompts]
        (self._embedded / "prompts.jsonl").write_text("".join(lines))

    def evaluate(self) -> None:
        """Measure the saved pair and write the model card."""
        evaluation = evaluate(
            self._embedded / "target",
            self._embedded / "draft",
            self._corpus.of("left_out"),
            built_in_prompts(self._embedded / "prompts.jsonl"),
            PreTrainedTokenizerFast.from_pretrained(self._embedded / "target"),
        )
        (self._work / "evaluation.json").write_text(json.dumps(asdict(evaluation), indent=1) + "\n")
        python_version = json.loads((self._embedded / "data_manifest.json").read_text())["python_version"]
        write_card(evaluation, self._corpus, python_version, self._embedded / "MODEL_CARD.md")


_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(help=__doc__)
@click.argument("part", default="all", type=click.Choice([*PARTS, "all"]))
@click.option("--work", type=_FOLDER, default=ROOT / "build" / "training", help="Checkpoints and figures.")
@click.option("--embedded", type=_FOLDER, default=EMBEDDED, help="Models and their papers.")
@click.option("--threads", type=int, default=torch.get_num_threads(), help="Worker processes of one thread.")
@click.option("--any-stdlib", is_flag=True, help="Train even if the standard library is another one.")
def main(part: str, work: Path, embedded: Path, threads: int, any_stdlib: bool) -> None:
    """Run one part, or all."""
    torch.set_num_threads(threads)
    try:
        corpus = read_corpus()
        manifest = embedded / "data_manifest.json"
        if manifest.exists() and not any_stdlib:
            check_manifest(corpus, manifest)
    except CorpusMismatch as mismatch:
        raise click.ClickException(str(mismatch)) from mismatch
    training = Training(corpus, work, embedded)
    for each in PARTS if part == "all" else (part,):
        print(f"== {each}", flush=True)
        getattr(training, each)()


if __name__ == "__main__":
    main(prog_name="python -m training")
