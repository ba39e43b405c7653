"""Noise is a function of seed, position and token id alone."""

import hashlib
import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sybil_engine.core.noise import NoiseTape, Stream, gumbel_noise, uniform_noise

pytestmark = pytest.mark.usefixtures("one_thread")

SEED = st.integers(0, 2**64 - 1)
POSITION = st.integers(0, 2**20)


ONES = 2**64 - 1


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """The four words of one block; numpy counts up before it draws."""
    before = (sum(word << 64 * place for place, word in enumerate(counter)) - 1) % 2**256
    words = [before >> 64 * place & ONES for place in range(4)]
    generator = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(words, np.uint64))
    return [int(word) for word in generator.random_raw(4)]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        pytest.param(
            (0,) * 4,
            (0,) * 2,
            [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
            id="zeros",
        ),
        pytest.param(
            (ONES,) * 4,
            (ONES,) * 2,
            [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
            id="ones",
        ),
        pytest.param(
            (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
            id="digits of pi",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(
    counter: Sequence[int], key: Sequence[int], expected: list[int]
) -> None:
    assert philox(counter, key) == expected


@settings(max_examples=30)
@given(seed=SEED, position=POSITION, token_id=st.integers(0, 500), stream=st.sampled_from(Stream))
def test_a_uniform_value_is_half_a_philox_word_of_seed_position_and_token_id(
    seed: int, position: int, token_id: int, stream: Stream
) -> None:
    value = uniform_noise([seed], [position], token_id + 1, stream)[0, token_id]
    block, place = divmod(token_id, 8)
    word = philox((block + 1, position, stream, 0), (seed, 0))[place // 2]
    half = word >> 32 if place % 2 else word & 0xFFFFFFFF
    assert 0 < value <= 1
    assert float(value) == pytest.approx((half + 0.5) / 2**32, rel=2**-22)


@settings(max_examples=30)
@given(rows=st.lists(st.tuples(SEED, POSITION), min_size=1, max_size=9), columns=st.integers(1, 300), data=st.data())
def test_a_row_does_not_depend_on_the_batch_the_vocabulary_or_the_order(
    rows: list[tuple[int, int]], columns: int, data: st.DataObject
) -> None:
    seeds, positions = [seed for seed, _ in rows], [position for _, position in rows]
    noise = gumbel_noise(seeds, positions, columns)
    assert noise.shape == (len(rows), columns)
    assert noise.dtype == torch.float32
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = gumbel_noise([seeds[row] for row in order], [positions[row] for row in order], columns)
    assert torch.equal(shuffled, noise[list(order)])
    row = data.draw(st.integers(0, len(rows) - 1))
    wider = columns + data.draw(st.integers(0, 200))
    assert torch.equal(gumbel_noise([seeds[row]], [positions[row]], wider)[0, :columns], noise[row])


_DIGEST = """
import hashlib, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from sybil_engine.core.noise import gumbel_noise
noise = gumbel_noise([0, 1, 2**64 - 1] * 8, range(24), 5_001)
print(hashlib.sha256(noise.numpy().tobytes()).hexdigest())
"""


@pytest.mark.parametrize("threads", [2])
def test_noise_is_the_same_in_another_process_with_another_number_of_threads(threads: int) -> None:
    noise = gumbel_noise([0, 1, 2**64 - 1] * 8, range(24), 5_001)
    answer = subprocess.run([sys.executable, "-c", _DIGEST, str(threads)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == hashlib.sha256(noise.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("vocabulary_size", [301, 4_096, 2**15 + 1])
def test_a_tape_equals_direct_computation_for_any_access_pattern(seed: int, vocabulary_size: int) -> None:
    rng = random.Random(f"{seed} {vocabulary_size}")
    tape = NoiseTape(seed, vocabulary_size)
    position = 0
    for _ in range(8):
        # On by a window, back as after a rollback, or far away.
        position = max(0, rng.choice([position + rng.randrange(4), position - rng.randrange(4), rng.randrange(3_000)]))
        count = rng.randrange(1, 5)
        direct = gumbel_noise([seed] * count, range(position, position + count), vocabulary_size)
        assert torch.equal(tape.rows(position, count), direct)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_noise_is_finite_for_every_seed_and_uniform_noise_lies_between_0_and_1(seed: int) -> None:
    seeds, positions = [seed] * 16, range(16)
    assert bool(gumbel_noise(seeds, positions, 2**14).isfinite().all())
    uniform = uniform_noise(seeds, positions, 2**14, Stream.COIN)
    assert bool((uniform > 0).all())
    assert bool((uniform < 1).all())


def test_the_largest_random_word_gives_a_uniform_value_below_1_and_finite_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = np.array([0, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    monkeypatch.setattr("sybil_engine.core.noise._words", lambda *_: words)
    uniform = uniform_noise([0], [0], 4, Stream.TOKEN)
    assert bool(((uniform > 0) & (uniform < 1)).all())
    noise = gumbel_noise([0], [0], 4)
    assert bool(noise.isfinite().all())
    assert noise[0].tolist() == sorted(noise[0].tolist(), reverse=True)


def test_all_64_bits_of_a_seed_count() -> None:
    seeds = [0, 2**64 - 1, *(2**bit for bit in range(64))]
    rows = uniform_noise(seeds, [3] * len(seeds), 8, Stream.TOKEN)
    assert len({tuple(row) for row in rows.tolist()}) == len(seeds)


@pytest.mark.parametrize("seed", range(3))
def test_noise_has_the_mean_and_the_variance_of_a_gumbel_variable(seed: int) -> None:
    values = gumbel_noise([seed] * 64, range(64), 4_096).double()
    count = values.numel()
    # Standard Gumbel: mean 0.5772, variance pi^2 / 6, kurtosis 5.4; six standard errors.
    assert float(values.mean()) == pytest.approx(0.5772156649, abs=6 * (1.6449 / count) ** 0.5)
    assert float(values.var()) == pytest.approx(1.6449340668, abs=6 * 1.6449 * (4.4 / count) ** 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_streams_positions_seeds_and_token_ids_are_independent_of_each_other(seed: int) -> None:
    count = 2**16
    base = gumbel_noise([seed], [5], count + 1)
    others = {
        "coin": gumbel_noise([seed], [5], count, Stream.COIN)[0],
        "correction": gumbel_noise([seed], [5], count, Stream.CORRECTION)[0],
        "the next position": gumbel_noise([seed], [6], count)[0],
        "the next seed": gumbel_noise([seed + 1], [5], count)[0],
        "the seed's high half": gumbel_noise([seed + 2**32], [5], count)[0],
        "the next token id": base[0, 1:],
    }
    for name, other in others.items():
        correlation = float(torch.corrcoef(torch.stack([base[0, :count], other]))[0, 1])
        assert abs(correlation) < 6 / count**0.5, name
