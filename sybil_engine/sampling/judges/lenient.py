"""What lossy judges have in common: they let a drafted token stand though the target would have drawn another."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from sybil_engine.sampling.judges.judge import Verdict, Window


class Lenient(ABC):
    """Accepts the target's own token, and others that it holds to be good enough.

    Probabilities are those of the shaped distribution; under greedy sampling, those of the target at temperature 1.
    After the first token that is not accepted, and after a whole window, the target's own draw follows.
    """

    lossless: ClassVar[bool] = False
    wants_distributions: ClassVar[bool] = False
    allows_hedges: ClassVar[bool] = True

    def judge(self, window: Window) -> Verdict:
        """See `Judge.judge`."""
        if not window.drafted:
            return Verdict((window.drawn[0],))
        rows = len(window.drafted)
        probabilities = torch.softmax(window.own_shaped[:rows].float(), dim=-1)
        drafted = torch.tensor(list(window.drafted), device=probabilities.device)
        own = torch.tensor(list(window.drawn[:rows]), device=drafted.device)
        stands = self.accepts(probabilities, drafted) | (drafted == own)
        accepted = int(stands.long().cumprod(dim=0).sum())
        return Verdict((*window.drafted[:accepted], window.drawn[accepted]))

    @abstractmethod
    def accepts(self, probabilities: Tensor, drafted: Tensor) -> Tensor:
        """Whether each drafted token is good enough.

        Args:
            probabilities: [window, vocabulary], of the target.
            drafted: [window], token ids.

        Returns:
            [window], bool.
        """


def chosen(probabilities: Tensor, drafted: Tensor) -> Tensor:
    """[window], the probability of each drafted token."""
    return probabilities.gather(-1, drafted.unsqueeze(-1)).squeeze(-1)
