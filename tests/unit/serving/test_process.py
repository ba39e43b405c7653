"""A service's process ends with a status, and prints nothing that no one asked for."""

import gc
from collections.abc import Callable, Sequence

import pytest

from coordinator.__main__ import main as coordinator
from drafter_service.__main__ import main as drafter
from verifier_service.__main__ import main as verifier


@pytest.mark.parametrize("main", [coordinator, drafter, verifier])
def test_help_is_printed_without_complaints(
    main: Callable[[Sequence[str]], int], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    # An error that a task was left with is reported when the task is collected.
    gc.collect()
    printed = capsys.readouterr()
    assert "--port" in printed.out
    assert not printed.err
    assert not caplog.records
