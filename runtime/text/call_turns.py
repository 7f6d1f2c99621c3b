"""What an answer's text is made of: content, and calls of tools in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ...artifacts.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call: the tool's name, and its arguments as the model wrote them.

    Where it is `whole`, they are the text of a JSON object; else the model broke off, or wrote what is none.
    """

    name: str
    arguments: str
    whole: bool = True

    @property
    def text(self) -> str:
        """The call as text, for those that take whole calls alone."""
        return f'{{"name": {json.dumps(self.name, ensure_ascii=False)}, "arguments": {self.arguments}'


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a call. The first one has the name, the last one of a whole call says that it is whole.

    A call that has no such last piece has been broken off.
    """

    name: str | None = None
    arguments: str = ""
    whole: bool = False


Turn = str | CallPiece
"""Content, or a piece of a call."""


def join_calls(turns: Iterable[Turn]) -> list[ToolCall]:
    """The calls that pieces come to."""
    calls: list[list[CallPiece]] = []
    for turn in turns:
        if isinstance(turn, CallPiece):
            if turn.name is not None:
                calls.append([])
            calls[-1].append(turn)
    return [
        ToolCall(pieces[0].name or "", "".join(piece.arguments for piece in pieces), pieces[-1].whole)
        for pieces in calls
    ]


class WholeCalls:
    """Puts pieces of calls together, for those that take whole calls alone: one that is broken off is content."""

    def __init__(self) -> None:
        self._pieces: list[CallPiece] = []  # of the call that is open

    def take(self, turns: Iterable[Turn], end: bool) -> tuple[str, list[ToolCall]]:
        """The content and the calls that are known now; at the `end` of the text, all."""
        content, calls = "", list[ToolCall]()
        for turn in turns:
            if isinstance(turn, str):
                content += self._broken() + turn
                continue
            if turn.name is not None:
                content += self._broken()
            self._pieces.append(turn)
            if turn.whole:
                calls += join_calls(self._pieces)
                self._pieces = []
        return content + (self._broken() if end else ""), calls

    def _broken(self) -> str:
        pieces, self._pieces = self._pieces, []
        return "".join(call.text for call in join_calls(pieces))
