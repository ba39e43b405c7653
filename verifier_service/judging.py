"""From a pass's logits to verdicts: the target's own tokens are drawn, and each share's path is judged by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from sybil_engine.sampling.draw import Draw, draw_rows
from sybil_engine.sampling.judges.judge import Verdict, Window
from verifier_service.policy.rows import Share
from verifier_service.session import VerifierSession

SessionShares = Sequence[Share[VerifierSession]]
"""One session's shares in a pass, its trunk's first."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A share and its verdict.

    Attributes:
        first_row: of the share, among the rows of the pass that draw a token.
    """

    share: Share[VerifierSession]
    first_row: int
    verdict: Verdict


def judge_rows(shares: SessionShares, logits: Tensor) -> tuple[list[Judged], Tensor]:
    """Draw the target's own token at each row that draws one, and judge each share's path.

    Args:
        logits: [rows of all shares, vocabulary].

    Returns:
        The shares that draw a token, judged; and [drawn rows, vocabulary], the shaped logits.
    """
    drawn, shaped = _draw(shares, logits)
    judged: list[Judged] = []
    row = 0
    for share in shares:
        if not share.drawn_rows:
            continue
        session, path = share.session, share.path or ()
        window = Window(
            session.opening.seed,
            len(session.ledger),
            [node.token_id for node in path],
            [node.distribution for node in path if node.distribution],
            drawn[row : row + share.drawn_rows],
            shaped,
            row,
        )
        judged.append(Judged(share, row, session.judge.judge(window)))
        row += share.drawn_rows
    return judged, shaped


def committed_logprobs(judged: Sequence[Judged], shaped: Tensor) -> list[tuple[float, ...]]:
    """The log-probabilities of the tokens that shares commit, of each share whose session asks for them.

    Args:
        shaped: [drawn rows of the pass, vocabulary].
    """
    asking = [each for each in judged if each.share.session.opening.logprobs]
    rows = [each.first_row + place for each in asking for place in range(len(each.verdict.token_ids))]
    if not rows:
        return [()] * len(judged)
    token_ids = torch.tensor([token_id for each in asking for token_id in each.verdict.token_ids], device=shaped.device)
    logprobs = torch.log_softmax(shaped[rows], dim=-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1).tolist()
    of_row = iter(logprobs)
    return [
        tuple(islice(of_row, len(each.verdict.token_ids))) if each.share.session.opening.logprobs else ()
        for each in judged
    ]


def _draw(shares: SessionShares, logits: Tensor) -> tuple[list[int], Tensor]:
    """Draw the target's own token at each row that draws one.

    Args:
        logits: [rows of all shares, vocabulary].

    Returns:
        [drawn rows] and [drawn rows, vocabulary], the shaped logits.
    """
    rows: list[int] = []
    draws: list[Draw] = []
    end = 0
    for share in shares:
        end += share.rows
        if share.drawn_rows:
            session = share.session
            rows += range(end - share.drawn_rows, end)
            draws.append(Draw(session.opening.sampling, session.noise, len(session.ledger), share.drawn_rows))
    if not draws:
        return [], logits[:0]
    drawn, shaped = draw_rows(logits if len(rows) == len(logits) else logits[rows], draws)
    return drawn.tolist(), shaped
