"""Both models run over texts, for what they would have said."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from quality.divergence import Position
from sybil_engine.models.loading import read_model, tokenizer_json


class Readers:
    """A target and a draft model, as transformers runs them, in float32.

    Attributes:
        tokenizer: the target's.
    """

    def __init__(self, target: str, draft: str) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer_json(target).decode())
        self._target, self._draft = read_model(target), read_model(draft)

    def log_likelihood(self, prompt: Sequence[int], text: Sequence[int]) -> float:
        """Mean log-probability of a text's tokens under the target at temperature 1, in nats."""
        logits = self._logits(self._target, prompt, text)
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(text).unsqueeze(-1))
        return float(chosen.mean())

    def positions(self, prompt: Sequence[int], text: Sequence[int], every: int) -> list[Position]:
        """What both models say before some of a text's tokens: one of so many."""
        target, draft = (self._logits(each, prompt, text) for each in (self._target, self._draft))
        size = min(target.shape[-1], draft.shape[-1])
        return [Position(target[place, :size], draft[place, :size]) for place in range(0, len(text), every)]

    @torch.inference_mode()
    def _logits(self, model: Any, prompt: Sequence[int], text: Sequence[int]) -> Tensor:
        """[tokens of the text, vocabulary], each row before its token."""
        token_ids = torch.tensor([[*prompt, *text]])
        logits: Tensor = model(token_ids).logits[0, len(prompt) - 1 : -1].float()
        return logits
