"""Turns: each visitor's in order, visitors one after another."""

from hypothesis import given
from hypothesis import strategies as st

from bvjax.studio.fair_queue import FairQueue

ASKED = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), unique_by=lambda x: x[1])


def taken(queue):
    found = []
    while (item := queue.take()) is not None:
        found.append(item)
    return found


@given(ASKED)
def test_the_place_is_the_turn(asked):
    """`order` says what `take` gives; a visitor's own order holds; nobody gets a second turn before all had one."""
    queue = FairQueue()
    for visitor, item in asked:
        queue.add(visitor, item)
    order = queue.order()
    assert taken(queue) == order and not len(queue)
    owner = {item: visitor for visitor, item in asked}
    for name in "abc":
        own = [item for visitor, item in asked if visitor == name]
        assert [item for item in order if owner[item] == name] == own
    counts = [sum(v == name for v, _ in asked) for name in "abc"]
    waiting = sum(count > 0 for count in counts)
    assert len({owner[item] for item in order[:waiting]}) == waiting


def test_what_is_given_back():
    queue = FairQueue()
    for visitor, item in (("a", 1), ("a", 2), ("b", 3)):
        queue.add(visitor, item)
    assert queue.take() == 1
    queue.give_back("a", 1)
    assert queue.order() == [3, 1, 2]  # behind others, before one's own
    assert queue.take() == 3
    queue.give_back("b", 3, first=True)
    assert queue.order() == [3, 1, 2]
    assert queue.remove(1) and not queue.remove(1)
    queue.add("b", 3)  # waits already
    assert taken(queue) == [3, 2]
