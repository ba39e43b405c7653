"""What all tests share: which run only with a GPU or Docker, and the settings of hypothesis."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import sybil_engine.models.openmp  # noqa: F401  before torch: two workers share two cores

# isort: split
import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TESTS = Path(__file__).parent

# A machine that does other work at the same time must not fail a property for being slow.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compose", action="store_true", help="also run the tests that need Docker")
    parser.addoption("--full", action="store_true", help="compare tokens over all prompts, not a sample of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if TESTS / "gpu" in item.path.parents:
            item.add_marker(pytest.mark.gpu)
        if item.get_closest_marker("gpu") and not cuda_is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine shows none"))
        if item.get_closest_marker("compose") and not config.getoption("--compose"):
            item.add_marker(pytest.mark.skip(reason="needs Docker; run it with `make compose-test`"))


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Runs tests that share something costly in one process: a pair of models, or a file's fixtures.

    By name, because xdist 3.8 has no hold on the marks of pytest 9.2.
    """

    _PAIR = re.compile(r"\[(\w+-(?:float32|bfloat16|int8))\b")

    def _split_scope(self, nodeid: str) -> str:
        pair = self._PAIR.search(nodeid)
        return pair[1] if pair else nodeid.split("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling | None:
    return GroupScheduling(config, log) if config.getvalue("dist") == "loadscope" else None


@cache
def cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()
