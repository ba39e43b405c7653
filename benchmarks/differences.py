"""Where arms disagree about tokens that must be the same, and how close the target's scores were."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from benchmarks.arms import BenchTask
from benchmarks.measurement import Measured
from benchmarks.peers import PeerModels
from sybil_engine.core.types import SamplingParams

Margin = Callable[[BenchTask, tuple[int, ...], int, int], float]
"""How far apart the target scores two tokens, after a task's prompt and the tokens generated before them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token at which a completion differs from the reference's.

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
    measured: Measured, reference: str, names: Sequence[str], tasks: Sequence[BenchTask], margin: Margin
) -> list[Difference]:
    """Compare completions with the reference arm's."""
    differences = []
    for name in names:
        for number, (ours, theirs) in enumerate(zip(measured[name], measured[reference], strict=True)):
            for index, pair in enumerate(zip_longest(ours.token_ids, theirs.token_ids)):
                if pair[0] != pair[1]:
                    scored = None if None in pair else margin(tasks[number], ours.token_ids[:index], *pair)
                    differences.append(Difference(name, number, index, *pair, scored))
                    break
    return differences


def target_margin(
    models: PeerModels, sampling: SamplingParams, task: BenchTask, generated: tuple[int, ...], one: int, other: int
) -> float:
    """A `Margin` by the target model as `transformers` runs it, in float32; it is loaded when first needed."""
    import torch

    from sybil_engine.core.noise import gumbel_noise
    from sybil_engine.sampling.shaping import shape_logits

    token_ids = torch.tensor([[*task.prompt, *generated]], device=models.device)
    with torch.inference_mode():
        logits = models.model("target", "float32")(token_ids).logits[0, -1:].cpu()
    scores = shape_logits(logits, sampling)
    if not sampling.greedy:
        scores = scores + gumbel_noise([task.seed], [token_ids.shape[1]], scores.shape[-1])
    return abs(float(scores[0, one] - scores[0, other]))
