"""Position-keyed noise: a function of seed, position and token id alone.

Philox is a counter-based generator: its output is a pure function of a key (the session's seed) and a counter (token
id, position, stream). So drafter and verifier draw the same noise without messages, on any device, in any order.

Source: Salmon, Moraes, Dror, Shaw 2011 (Philox4x32-10); Daliri, Musco, Suresh 2024 (shared noise).
"""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


class Stream(IntEnum):
    """What noise is used for; the streams are independent of one another."""

    TOKEN = 0
    """The Gumbel-max draw of a token: shared by drafter and verifier."""
    COIN = 1
    """The ratio test's coin."""
    CORRECTION = 2
    """The ratio test's draw after a rejection."""


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit random words for each counter.

    Args:
        counter: four int64 tensors of words below 2**32, of shapes that broadcast.
        key: two such tensors.

    Returns:
        Four int64 tensors of words below 2**32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product may pass 2**63: the wrapped int64 still holds the right 64 bits, and the mask undoes the sign.
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = (product1 >> 32) & _WORD ^ c1 ^ k0
        c1 = product1 & _WORD
        c2 = (product0 >> 32) & _WORD ^ c3 ^ k1
        c3 = product0 & _WORD
        k0 = (k0 + _WEYL[0]) & _WORD
        k1 = (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


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
    blocks = -(-columns // 4)
    words = torch.tensor(
        [[seed & _WORD, seed >> 32, position] for seed, position in zip(seeds, positions, strict=True)],
        dtype=torch.int64,
        device=device,
    )
    token_blocks = torch.arange(blocks, dtype=torch.int64, device=device).unsqueeze(0)
    stream_word = torch.full((1, 1), int(stream), dtype=torch.int64, device=device)
    key_low, key_high, position = (words[:, column : column + 1] for column in range(3))
    random = philox4x32((token_blocks, position, torch.zeros_like(stream_word), stream_word), (key_low, key_high))
    # Word j of block b belongs to column 4 b + j.
    values = torch.stack(random, dim=-1).reshape(len(seeds), 4 * blocks)[:, :columns]
    # Rounding to float32 can yield exactly 1.
    return ((values.to(torch.float32) + 0.5) * 2.0**-32).clamp_max_(1 - 2.0**-24)


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
    """One session's token noise, drawn for many positions at a time, because most of a draw's cost is the call.

    The latest stretches of positions are kept, because a drafter runs ahead and rolls back.
    """

    _STRETCH_VALUES = 2**16
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
