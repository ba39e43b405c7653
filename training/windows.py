"""Windows: the fixed-length pieces of the corpus that one training step sees."""

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training.corpus import SourceFile

Documents = Sequence[Sequence[int]]
"""Token ids of each document."""


def encode_documents(tokenizer: PreTrainedTokenizerFast, files: Sequence[SourceFile]) -> list[list[int]]:
    """Token ids of each file, each ended by end-of-text."""
    encoded = tokenizer([file.text for file in files], verbose=False)
    return [[*ids, tokenizer.eos_token_id] for ids in encoded["input_ids"]]


class Windows:
    """Windows over shuffled documents, the same for the same seed and step, so that training can resume anywhere.

    Every epoch shuffles the documents, joins them, starts at another offset, and shuffles the windows.
    """

    def __init__(self, documents: Documents, window_tokens: int, rows: int, seed: int):
        self._documents = documents
        self._window_tokens = window_tokens
        self._rows = rows
        self._seed = seed
        self._per_epoch = sum(map(len, documents)) // window_tokens - 1
        self._shuffled = lru_cache(maxsize=1)(self._shuffle)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Windows of one step.

        Returns:
            [rows, window_tokens], int64, and the same shifted by one: the token after each.
        """
        first = step * self._rows
        places = (divmod(index, self._per_epoch) for index in range(first, first + self._rows))
        windows = torch.stack([self._shuffled(epoch)[place] for epoch, place in places])
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def _shuffle(self, epoch: int) -> Tensor:
        rng = random.Random(f"{self._seed}/{epoch}")
        documents = list(self._documents)
        rng.shuffle(documents)
        offset = rng.randrange(self._window_tokens)
        tokens = torch.tensor(list(chain.from_iterable(documents)))[offset:]
        starts = torch.tensor(rng.sample(range(self._per_epoch), self._per_epoch)) * self._window_tokens
        return tokens[starts[:, None] + torch.arange(self._window_tokens + 1)]
