"""The benchmark of proposers counts what was right, edits whole lines, and refuses what it cannot time."""

import random
from collections.abc import Sequence

import pytest

from benchmarks.proposers import Record, cut_sessions, edit, main, play_edits, split_lines
from sybil_engine.proposers.proposer import Continuation, Proposer

NEWLINE = 0
LINES = [[number, number + 50, NEWLINE] for number in range(1, 31)]
OTHERS = [[200 + number, NEWLINE] for number in range(20)]


class Both(Proposer):
    """Names 5 first, and 6."""

    def follow(self, token_ids: Sequence[int]) -> None:
        pass

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        return [Continuation(6, 0.25, "second"), Continuation(5, 0.5, "first")]


def test_every_continuation_is_counted_under_its_evidence() -> None:
    record = Record()
    record.play(Both(), [1], [5, 6, 7, 5])
    assert (record.positions, record.top, record.named, record.given) == (4, 2, 3, 8)
    assert {each: hits.right for each, hits in record.by_evidence.items()} == {"first": 2, "second": 1}
    assert record.brier == pytest.approx((4 * 0.25 + 3 * 0.0625 + 0.5625) / 8)


def test_lines_joined_are_the_text() -> None:
    text = [1, 2, NEWLINE, NEWLINE, 3]
    assert split_lines(text, frozenset({NEWLINE})) == [[1, 2, NEWLINE], [NEWLINE], [3]]


@pytest.mark.parametrize("seed", range(5))
def test_an_edit_replaces_a_line_leaves_one_out_and_puts_one_in(seed: int) -> None:
    output, new_tokens = edit(LINES, OTHERS, random.Random(seed))
    lines = split_lines(output, frozenset({NEWLINE}))
    assert len(lines) == len(LINES)
    assert [line in OTHERS for line in lines].count(True) == 2
    assert [line for line in lines if line in LINES] == [line for line in LINES if line in lines]
    assert new_tokens == 4


def test_a_prediction_with_a_few_changed_lines_is_right_about_nearly_all_the_rest() -> None:
    text = [token_id for number in range(1, 500) for token_id in (number, number + 1000, NEWLINE)]
    record, rewrites = play_edits([text], frozenset({NEWLINE}))
    assert len(rewrites) == 1
    assert record.positions == rewrites[0].tokens
    assert rewrites[0].wrong <= rewrites[0].new_tokens + 9


def test_sessions_are_pieces_of_one_file_and_long_enough_for_a_prompt() -> None:
    texts = [[1] * 1100, [2] * 200, [3] * 2000]
    assert [(piece[0], len(piece)) for piece in cut_sessions(texts)] == [(1, 1024), (3, 1024), (3, 976)]


@pytest.mark.parametrize("held", ["1", "1000000"])
def test_tokens_that_were_not_read_cannot_be_held(held: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--tokens", "5000", "--held", held])
    assert exit_.value.code == 2
    assert "lower it, raise --tokens" in capsys.readouterr().err
