"""Position-keyed noise: a function of seed, position and token id alone.

Philox is a counter-based generator: its output is a pure function of a key (the session's seed) and a counter (token
id, position, stream). So drafter and verifier draw the same noise without messages, on any device, in any order.

Source: Salmon, Moraes, Dror, Shaw 2011 (Philox4x64-10, in numpy); Daliri, Musco, Suresh 2024 (shared noise).
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Stream(IntEnum):
    """What noise is used for; the streams are independent of one another."""

    TOKEN = 0
    """The Gumbel-max draw of a token: shared by drafter and verifier."""
    COIN = 1
    """The ratio test's coin."""
    CORRECTION = 2
    """The ratio test's draw after a rejection."""


def uniform_noise(
    seeds: Sequence[int],
    positions: Sequence[int],
    columns: int,
    stream: Stream,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Uniform noise, the same on every device and in every process.

    Args:
        seeds: [rows], 64-bit session seeds.
        positions: [rows], absolute positions.
        columns: how many values a row has: the vocabulary size, or 1 for a coin.

    Returns:
        [rows, columns], float32, in (0, 1), with the resolution of 2**-32 near 0.
    """
    words = [_words(seed, position, columns, stream) for seed, position in zip(seeds, positions, strict=True)]
    # Rounding to float32 can yield exactly 1.
    uniform = np.minimum((np.stack(words).astype(np.float32) + 0.5) * np.float32(2.0**-32), np.float32(1 - 2.0**-24))
    return torch.from_numpy(uniform).to(device)


def _words(seed: int, position: int, columns: int, stream: Stream) -> npt.NDArray[np.uint32]:
    """[columns] random words. A block of the generator holds the words of eight columns."""
    key, counter = np.array([seed, 0], np.uint64), np.array([0, position, stream, 0], np.uint64)
    random: npt.NDArray[np.uint64] = np.random.Philox(key=key, counter=counter).random_raw(-(-columns // 2))
    return random.astype("<u8", copy=False).view("<u4")[:columns]


def gumbel_noise(
    seeds: Sequence[int],
    positions: Sequence[int],
    vocabulary_size: int,
    stream: Stream = Stream.TOKEN,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Noise for the Gumbel-max draw at each position, the same on every device except for the logarithm's last bits.

    Args:
        seeds: [rows], 64-bit session seeds.
        positions: [rows], absolute positions of the tokens to draw.

    Returns:
        [rows, vocabulary_size], float32, standard Gumbel.
    """
    # With u uniform, -log(1 - u) is exponential, and precise where it is small, which is where Gumbel noise is large.
    return -torch.log(-torch.log1p(-uniform_noise(seeds, positions, vocabulary_size, stream, device)))


class NoiseTape:
    """One session's token noise, drawn for several positions at a time, which halves what a position costs.

    The latest stretches of positions are kept, because a drafter runs ahead and rolls back.
    """

    _STRETCH_VALUES = 2**15
    _MOST_POSITIONS = 64
    _KEPT_STRETCHES = 4

    def __init__(self, seed: int, vocabulary_size: int, device: torch.device | str = "cpu") -> None:
        self._seed = seed
        self._vocabulary_size = vocabulary_size
        self._device = device
        self._stretch = min(self._MOST_POSITIONS, max(1, self._STRETCH_VALUES // vocabulary_size))
        # By stretch number, in the order in which they were drawn.
        self._stretches: dict[int, Tensor] = {}

    def rows(self, position: int, count: int) -> Tensor:
        """Gumbel noise for the tokens at `position` and the `count - 1` positions after it.

        Returns:
            [count, vocabulary_size], float32; read only.
        """
        first, last = position // self._stretch, (position + count - 1) // self._stretch
        parts = [self._drawn(number) for number in range(first, last + 1)]
        start = position - first * self._stretch
        return (parts[0] if len(parts) == 1 else torch.cat(parts))[start : start + count]

    def _drawn(self, number: int) -> Tensor:
        if number not in self._stretches:
            positions = range(number * self._stretch, (number + 1) * self._stretch)
            self._stretches[number] = gumbel_noise(
                [self._seed] * self._stretch, positions, self._vocabulary_size, device=self._device
            )
            if len(self._stretches) > self._KEPT_STRETCHES:
                del self._stretches[next(iter(self._stretches))]
        return self._stretches[number]
