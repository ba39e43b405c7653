"""Judging and committing a pass take as many tensor calls for many sessions as for few."""

from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import SamplingParams
from tests.unit.fake_runner import FakeRunner, description
from verifier_service.engine import Verifier
from verifier_service.judging import judge_rows

pytestmark = pytest.mark.usefixtures("one_thread", "clock")


class CountedCalls(TorchDispatchMode):
    """Counts calls on tensors."""

    calls = 0

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return function(*args, **(kwargs or {}))


def opening(token_id: int, logprobs: bool) -> SessionOpen:
    """Of one token, so that nothing is fed before the first pass."""
    return SessionOpen((token_id,), 1, SamplingParams(), max_position=20, logprobs=logprobs)


def calls_of_a_pass(sessions: int, *, logprobs: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[Commit]]:
    """Tensor calls of one pass after its forward, and what it committed."""
    verifier = Verifier(FakeRunner(slots=sessions), description(), 8)
    commits: list[Commit] = []

    def take(event: Commit | Exception) -> None:
        assert isinstance(event, Commit)
        commits.append(event)

    for seed in range(sessions):
        verifier.open(opening(seed, logprobs), take)
    counted = CountedCalls()  # type: ignore[no-untyped-call]  # torch does not type its modes

    def judged(*args: Any) -> Any:
        with counted:
            return judge_rows(*args)

    monkeypatch.setattr("verifier_service.engine.judge_rows", judged)
    while not counted.calls:
        verifier.step()
    with counted:
        verifier.step()
    assert len(commits) == sessions
    return counted.calls, commits


@pytest.mark.parametrize("logprobs", [False, True])
def test_the_tensor_calls_of_a_pass_do_not_grow_with_its_sessions(
    logprobs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, _ = calls_of_a_pass(2, logprobs=logprobs, monkeypatch=monkeypatch)
    many, commits = calls_of_a_pass(12, logprobs=logprobs, monkeypatch=monkeypatch)
    assert few == many > 0
    assert all((commit.tokens[0].logprob is not None) == logprobs for commit in commits)


def test_each_session_gets_the_log_probabilities_of_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    _, together = calls_of_a_pass(5, logprobs=True, monkeypatch=monkeypatch)
    by_seed = {commit.prefix_fingerprint: commit.tokens for commit in together}
    for seed in range(5):
        verifier = Verifier(FakeRunner(slots=1), description(), 8)
        alone: list[Commit] = []
        verifier.open(opening(seed, logprobs=True), alone.append)  # type: ignore[arg-type]
        while not alone:
            verifier.step()
        assert by_seed[alone[0].prefix_fingerprint] == alone[0].tokens
