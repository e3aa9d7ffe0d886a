"""From the worker to pages: to those who watch, in order, and a slow page holds nobody up."""

import asyncio
import threading

import pytest

from bvjax.errors import UserError
from bvjax.studio import choices, hub, protocol
from bvjax.studio.hub import Hub, Listener
from bvjax.studio.making import Event


def chunk(run, number=1):
    return Event({"type": "chunk", "chunk": number}, run, b"x")


def taken(listener):
    found = []
    while not listener.queue.empty():
        found.append(listener.queue.get_nowait())
    return found


def test_events_reach_those_who_watch():
    async def page():
        tower, first, second = Hub(), Listener(), Listener()
        tower.tell(chunk("a"))  # nobody is there yet
        tower.begin()
        for listener in (first, second):
            tower.add(listener)
        first.watch(["a"])
        everybody = Event({"type": "runs"})
        thread = threading.Thread(
            target=lambda: [tower.tell(e) for e in (chunk("a"), chunk("b"), everybody)]
        )
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        assert taken(first) == [chunk("a"), everybody] and taken(second) == [everybody]
        tower.remove(first)
        tower.tell(everybody)
        await asyncio.sleep(0)
        assert not taken(first) and taken(second) == [everybody]
        return tower

    tower = asyncio.run(page())
    tower.tell(chunk("a"))  # the loop is closed


def test_a_page_that_is_too_slow_begins_anew(monkeypatch):
    monkeypatch.setattr(hub, "LONGEST_QUEUE", 5)

    async def page():
        listener = Listener()
        for number in range(6):
            listener.give(chunk("a", number))
        assert len(taken(listener)) == 6
        for number in range(7):
            listener.give(chunk("a", number))
        assert taken(listener) == [None]
        for _ in range(30):  # of previews the newest few are enough
            listener.give(Event({"type": "preview"}, "a", b"x"))
        assert len(taken(listener)) < 12

    asyncio.run(page())


def test_messages_with_pictures():
    head = {"type": "chunk", "run": "Größe"}
    content = protocol.framed(head, b"picture")
    size = int.from_bytes(content[:4], "big")
    assert protocol.read(content[4 : 4 + size]) == head and content[4 + size :] == b"picture"


def test_presets_are_of_what_is_offered(tiny):
    """Each preset is a choice that the server takes; a model without guidance or memory offers less."""
    for _, _, values in choices.PRESETS:
        choices.overrides(tiny.model, values)
    offered = {switch.key for switch in choices.offered(tiny.model)}
    assert offered == {switch.key for switch in choices.SWITCHES}
    few = tiny.variant(
        sampler={"kind": "few_step"}, guidance={"scale": 1.0}, retrieval={"num_retrieved": 0}
    )
    assert choices.offered(few) == ()
    with pytest.raises(UserError, match="cannot be set"):
        choices.overrides(few, {"sampler.steps": 4})
    assert choices.overrides(tiny.model, {"sampler.steps": 4, "guidance.scale": 3}) == (
        "guidance.scale=3.0",
    )
