"""Fixtures for tests that run an engine on fakes."""

from collections.abc import Iterator

import pytest
import torch

from sybil_engine.core.noise import NoiseTape
from tests.unit.fake_runner import VOCABULARY_SIZE, FakeClock


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and lose much where other work shares the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time of both engines; their noise is drawn in short stretches."""
    clock = FakeClock()
    monkeypatch.setattr("verifier_service.engine.time", clock)
    monkeypatch.setattr("drafter_service.engine.time", clock)
    monkeypatch.setattr(NoiseTape, "_STRETCH_VALUES", 16 * VOCABULARY_SIZE)
    return clock
