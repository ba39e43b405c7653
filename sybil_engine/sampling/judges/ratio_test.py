"""The ratio test of the papers, for comparison: exact in distribution, but tokens depend on what was drafted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sybil_engine.core.noise import Stream, gumbel_noise, uniform_noise
from sybil_engine.core.types import Distribution
from sybil_engine.sampling.judges.judge import Verdict, Window

Probabilities = NDArray[Any]
"""[vocabulary]: floats in the engine, fractions in the tests that prove the walk by enumeration."""


@dataclass(frozen=True, slots=True)
class RatioTest:
    """Accepts a drafted token with probability min(1, target / draft).

    Coins and corrections use noise of their own, because neither may depend on the noise of the draft. The token after
    a wholly accepted window is the target's draw under the shared noise. The positions to judge must be chosen before
    anything is drafted for them, so there are no hedges.

    Source: Leviathan, Kalman, Matias 2023; Chen et al. 2023.
    """

    lossless: ClassVar[bool] = True
    wants_distributions: ClassVar[bool] = True
    allows_hedges: ClassVar[bool] = False

    def judge(self, window: Window) -> Verdict:
        """See `Judge.judge`."""
        vocabulary_size = window.shaped.shape[-1]

        def coin(index: int) -> float:
            return float(uniform_noise([window.seed], [window.position + index], 1, Stream.COIN)[0, 0])

        def draw(index: int, probabilities: Probabilities) -> int:
            noise = gumbel_noise([window.seed], [window.position + index], vocabulary_size, Stream.CORRECTION)[0]
            return int((torch.from_numpy(probabilities).log() + noise).argmax())

        target = list(torch.softmax(window.own_shaped.cpu().double(), dim=-1).numpy())
        draft = [_spread(each, vocabulary_size) for each in window.distributions]
        return Verdict(walk(window.drafted, draft, target, coin, draw, window.drawn[-1]))


def walk(
    drafted: Sequence[int],
    draft: Sequence[Probabilities],
    target: Sequence[Probabilities],
    coin: Callable[[int], Any],
    draw: Callable[[int, Probabilities], int],
    following: int,
) -> tuple[int, ...]:
    """Walk along drafted tokens until one is rejected.

    Args:
        drafted: [window].
        draft: [window], the distribution that each was drawn from.
        target: [window or more], the distribution that each is judged by.
        coin: for an index, uniform in (0, 1).
        draw: for an index, draws the token that replaces a rejected one.
        following: the target's own token after a wholly accepted window.

    Returns:
        The accepted tokens, then one of the target's own.
    """
    for index, token_id in enumerate(drafted):
        drafted_with, wanted_with = draft[index][token_id], target[index][token_id]
        if not (drafted_with > 0 and coin(index) * drafted_with < wanted_with):
            return (*drafted[:index], draw(index, remainder(draft[index], target[index])))
    return (*drafted, following)


def remainder(draft: Probabilities, target: Probabilities) -> Probabilities:
    """max(0, target - draft), renormalised: the distribution of the token that replaces a rejected one.

    Returns:
        [vocabulary]. The target's own distribution if rounding leaves nothing of the difference.
    """
    beyond: Probabilities = np.maximum(target - draft, 0)
    total = beyond.sum()
    corrected: Probabilities = beyond / total if total > 0 else target
    return corrected


def _spread(distribution: Distribution, vocabulary_size: int) -> Probabilities:
    """[vocabulary], zero for tokens that are not in the distribution."""
    spread = np.zeros(vocabulary_size)
    for token_id, probability in zip(distribution.token_ids, distribution.probabilities, strict=True):
        if token_id < vocabulary_size:
            spread[token_id] = probability
    return spread
