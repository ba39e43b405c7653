"""A wait says what it waits for, once it takes longer than a second."""

import io
import time

import pytest
from rich.console import Console

from sybil_cli import progress as progress_module
from sybil_cli.progress import Progress


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setattr(progress_module, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(progress_module, "_REPEAT_S", 0.05)
    return Console(file=io.StringIO(), force_terminal=False)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_short_wait_says_nothing(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_PATIENCE_S", 30.0)
    with Progress(console).waiting("the fleet"):
        pass
    assert lines(console) == []


def test_a_long_wait_says_what_for_and_goes_on_saying_it(console: Console) -> None:
    with Progress(console).waiting("the fleet"):
        time.sleep(0.3)
    assert len(lines(console)) >= 2
    assert all(line.startswith("sybil: waiting for the fleet (") for line in lines(console))


def test_a_step_is_said_once_however_often_it_is_reported(console: Console) -> None:
    progress = Progress(console)
    with progress.waiting("the fleet"):
        progress.say("verifier: loading weights (1 s)")
        progress.say("verifier: loading weights (2 s)")
        progress.say("drafter: ready")
    assert lines(console) == ["sybil: verifier: loading weights", "sybil: drafter: ready"]


def test_a_wait_inside_another_says_nothing_of_its_own(console: Console) -> None:
    progress = Progress(console)
    with progress.waiting("the comparison"), progress.waiting("the first token"):
        time.sleep(0.2)
    assert lines(console)
    assert all("the comparison" in line for line in lines(console))
