"""A hosted model says what its passes run on."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.types import ModelDescription
from sybil_engine.models.hosting import host_model
from sybil_engine.serving.service_settings import LEAST_CONTEXT_TOKENS
from sybil_engine.settings import parse
from tests.unit.models.random_models import save_folder
from verifier_service.engine import BRANCH_CELLS
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


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_the_least_context_that_settings_allow_is_served(folder: Path, numerics: Literal["exact", "fast"]) -> None:
    settings = VerifierSettings(model=str(folder), numerics=numerics, context_tokens=LEAST_CONTEXT_TOKENS)
    assert host_model(settings, BRANCH_CELLS)[1].context_tokens == LEAST_CONTEXT_TOKENS


@pytest.mark.parametrize(
    ("cache_memory", "sentence"),
    [
        ("10K", "holds [0-9]+ pages of 64 tokens, and 4 are needed; give at least"),
        ("100T", "the memory does not hold a KV cache of .* GB; lower --cache-memory"),
    ],
)
def test_a_cache_that_is_too_small_or_too_large_is_refused_in_one_sentence(
    folder: Path, cache_memory: str, sentence: str
) -> None:
    settings = VerifierSettings(model=str(folder), cache_memory=cache_memory)
    with pytest.raises(InvalidSettings, match=sentence):
        host_model(settings.model_copy(update={"max_sessions": 10**12}))


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--context-tokens", 1, "at least 16, or 0 for the model's own context"),
        ("--context-tokens", -16, "at least 16, or 0 for the model's own context"),
        ("--max-sessions", 10**9, "between 1 and 65536"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_torch_is_imported(flag: str, value: int, allowed: str) -> None:
    with pytest.raises(InvalidSettings, match=f"^{flag} is '?{value}'?; it must be {allowed}$"):
        parse(VerifierSettings, [flag, str(value)], {})


def test_an_emulated_device_takes_time_from_nobody(folder: Path) -> None:
    assert described(folder, threads=1, emulate_pass_ms=1.0).processors == ()
