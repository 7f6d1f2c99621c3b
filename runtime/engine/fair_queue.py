"""Requests that wait: first come, first served within a client; clients in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from .sequence import ActiveSequence


class FairQueue:
    """A queue of queues. Those put back at the front come before every client's."""

    def __init__(self) -> None:
        """Empty."""
        self._front: deque[ActiveSequence] = deque()
        self._clients: OrderedDict[str, deque[ActiveSequence]] = OrderedDict()  # none is empty; the first is next

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._front) + sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[ActiveSequence]:
        """All of them, in no promised order."""
        yield from self._front
        for waiting in self._clients.values():
            yield from waiting

    def push(self, sequence: ActiveSequence) -> None:
        """To the end of its client's queue."""
        self._clients.setdefault(sequence.request.client, deque()).append(sequence)

    def push_front(self, sequence: ActiveSequence) -> None:
        """Before all others: it has waited, and was admitted, already."""
        self._front.appendleft(sequence)

    def first(self) -> ActiveSequence | None:
        """Whose turn it is."""
        if self._front:
            return self._front[0]
        return next(iter(self._clients.values()))[0] if self._clients else None

    def pop(self) -> ActiveSequence:
        """Take out whose turn it is; its client's next comes after the other clients'. IndexError: nobody waits."""
        if self._front:
            return self._front.popleft()
        if not self._clients:
            raise IndexError("nobody waits")
        client, waiting = self._clients.popitem(last=False)
        sequence = waiting.popleft()
        if waiting:
            self._clients[client] = waiting
        return sequence

    def remove(self, sequence: ActiveSequence) -> None:
        """Take one out of turn. ValueError: it does not wait."""
        if sequence in self._front:
            self._front.remove(sequence)
            return
        client = sequence.request.client
        waiting = self._clients.get(client, deque())
        waiting.remove(sequence)
        if not waiting:
            del self._clients[client]
