"""A window judged by the ratio test, for comparison with shared noise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sybil_engine.core.noise import Stream, gumbel_noise, uniform_noise
from sybil_engine.core.types import Distribution
from sybil_engine.sampling.acceptance import correction_distribution, passes_ratio_test


def judge_window(
    shaped: Tensor,
    drafted: Sequence[int],
    distributions: Sequence[Distribution],
    free_token_id: int,
    seed: int,
    position: int,
) -> list[int]:
    """Decide what a pass commits.

    Coins and corrections have noise of their own: neither may depend on how the draft was drawn. The token behind a
    window that stands is drawn freely, under the shared noise, whatever is drafted for its place; that this place
    would not be judged was settled when the pass was launched.

    Args:
        shaped: [window + 1, vocabulary], the target's, as `shape_logits` returns it.
        drafted: [window].
        distributions: [window], what each was drawn from.
        free_token_id: the target's own draw behind the window.
        position: of the first drafted token.

    Returns:
        The drafted tokens that stand, and one of the target's own.
    """
    vocabulary_size = shaped.shape[-1]
    for index, (token_id, distribution) in enumerate(zip(drafted, distributions, strict=True)):
        target = torch.softmax(shaped[index].double(), dim=-1).numpy()
        draft = np.zeros(vocabulary_size)
        known = [place for place, each in enumerate(distribution.token_ids) if each < vocabulary_size]
        draft[[distribution.token_ids[place] for place in known]] = [
            distribution.probabilities[place] for place in known
        ]
        coin = float(uniform_noise([seed], [position + index], 1, Stream.COIN)[0, 0])
        if draft[token_id] > 0 and passes_ratio_test(draft[token_id], target[token_id], coin):
            continue
        corrected = torch.from_numpy(correction_distribution(draft, target)).log()
        noise = gumbel_noise([seed], [position + index], vocabulary_size, Stream.CORRECTION)[0]
        return [*drafted[:index], int((corrected + noise).argmax())]
    return [*drafted, free_token_id]
