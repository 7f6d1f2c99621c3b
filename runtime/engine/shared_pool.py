"""Places in a device's memory, counted by who holds them and known by what they hold.

A place is shared by content: one that is written is known by a key. It stays known while nobody holds it, until it is
needed: the one unused for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class SharedPool:
    """So many places, 0 and up, reference-counted. Not thread-safe: the engine's lock guards it."""

    def __init__(self, size: int) -> None:
        """Args: places in all."""
        self.size = size
        self._references = [0] * size
        self._free = list(range(size - 1, -1, -1))  # held by nobody, known for nothing
        self._idle: OrderedDict[int, None] = OrderedDict()  # held by nobody, known; least recently used first
        self._places: dict[bytes, int] = {}  # of a key
        self._keys: dict[int, bytes] = {}  # of a place

    @property
    def num_free(self) -> int:
        """Places that nobody holds; some may be known for their content."""
        return len(self._free) + len(self._idle)

    @property
    def num_cached(self) -> int:
        """Places known for their content, held or not."""
        return len(self._keys)

    def allocate(self, count: int) -> list[int] | None:
        """`count` places to write to, or None where there are not so many."""
        if count > self.num_free:
            return None
        taken = []
        for _ in range(count):
            if self._free:
                place = self._free.pop()
            else:
                place, _ = self._idle.popitem(last=False)
                del self._places[self._keys.pop(place)]
            self._references[place] = 1
            taken.append(place)
        return taken

    def free(self, places: Sequence[int]) -> None:
        """Let go of places that `allocate` or `lookup` gave. The last are forgotten first: without those before them,
        they are of no use."""
        for place in reversed(places):
            self._references[place] -= 1
            if self._references[place]:
                continue
            if place in self._keys:
                self._idle[place] = None
            else:
                self._free.append(place)

    def share(self, place: int, key: bytes) -> bool:
        """From now on `lookup` finds a place that is held and written; the first of equal ones stays. Returns whether
        it is this one."""
        if key in self._places or place in self._keys:
            return False
        self._places[key] = place
        self._keys[place] = key
        return True

    def knows(self, key: bytes) -> bool:
        """Whether `lookup` would find a place of that content."""
        return key in self._places

    def lookup(self, key: bytes) -> int | None:
        """The place of that content, to read and to free; None where there is none."""
        place = self._places.get(key)
        if place is not None:
            self._references[place] += 1
            self._idle.pop(place, None)
        return place

    def invalidate(self, places: Iterable[int]) -> None:
        """Have `lookup` find held places no more: what they hold is in doubt."""
        for place in places:
            key = self._keys.pop(place, None)
            if key is not None:
                del self._places[key]

    def forget(self, key: bytes) -> None:
        """Have `lookup` find a content no more, whether its place is held or not."""
        place = self._places.pop(key, None)
        if place is not None:
            del self._keys[place]
            if place in self._idle:
                del self._idle[place]
                self._free.append(place)
