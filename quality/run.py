"""A quality run: every judge completes the same prompts with the same seeds, and each text is measured."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.prompts import read_prompts
from quality.divergence import divergences
from quality.judge_setting import EXACT, JudgeSetting
from quality.measures import agreed_tokens, distinct, parses
from quality.models import Readers
from quality.settings import QualitySettings
from sybil_engine.core.acceptance import LOSSY
from sybil_engine.core.completion import Completion
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET
from sybil_engine.prompts import Prompt
from sybil_local import LocalEngine

_EVERY_POSITION = 8
_DRAWS = 256
_N_GRAMS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class QualityTask:
    """One prompt to complete."""

    prompt: Prompt
    token_ids: tuple[int, ...]
    seed: int


def measure(settings: QualitySettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every judge at every temperature; returns what the JSON file holds.

    Raises:
        ModelError: a model cannot be loaded.
    """
    target, draft = settings.target or EMBEDDED_TARGET, settings.draft or EMBEDDED_DRAFT
    judges = list(dict.fromkeys((EXACT, *map(JudgeSetting.of, settings.judges))))
    say("loading the models")
    readers = Readers(target, draft)
    tasks = [
        QualityTask(prompt, tuple(readers.tokenizer.encode(prompt.prompt).ids), number)
        for number, prompt in enumerate(read_prompts("", settings.count))
    ]
    with LocalEngine(target, draft, allow_lossy=[rule.value for rule in LOSSY]) as engine:
        runs = [
            {
                "temperature": temperature,
                "judges": _measure_at(temperature, engine, readers, tasks, judges, settings.max_tokens, say),
            }
            for temperature in settings.temperatures
        ]
    return {"target": target, "draft": draft, "settings": settings.model_dump(by_alias=True), "runs": runs}


def is_exact(document: Mapping[str, Any]) -> bool:
    """Whether the exact judge lost nothing anywhere."""
    figures = [judge for run in document["runs"] for judge in run["judges"] if judge["judge"] == EXACT.name]
    return all(each["agreement"] == 1.0 and each["divergence"] == 0.0 for each in figures)


def write(document: Mapping[str, Any], file: Path) -> None:
    """Write every figure."""
    file.write_text(json.dumps(document, indent=2) + "\n")


def _measure_at(
    temperature: float,
    engine: LocalEngine,
    readers: Readers,
    tasks: Sequence[QualityTask],
    judges: Sequence[JudgeSetting],
    max_tokens: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    def complete(task: QualityTask, judge: JudgeSetting | None) -> Completion:
        return engine.generate(
            task.token_ids,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=task.seed,
            speculation="lockstep" if judge else "off",
            drafters=["model"],
            acceptance_rule=(judge or EXACT).rule.value,
            acceptance_parameter=(judge or EXACT).parameter,
        )

    alone: list[Completion] = []
    judged: dict[JudgeSetting, list[Completion]] = {judge: [] for judge in judges}
    for number, task in enumerate(tasks):
        say(f"temperature {temperature:g}, prompt {number + 1} of {len(tasks)}")
        alone.append(complete(task, None))
        turn = number % len(judges)
        for judge in (*judges[turn:], *judges[:turn]):
            judged[judge].append(complete(task, judge))
    say(f"temperature {temperature:g}: measuring distributions")
    positions = chain.from_iterable(
        readers.positions(task.token_ids, completion.token_ids, _EVERY_POSITION)
        for task, completion in zip(tasks, alone, strict=True)
    )
    divergence = divergences(list(positions), judges, temperature, _DRAWS)
    speeds = {judge: [_speed(each) for each in completions] for judge, completions in judged.items()}
    return [
        {
            "judge": judge.name,
            "rule": judge.rule.value,
            "parameter": judge.parameter,
            "lossy": judge.rule in LOSSY,
            "tokens_per_second": statistics.median(speeds[judge]),
            "speed_ratio": statistics.median(
                mine / exact for mine, exact in zip(speeds[judge], speeds[EXACT], strict=True)
            ),
            "tokens_per_pass": _total(completions, "completion_tokens") / _total(completions, "verify_passes"),
            "divergence": divergence[judge.name],
            **_text_figures(completions, alone, tasks, readers),
        }
        for judge, completions in judged.items()
    ]


def _text_figures(
    completions: Sequence[Completion], alone: Sequence[Completion], tasks: Sequence[QualityTask], readers: Readers
) -> dict[str, Any]:
    texts = [each.token_ids for each in completions]
    agreed = [agreed_tokens(text, other.token_ids) for text, other in zip(texts, alone, strict=True)]
    likelihoods = [readers.log_likelihood(task.token_ids, text) for task, text in zip(tasks, texts, strict=True)]
    parsed = [parses(task.prompt.prompt, each.text) for task, each in zip(tasks, completions, strict=True)]
    return {
        "agreement": sum(agreed) / sum(len(other.token_ids) for other in alone),
        "log_likelihood": statistics.mean(likelihoods),
        "parses": sum(parsed) / len(parsed),
        **{f"distinct_{length}": distinct(texts, length) for length in _N_GRAMS},
    }


def _speed(completion: Completion) -> float:
    usage = completion.ending.usage
    return usage.completion_tokens / max(1, usage.total_ns) * 1e9


def _total(completions: Sequence[Completion], name: str) -> int:
    return sum(getattr(each.ending.usage, name) for each in completions)
