"""Where arms disagree about tokens that must be the same, and by how little."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement
from benchmarks.run import Task
from sybil_engine.core.types import SamplingParams

Judge = Callable[[Task, tuple[int, ...], int, int], float]
"""Says how far apart the target scores two tokens, after a task's prompt and the tokens generated before them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token at which a completion leaves the reference's.

    Attributes:
        task: number of the task.
        index: of the token, counted from the first generated one.
        token_id, reference_token_id: None where that completion has ended.
        margin: between the scores of the two under the target; None where one has ended.
    """

    arm: str
    task: int
    index: int
    token_id: int | None
    reference_token_id: int | None
    margin: float | None


def find_differences(
    measured: Mapping[str, Sequence[Measurement]],
    reference: str,
    names: Sequence[str],
    tasks: Sequence[Task],
    judge: Judge,
) -> list[Difference]:
    """Compare completions with the reference arm's."""
    differences = []
    for name in names:
        for number, (ours, theirs) in enumerate(zip(measured[name], measured[reference], strict=True)):
            if ours.token_ids == theirs.token_ids:
                continue
            index = _first_difference(ours.token_ids, theirs.token_ids)
            ids = [each.token_ids[index] if index < len(each.token_ids) else None for each in (ours, theirs)]
            margin = None
            if ids[0] is not None and ids[1] is not None:
                margin = judge(tasks[number], ours.token_ids[:index], ids[0], ids[1])
            differences.append(Difference(name, number, index, ids[0], ids[1], margin))
    return differences


def _first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int:
    shorter = min(len(ours), len(theirs))
    return next((index for index in range(shorter) if ours[index] != theirs[index]), shorter)


class TargetJudge:
    """Scores tokens with the target model as `transformers` runs it, in float32; loaded when it is first asked."""

    def __init__(self, target: Path, sampling: SamplingParams) -> None:
        self._target = target
        self._sampling = sampling
        self._model: Any = None

    def __call__(self, task: Task, generated: tuple[int, ...], token_id: int, other_token_id: int) -> float:
        import torch

        from sybil_engine.core.noise import gumbel_noise
        from sybil_engine.sampling.shaping import shape_logits

        if self._model is None:
            from transformers import AutoModelForCausalLM

            self._model = AutoModelForCausalLM.from_pretrained(self._target, dtype=torch.float32, use_safetensors=True)
        token_ids = [*task.prompt, *generated]
        with torch.inference_mode():
            scores = shape_logits(self._model(torch.tensor([token_ids])).logits[0, -1:], self._sampling)
            if not self._sampling.greedy:
                scores = scores + gumbel_noise([task.seed], [len(token_ids)], scores.shape[-1])
        return abs(float(scores[0, token_id] - scores[0, other_token_id]))
