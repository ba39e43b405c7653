"""Who starts next: laws of the line."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from coordinator.line import Line


@dataclass(eq=False)
class Asked:
    client: str
    priority: int = 0


REQUESTS = st.lists(st.builds(Asked, st.sampled_from("abc"), st.sampled_from([-1, 0, 2])), max_size=14)


def line_of(*requests: Asked) -> Line[Asked]:
    line = Line[Asked]()
    for request in requests:
        line.add(request)
    return line


def started(line: Line[Asked], count: int) -> list[Asked]:
    """The next requests to start, one after the other."""
    log = list[Asked]()
    while len(line) and len(log) < count:
        log.append(next(iter(line)))
        line.start(log[-1])
    return log


@given(st.lists(st.sampled_from("abc"), max_size=14), st.integers(0, 5))
def test_requests_start_in_the_order_that_the_line_shows(clients: list[str], before: int) -> None:
    line = line_of(*map(Asked, clients))
    started(line, before)
    shown = list(line)
    assert len(shown) == len(line)
    assert shown == started(line, len(shown))


@given(REQUESTS)
def test_a_higher_priority_starts_first(requests: list[Asked]) -> None:
    priorities = [each.priority for each in started(line_of(*requests), len(requests))]
    assert priorities == sorted(priorities, reverse=True)


@given(REQUESTS)
def test_requests_of_one_client_start_in_the_order_in_which_they_came(requests: list[Asked]) -> None:
    log = started(line_of(*requests), len(requests))
    for client in "abc":
        for priority in (-1, 0, 2):
            own = [each for each in requests if (each.client, each.priority) == (client, priority)]
            assert [each for each in log if each in own] == own


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_clients_that_wait_take_turns(clients: list[str]) -> None:
    left = Counter(clients)
    counts = Counter[str]()
    for each in started(line_of(*map(Asked, clients)), len(clients)):
        # Nobody who waits has had two turns less.
        assert all(counts[each.client] <= counts[other] for other in left if left[other])
        counts[each.client] += 1
        left[each.client] -= 1


@given(st.integers(0, 5), st.integers(1, 6))
def test_a_client_that_comes_late_waits_for_one_turn_at_most(before: int, waiting: int) -> None:
    line = line_of(*(Asked("a") for _ in range(before + waiting)))
    started(line, before)
    late = Asked("b")
    line.add(late)
    assert late in started(line, 2)


@given(st.integers(0, 6), st.integers(1, 6))
def test_requests_that_leave_cost_their_client_no_turn(leaving: int, waiting: int) -> None:
    gone = [Asked("a") for _ in range(leaving)]
    line = line_of(*gone, *(Asked("b") for _ in range(waiting)))
    for each in gone:
        line.discard(each)
        line.discard(each)
    late = Asked("a")
    line.add(late)
    assert late in started(line, 2)


def test_a_client_that_was_away_has_not_saved_up_turns() -> None:
    line = line_of(*(Asked("a") for _ in range(20)))
    started(line, 10)
    for _ in range(10):
        line.add(Asked("b"))
    assert Counter(each.client for each in started(line, 10)) == {"a": 5, "b": 5}
