"""One mutation: a piece of a file, and what stands there instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """`replacement` in place of the bytes from `start` to `end` of the file at `path`, relative to the repository."""

    path: str
    operator: str
    start: int
    end: int
    replacement: bytes

    def apply(self, source: bytes) -> bytes:
        """The mutated file."""
        return source[: self.start] + self.replacement + source[self.end :]

    def line(self, source: bytes) -> int:
        """Number of the first line that changes."""
        return source.count(b"\n", 0, self.start) + 1

    def change(self, source: bytes) -> tuple[str, str]:
        """The lines that change, before and after, without the space around them; names a mutation across versions."""
        first, last = source.rfind(b"\n", 0, self.start) + 1, source.find(b"\n", self.end)
        last = len(source) if last < 0 else last
        after = source[first : self.start] + self.replacement + source[self.end : last]
        return _plain(source[first:last]), _plain(after)


def _plain(lines: bytes) -> str:
    return " ".join(lines.decode().split())
