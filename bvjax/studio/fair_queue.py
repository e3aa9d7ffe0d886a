"""Whose turn it is: visitors take turns, each with what they asked for in that order."""

from __future__ import annotations

import collections
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class FairQueue(Generic[Item]):
    """Round-robin over visitors; one with many runs waits no less for each than others for theirs."""

    def __init__(self) -> None:
        self._lines: collections.OrderedDict[str, collections.deque[Item]] = (
            collections.OrderedDict()
        )

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __contains__(self, item: Item) -> bool:
        return any(item in line for line in self._lines.values())

    def add(self, visitor: str, item: Item) -> None:
        """Puts an item at the end of its visitor's line, unless it waits already."""
        if item not in self:
            self._lines.setdefault(visitor, collections.deque()).append(item)

    def give_back(self, visitor: str, item: Item, first: bool = False) -> None:
        """Puts an item whose turn is over in front of its visitor's line, and the visitor behind all others.

        With `first` its turn was interrupted: the visitor comes before all others.
        """
        if item not in self:
            self._lines.setdefault(visitor, collections.deque()).appendleft(item)
            self._lines.move_to_end(visitor, last=not first)

    def remove(self, item: Item) -> bool:
        """Takes an item out; returns whether it was there."""
        for visitor, line in list(self._lines.items()):
            if item in line:
                line.remove(item)
                if not line:
                    del self._lines[visitor]
                return True
        return False

    def take(self) -> Item | None:
        """The next item; its visitor is behind all others from then on."""
        if not self._lines:
            return None
        visitor, line = next(iter(self._lines.items()))
        item = line.popleft()
        self._lines.move_to_end(visitor)
        if not line:
            del self._lines[visitor]
        return item

    def order(self) -> list[Item]:
        """All items in the order in which `take` would give them: the place of each is its index."""
        lines, found = [list(line) for line in self._lines.values()], []
        for depth in range(max(map(len, lines), default=0)):
            found += [line[depth] for line in lines if depth < len(line)]
        return found
