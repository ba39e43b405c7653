"""How far a judge's next token is from the target's, as distributions: computed from both models along a text.

At a position where the draft model drafts, a judge commits the drafted token or the target's own. Both are drawn
through the same noise, so what is committed has the target's distribution, changed by what the judge lets stand:

    committed(v) = target(v) + P(v is committed, the target drew another) - P(the target drew v, another is committed)

The two chances are means over noise that is drawn many times. For the exact judge they are 0, whatever the noise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quality.judge_setting import JudgeSetting
from sybil_engine.core.noise import gumbel_noise
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import AcceptanceRule, SamplingParams
from sybil_engine.sampling.judges import judge_for
from sybil_engine.sampling.judges.judge import Window
from sybil_engine.sampling.shaping import shape_logits


@dataclass(frozen=True, slots=True)
class Position:
    """What both models say after one text.

    Attributes:
        target_logits, draft_logits: [vocabulary], float32.
    """

    target_logits: Tensor
    draft_logits: Tensor


def divergences(
    positions: Sequence[Position], settings: Sequence[JudgeSetting], temperature: float, draws: int, seed: int = 0
) -> Mapping[str, float]:
    """KL divergence of what each judge commits from the target's distribution, in nats a drafted token.

    Greedy distributions are points, so at temperature 0 it is the loss of log-probability instead: log target(its own
    token) - log target(committed token), at temperature 1.

    Args:
        draws: of noise, for each position.

    Returns:
        By the setting's name, the mean over the positions.
    """
    params = SamplingParams(temperature=temperature)
    totals = dict.fromkeys((setting.name for setting in settings), 0.0)
    for number, position in enumerate(positions):
        target, draft = (
            shape_logits(each.unsqueeze(0), params)[0] for each in (position.target_logits, position.draft_logits)
        )
        if params.greedy:
            drawn, drafted = target.argmax().reshape(1), draft.argmax().reshape(1)
        else:
            noise = gumbel_noise([seed] * draws, range(number * draws, (number + 1) * draws), len(target))
            drawn, drafted = (target + noise).argmax(dim=-1), (draft + noise).argmax(dim=-1)
        log_target = torch.log_softmax(target.double(), dim=-1)
        for setting in settings:
            # The ratio test corrects what it accepts, so that what is committed has the target's distribution.
            if setting.rule is not AcceptanceRule.RATIO_TEST:
                totals[setting.name] += _divergence(log_target, drawn, drafted, target, setting, params)
    return {name: total / len(positions) for name, total in totals.items()}


def _divergence(
    log_target: Tensor, drawn: Tensor, drafted: Tensor, shaped: Tensor, setting: JudgeSetting, params: SamplingParams
) -> float:
    opening = SessionOpen(
        (0,), 1, sampling=params, acceptance_rule=setting.rule, acceptance_parameter=setting.parameter
    )
    judge = judge_for(opening)
    stands = {
        (own, other): judge.judge(Window(0, 0, [other], (), [own, -1], torch.stack([shaped, shaped]))).token_ids[0]
        for own, other in set(zip(drawn.tolist(), drafted.tolist(), strict=True))
    }
    committed = [stands[pair] for pair in zip(drawn.tolist(), drafted.tolist(), strict=True)]
    changed = [(own, other) for own, other in zip(drawn.tolist(), committed, strict=True) if own != other]
    if not changed:
        return 0.0
    if params.greedy:
        own, other = changed[0]
        return float(log_target[own] - log_target[other])
    effective = log_target.exp()
    for own, other in changed:
        effective[other] += 1 / len(committed)
        effective[own] -= 1 / len(committed)
    effective = effective.clamp(min=0)
    effective /= effective.sum()
    terms = torch.xlogy(effective, effective) - effective * log_target.clamp(min=math.log(1e-30))
    return float(terms.sum())
