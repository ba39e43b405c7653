from hypothesis import given
from hypothesis import strategies as st

from coordinator.stop_strings import StopStrings

# A small alphabet makes near misses and overlaps likely.
texts = st.lists(st.text("ab", max_size=6), max_size=12)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4)


def cut_at(text: str, stops: list[str]) -> int | None:
    """Where the text ends: before the longest of the stop strings that are complete first."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return end - max(map(len, complete))
    return None


def could_start(text: str, stops: list[str]) -> bool:
    return any(stop.startswith(text) for stop in stops)


@given(texts, stop_lists)
def test_what_is_sent_is_the_text_up_to_the_first_stop_string_however_it_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopStrings(stops)
    sent = ""
    for piece in pieces:
        sent += matcher.push(piece)
        if matcher.stopped:
            break
    text = "".join(pieces)
    cut = cut_at(text, stops)
    assert matcher.stopped == (cut is not None)
    assert (sent if matcher.stopped else sent + matcher.flush()) == text[:cut]


@given(texts, stop_lists)
def test_only_what_may_start_a_stop_string_is_held_back(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    text = sent = ""
    for piece in pieces:
        released = matcher.push(piece)
        if matcher.stopped:
            return
        text += piece
        sent += released
        held = text[len(sent) :]
        assert not held or could_start(held, stops)
        assert not any(could_start(text[start:], stops) for start in range(len(sent)))


def test_without_stop_strings_everything_passes_at_once() -> None:
    assert StopStrings([]).push("anything") == "anything"


def test_a_stop_string_is_found_across_pieces_and_what_follows_is_not_sent() -> None:
    matcher = StopStrings(["\n\n", "END"])
    assert matcher.push("one E") == "one "
    assert matcher.push("N") == ""
    assert matcher.push("ough") == "ENough"
    assert matcher.push(" EEND of it") == " E"
    assert matcher.stopped
