"""From a pass's logits to verdicts: the target's own tokens are drawn, and each share's path is judged by them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
        shaped: [drawn rows, vocabulary].
    """

    share: Share[VerifierSession]
    shaped: Tensor
    verdict: Verdict

    def logprobs(self) -> list[float]:
        """The log-probability of each token that the share commits."""
        token_ids = torch.tensor(self.verdict.token_ids, device=self.shaped.device).unsqueeze(-1)
        logprobs = torch.log_softmax(self.shaped[: len(token_ids)], dim=-1)
        result: list[float] = logprobs.gather(-1, token_ids).squeeze(-1).tolist()
        return result


def judge_rows(shares: SessionShares, logits: Tensor) -> Iterator[Judged]:
    """Draw the target's own token at each row that draws one, and judge each share's path.

    Args:
        logits: [rows of all shares, vocabulary].

    Returns:
        The shares that draw a token, judged.
    """
    drawn, shaped = _draw(shares, logits)
    start = 0
    for share in shares:
        if not share.drawn_rows:
            continue
        rows = slice(start, start + share.drawn_rows)
        start = rows.stop
        session, path = share.session, share.path or ()
        window = Window(
            session.opening.seed,
            len(session.ledger),
            [node.token_id for node in path],
            [node.distribution for node in path if node.distribution],
            drawn[rows],
            shaped[rows],
        )
        yield Judged(share, window.shaped, session.judge.judge(window))


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
