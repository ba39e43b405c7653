"""A hosted model says what its passes run on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sybil_engine.core.types import ModelDescription
from sybil_engine.models.hosting import host_model
from tests.unit.models.random_models import save_folder
from verifier_service.settings import VerifierSettings


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("model"))


def described(folder: Path, **settings: float) -> ModelDescription:
    return host_model(VerifierSettings(model=str(folder), numerics="fast", **settings))[1]  # type: ignore[arg-type]


def test_services_on_one_machine_name_its_cores_alike(folder: Path) -> None:
    first, second = described(folder, threads=1), described(folder, threads=2)
    assert first.processors == second.processors
    assert len(set(first.processors)) == len(os.sched_getaffinity(0))
    assert (first.threads, second.threads) == (1, 2)


def test_an_emulated_device_takes_time_from_nobody(folder: Path) -> None:
    assert described(folder, threads=1, emulate_pass_ms=1.0).processors == ()
