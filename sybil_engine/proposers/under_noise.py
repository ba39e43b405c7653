"""The chances of continuations once the session's noise is known."""

import math
from collections.abc import Sequence

from torch import Tensor

_TRUST = 0.4
"""How far the noise is believed. Estimates are means, and where the target is sure the noise says little. The squared
error was least at 0.36 to 0.44 (docs/log.md, 2026-12-01)."""

_RUNNER_UP = 0.9
"""No other continuation gets more than this share of the winner's chance."""


def rank(token_ids: Sequence[int], chances: Sequence[float], noise: Tensor) -> list[tuple[int, float]]:
    """Rank continuations as the target would draw them: argmax(log chance + noise), with the noise it will use.

    The target draws a token of probability p exactly if log p + g beats the best of the others, whose maximum is Gumbel
    noise around log(1 - p). So P(it is drawn | g) = exp(-(1 - p) / p * exp(-g)). For the winner only the tokens that
    nobody names are left to beat. Another one is drawn only where the estimates are wrong.

    Args:
        token_ids: at least one, none twice.
        chances: of each, averaged over the noise; above 0 and below 1.
        noise: [vocabulary], standard Gumbel, of the position to draw.

    Returns:
        Each token with its chance under this noise, best first.

    Source: the Gumbel-max rule (Maddison, Tarlow, Minka 2014), with noise shared as in Daliri et al. 2024.
    """
    scored = sorted(
        (
            (math.log(chance) + float(noise[token_id]), token_id, chance)
            for token_id, chance in zip(token_ids, chances, strict=True)
        ),
        reverse=True,
    )
    score, winner, chance = scored[0]
    wins = math.exp(-max(1e-4, 1 - sum(chances)) * math.exp(-score))
    best = chance + _TRUST * (wins - chance)
    ranked = [(winner, best)]
    for score, token_id, chance in scored[1:]:
        under_noise = (1 - wins) * math.exp(-(1 - chance) * math.exp(-score))
        ranked.append((token_id, min(chance + _TRUST * (under_noise - chance), _RUNNER_UP * best)))
    return ranked
