"""How sessions open."""

import pytest
from coordinator.policies import Auto, Lockstep, Pipelined

from sybil_engine.core.session import SessionOpen


@pytest.mark.parametrize("window_tokens", [0, 3])
def test_on_a_shared_processor_an_adaptive_session_drafts_one_window_before_the_first_pass(window_tokens: int) -> None:
    opened = Auto(window_tokens).opening(SessionOpen((1,), 1, shares_processor=True))
    window = Lockstep(window_tokens or Lockstep().window_tokens).opening(SessionOpen((1,), 1))
    assert (opened.draft_budget, opened.push_tokens) == (window.draft_budget, window.push_tokens)


def test_elsewhere_it_drafts_ahead_and_pushes_at_once() -> None:
    opened, pipelined = (each.opening(SessionOpen((1,), 1)) for each in (Auto(), Pipelined()))
    assert (opened.draft_budget, opened.push_tokens) == (pipelined.draft_budget, pipelined.push_tokens)
