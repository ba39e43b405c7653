"""What all tests share: who runs only where there is a GPU or Docker, and how hypothesis behaves."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent

# A machine that does other work at the same time must not fail a property for being slow.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compose", action="store_true", help="run the tests that need Docker, too")


@pytest.hookimpl(tryfirst=True)  # before xdist writes the groups down
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # Tests that share something costly run in one process: a pair of models, or a file's fixtures.
        parameters = getattr(item, "callspec", None)
        group = parameters.params.get("pair_name") if parameters else None
        item.add_marker(pytest.mark.xdist_group(group or item.path.name))
        if TESTS / "gpu" in item.path.parents:
            item.add_marker(pytest.mark.gpu)
        if item.get_closest_marker("gpu") and not cuda_is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine shows none"))
        if item.get_closest_marker("compose") and not config.getoption("--compose"):
            item.add_marker(pytest.mark.skip(reason="needs Docker; run it with `make compose-test`"))


@cache
def cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()
