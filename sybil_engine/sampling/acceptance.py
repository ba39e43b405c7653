"""The rules that judge drafted tokens. Pure: all randomness is an argument."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Floats in the engine; fractions where the rule is proved by enumeration.
Probabilities = NDArray[Any]

CUT_TOKENS = 64
"""The most likely tokens of a draft distribution that the ratio test draws from and that are sent."""


def count_accepted(draft_token_ids: Sequence[int], target_token_ids: Sequence[int]) -> int:
    """Count the drafted tokens that stand under shared noise: those before the first that the target did not draw.

    Args:
        draft_token_ids: [window].
        target_token_ids: [window or longer], the target's own draw at each of the same positions.

    Source: Daliri, Musco, Suresh 2024.
    """
    for index, (draft_token_id, target_token_id) in enumerate(zip(draft_token_ids, target_token_ids, strict=False)):
        if draft_token_id != target_token_id:
            return index
    return len(draft_token_ids)


def cut_to_most_likely(probabilities: Probabilities, keep_tokens: int = CUT_TOKENS) -> Probabilities:
    """Cut a draft distribution to its most likely tokens and renormalise: what the drafter draws from and sends.

    The ratio test stays exact because the draft is drawn from exactly this cut. Ties go to the lowest token id.

    Args:
        probabilities: [vocabulary].

    Returns:
        [vocabulary], summing to 1, with at most `keep_tokens` above 0.
    """
    kept = np.argsort(-probabilities, kind="stable")[:keep_tokens]
    cut: Probabilities = probabilities * 0
    cut[kept] = probabilities[kept]
    cut /= cut.sum()
    return cut


def passes_ratio_test(draft_probability: Any, target_probability: Any, coin: Any) -> bool:
    """Decide whether a drafted token stands: with probability min(1, target / draft).

    Args:
        draft_probability: of the drafted token, above 0.
        coin: uniform in (0, 1).

    Source: Leviathan, Kalman, Matias 2023; Chen et al. 2023.
    """
    return bool(coin * draft_probability < target_probability)


def correction_distribution(draft: Probabilities, target: Probabilities) -> Probabilities:
    """Distribution of the token that replaces a rejected one: what the target has beyond the draft, renormalised.

    Args:
        draft: [vocabulary], what the rejected token was drawn from.
        target: [vocabulary].

    Returns:
        [vocabulary]. The target's own distribution when rounding leaves nothing beyond the draft.
    """
    beyond: Probabilities = np.maximum(target - draft, 0)
    total = beyond.sum()
    corrected: Probabilities = beyond / total if total > 0 else target
    return corrected
