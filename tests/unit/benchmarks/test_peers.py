"""Peers complete with the settings that are reported, and the search says what it tried."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.arms import BenchTask
from benchmarks.peers import PeerModels, PeerSearch, PeerSetting, TransformersArm
from sybil_engine.core.types import SamplingParams
from tests.unit.models.random_models import save_folder

TASKS = [BenchTask((5, 6, 7, 5, 6, 7, 5, 6), seed=3), BenchTask((9, 8, 9, 8, 9, 8), seed=4)]
PLAIN = PeerSetting("float32", threads=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> PeerModels:
    folder = save_folder(tmp_path_factory.mktemp("peers") / "model")
    return PeerModels(folder, folder, "cpu")


@pytest.mark.parametrize(
    "setting",
    [
        PeerSetting("float32", 1, assisted=True),
        PeerSetting("float32", 1, assisted=True, assistant_tokens=3),
        PeerSetting("float32", 1, lookup_tokens=5),
    ],
)
def test_a_peers_greedy_tokens_are_the_targets_whatever_its_setting(setting: PeerSetting, models: PeerModels) -> None:
    async def tokens(each: PeerSetting) -> tuple[int, ...]:
        measurement = await TransformersArm("peer", models, each).complete(TASKS[0], SamplingParams(), 16)
        return measurement.token_ids

    plain = asyncio.run(tokens(PLAIN))
    assert 1 <= len(plain) <= 16
    assert asyncio.run(tokens(setting)) == plain


def test_a_search_reports_every_setting_and_the_fastest_of_them(models: PeerModels) -> None:
    search = PeerSearch(models, ("float32", "bfloat16"), TASKS, SamplingParams(temperature=0.8), 4, lambda step: None)
    for name in ("transformers", "transformers-assisted", "transformers-lookup"):
        found = asyncio.run(search.find(name))
        settings = [setting for setting, _ in found.searched]
        assert found.default in settings
        assert found.best == max(found.searched, key=lambda pair: pair[1])[0]
        assert len(found.figures["searched"]) == len(settings) >= 2
        assert found.default.dtype == "float32"
    assert {setting.assistant_tokens for setting, _ in asyncio.run(search.find("transformers-assisted")).searched} == {
        None,
        3,
        5,
        8,
    }


def test_a_model_is_loaded_once_for_each_type(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "model")
    models = PeerModels(folder, None, "cpu")
    assert models.model("target", "float32") is models.model("target", "float32")
    assert models.model("target", "float32") is not models.model("target", "bfloat16")
