"""How much a prediction saves where a file is rewritten with a few changes: `python -m benchmarks.editing --help`.

The target writes a file. Three lines of it are changed, and the changed file is the prediction: the output is then an
edit of the prediction, as when a program sends the file that it wants edited. The same file is written again by `auto`
with the prediction, by `auto` without it, by plain decoding and by transformers' peers, in turns.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from benchmarks.arms import BenchTask
from benchmarks.peers import PeerModels, PeerSearch, TransformersArm
from benchmarks.prompts import read_prompts
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET
from sybil_engine.core.types import SamplingParams
from sybil_engine.models.finding import find_folder
from sybil_local import Completion, LocalEngine

_CHANGED_LINES = 3
_WORDS = ("value", "result", "item", "other", "count")
# The goals: verify passes without the prediction over those with it.
_LEAST_FEWER = 2.5


def changed(text: str, seed: int) -> str:
    """A text with a word of three of its lines replaced, where it has as many lines with words."""
    source = random.Random(seed)
    lines = text.split("\n")
    # In the middle, so that there is something to follow before and after.
    wordy = [number for number, line in enumerate(lines[1:-1], start=1) if line.strip()]
    for number in source.sample(wordy, min(_CHANGED_LINES, len(wordy))):
        words = lines[number].split(" ")
        place = source.choice([place for place, word in enumerate(words) if word])
        words[place] = source.choice([word for word in _WORDS if word != words[place]])
        lines[number] = " ".join(words)
    return "\n".join(lines)


def measure(arguments: argparse.Namespace) -> int:
    """Run all arms on all files, and print the figures; returns the exit status."""
    tokenizer = Tokenizer.from_file(str(find_folder(EMBEDDED_TARGET) / "tokenizer.json"))
    sampling = SamplingParams(temperature=arguments.temperature)
    tasks = [
        BenchTask(tuple(tokenizer.encode(prompt.prompt).ids), number)
        for number, prompt in enumerate(read_prompts("", arguments.count))
    ]
    models = PeerModels(find_folder(EMBEDDED_TARGET), find_folder(EMBEDDED_DRAFT), "cpu")
    peers = asyncio.run(_peers(models, tasks, sampling, arguments.max_tokens)) if arguments.peers else []
    completions: dict[str, list[Completion]] = {"off": [], "auto": [], "auto, prediction": []}
    speeds: dict[str, list[float]] = {name: [] for name in (*completions, *(peer.name for peer in peers))}
    with LocalEngine() as engine:
        for number, task in enumerate(tasks):
            print(f"file {number + 1} of {len(tasks)}", file=sys.stderr)
            file = _complete(engine, task, arguments, "off", "")
            prediction = changed(file.text, number)
            for name in completions:
                speculation = "off" if name == "off" else "auto"
                completion = _complete(
                    engine, task, arguments, speculation, prediction if name.endswith("prediction") else ""
                )
                completions[name].append(completion)
                usage = completion.ending.usage
                speeds[name].append(usage.completion_tokens / usage.total_ns * 1e9)
            for peer in peers:
                measured = asyncio.run(peer.complete(task, sampling, arguments.max_tokens))
                speeds[peer.name].append(measured.tokens_per_second)
    return _report(completions, speeds)


def _complete(
    engine: LocalEngine, task: BenchTask, arguments: argparse.Namespace, speculation: str, prediction: str
) -> Completion:
    return engine.generate(
        task.prompt,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        seed=task.seed,
        speculation=speculation,
        prediction=prediction,
    )


async def _peers(
    models: PeerModels, tasks: Sequence[BenchTask], sampling: SamplingParams, max_tokens: int
) -> list[TransformersArm]:
    """Each peer at its best setting."""
    search = PeerSearch(models, ["float32"], tasks[:2], sampling, max_tokens, lambda step: print(step, file=sys.stderr))
    names = ("transformers", "transformers-assisted", "transformers-lookup")
    return [TransformersArm(name, models, (await search.find(name)).best) for name in names]


def _report(completions: Mapping[str, Sequence[Completion]], speeds: Mapping[str, Sequence[float]]) -> int:
    passes = {name: sum(each.ending.usage.verify_passes for each in written) for name, written in completions.items()}
    differing = sum(
        one.token_ids != other.token_ids
        for written in completions.values()
        for one, other in zip(written, completions["off"], strict=True)
    )
    best = "auto, prediction"
    fewer = passes["auto"] / passes[best]
    ratios = {
        name: statistics.median(mine / other for mine, other in zip(speeds[best], each, strict=True))
        for name, each in speeds.items()
    }
    for name, each in speeds.items():
        counted = f"{passes[name]:5} passes" if name in passes else ""
        print(
            f"{name:24} {statistics.median(each):7.1f} tokens/s; with the prediction x {ratios[name]:5.2f}  {counted}"
        )
    print(
        f"passes without the prediction / with it: {fewer:.2f} (at least {_LEAST_FEWER}); differing files: {differing}"
    )
    slower_than_a_peer = any(ratio <= 1 for name, ratio in ratios.items() if name not in completions)
    return int(fewer < _LEAST_FEWER or bool(differing) or slower_than_a_peer)


def main(argv: Sequence[str]) -> int:
    """Measure; the exit status is 1 if a goal is missed or a token differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.editing", description=__doc__)
    parser.add_argument("--count", type=int, default=6, help="files")
    parser.add_argument("--max-tokens", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return measure(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
