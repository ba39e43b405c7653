"""The worked example of docs/exactness.md, computed anew."""

from pathlib import Path

import torch

from sybil_engine.core.noise import gumbel_noise
from sybil_engine.sampling.draw import draw_tokens
from sybil_engine.sampling.judges.equality import Equality
from sybil_engine.sampling.judges.judge import Window

PAGE = Path(__file__).parents[2] / "docs" / "exactness.md"
SEED = 4
POSITIONS = (3, 4)
TARGET = torch.tensor([[0.50, 0.30, 0.15, 0.05], [0.10, 0.40, 0.40, 0.10]])
DRAFT = torch.tensor([[0.35, 0.40, 0.20, 0.05], [0.25, 0.45, 0.20, 0.10]])


def test_the_page_shows_the_numbers_that_the_code_computes() -> None:
    noise = gumbel_noise([SEED, SEED], POSITIONS, vocabulary_size=4)
    target_scores, draft_scores = TARGET.log() + noise, DRAFT.log() + noise
    rows = [
        f"| {token} | {noise[row, token]:.3f} | {TARGET[row, token]:.2f} | {target_scores[row, token]:.3f} "
        f"| {DRAFT[row, token]:.2f} | {draft_scores[row, token]:.3f} |"
        for row in range(2)
        for token in range(4)
    ]
    page_rows = [line for line in PAGE.read_text().splitlines() if line.startswith(("| 0 ", "| 1 ", "| 2 ", "| 3 "))]
    assert page_rows == rows


def test_the_worked_window_commits_one_accepted_token_and_the_targets_own() -> None:
    noise = gumbel_noise([SEED, SEED], POSITIONS, vocabulary_size=4)
    target = draw_tokens(TARGET.log(), noise).tolist()
    draft = draw_tokens(DRAFT.log(), noise).tolist()
    assert (draft, target) == ([1, 1], [1, 2])
    verdict = Equality().judge(Window(SEED, POSITIONS[0], draft, (), target, TARGET.log()))
    assert (verdict.accepted, verdict.token_ids) == (1, (1, 2))
    assert (DRAFT.log() + noise)[1].argsort(descending=True).tolist()[1] == target[1]
