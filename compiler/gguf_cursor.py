"""Checked reading of a foreign binary header: the one place that turns untrusted counts into reads."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import GgufError

MAX_STRING_BYTES = 4 << 20
MAX_HEADER_BYTES = 128 << 20
# Memory that the header's values may take as Python objects, beside twice the bytes that they have in the file. Gemma
# 4's vocabulary and merges, the largest in use, take 67 MiB for 15 in the file; a file of tiny keys is stopped here.
# With what is held only while a value is read, the whole stays below 64 MiB and twice the bytes read.
MAX_OBJECT_BYTES = 46 << 20
_CHUNK_BYTES = 1 << 18  # what a second-level cache holds: a third of the time that 1 MiB takes is saved
_SHORT = 127  # bytes of a text whose length is ASCII
_SHORT_BYTES = 8 + _SHORT
_RUN = 256  # short texts that are gone past together

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open a regular file, never waiting on a FIFO or device; yields (descriptor, size in bytes)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise GgufError(path, "file", f"expected a readable file, found: {reason}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise GgufError(path, "file", f"expected a regular file, found {_file_kind(status.st_mode)}")
        yield fd, status.st_size
    except OSError as error:
        raise GgufError(path, "file", f"expected a readable file, found: {error.strerror}") from None
    finally:
        os.close(fd)


def _file_kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((kind for is_kind, kind in kinds if is_kind(mode)), "a device")


@cache
def _run_of_texts() -> re.Pattern[bytes]:
    """Matches `_RUN` texts of at most `_SHORT` bytes, their lengths before them, in half the time of a loop."""
    zeros = bytes(7)  # as they are: a quarter quicker than as a repetition
    texts = b"|".join(b"%b%b.{%d}" % (re.escape(bytes([size])), zeros, size) for size in range(_SHORT + 1))
    return re.compile(rb"(?:%s){%d}+" % (texts, _RUN), re.DOTALL)


@dataclass(slots=True)
class Memory:
    """Bytes that a header's values take as Python objects; see `MAX_OBJECT_BYTES`."""

    spent: int = 0


class Cursor:
    """Reads forward through a header. Every access passes `require`: nothing is read or built unchecked."""

    __slots__ = ("_base", "_fd", "_loaded", "_memory", "_size", "path", "position")

    def __init__(self, path: Path, fd: int, size: int, memory: Memory | None = None, position: int = 0) -> None:
        self.path = path
        self.position = position
        self._fd = fd
        self._size = size
        self._loaded = bytearray()  # of the file, from `_base` on; what lies before `position` may be gone
        self._base = position
        self._memory = memory or Memory()

    def error(self, field: str, problem: str) -> GgufError:
        """Return an error at the current position."""
        return GgufError(self.path, field, problem, self.position)

    def bounded(self, count: int, item_bytes: int, field: str) -> int:
        """Return `count * item_bytes`, refusing what no file offset can hold."""
        product = count * item_bytes
        if product >= 1 << 63:
            raise self.error(field, f"expected a count that the file can hold, found {count}")
        return product

    def require(self, n_bytes: int, field: str, what: str) -> None:
        """Check that `n_bytes` of `what` can follow; reads nothing."""
        left = self._size - self.position
        if n_bytes > left:
            raise self.error(field, f"expected {what} ({n_bytes} bytes or more), found {left} bytes left")
        if self.position + n_bytes > MAX_HEADER_BYTES:
            raise self.error(field, f"expected a header of at most {MAX_HEADER_BYTES} bytes, found {what}")

    def spend(self, n_bytes: int, field: str) -> None:
        """Account for memory that values take as Python objects."""
        self._memory.spent += n_bytes
        limit = MAX_OBJECT_BYTES + 2 * self.position
        if self._memory.spent > limit:
            raise self.error(field, f"expected metadata of at most {limit} bytes in memory up to here, found more")

    def take(self, n_bytes: int, field: str, what: str) -> bytes:
        """Read the next `n_bytes`."""
        self._load(n_bytes, field, what)
        start = self.position - self._base
        self.position += n_bytes
        with memoryview(self._loaded) as view:
            return bytes(view[start : start + n_bytes])

    def u32(self, field: str) -> int:
        """Read an unsigned 32-bit integer."""
        return self._number(_U32, field, "uint32")

    def u64(self, field: str) -> int:
        """Read an unsigned 64-bit integer."""
        return self._number(_U64, field, "uint64")

    def u64s(self, count: int, field: str) -> list[int]:
        """Read a few unsigned 64-bit integers."""
        self._load(8 * count, field, f"{count} of uint64")
        numbers = struct.unpack_from(f"<{count}Q", self._loaded, self.position - self._base)
        self.position += 8 * count
        return list(numbers)

    def _number(self, form: struct.Struct, field: str, what: str) -> int:
        self._load(form.size, field, what)
        number: int = form.unpack_from(self._loaded, self.position - self._base)[0]
        self.position += form.size
        return number

    def string(self, field: str, maximum: int = MAX_STRING_BYTES) -> str:
        """Read one string of at most `maximum` bytes."""
        (text,) = self.strings(1, field, maximum, indexed=False)
        return text

    def strings(
        self, count: int, field: str, maximum: int = MAX_STRING_BYTES, *, indexed: bool = True
    ) -> tuple[str, ...]:
        """Read `count` strings. Vocabularies have 10^5 of them, hence one flat loop."""
        self.require(self.bounded(count, 8, field), field, f"{count} strings")
        texts: list[str] = []
        data, end = self._loaded, self.position - self._base
        append, size_of, unpack = texts.append, sys.getsizeof, _U64.unpack_from
        size, spent, free = len(data), self._memory.spent, MAX_OBJECT_BYTES + 2 * self._base
        for index in range(count):
            start = end + 8
            if start <= size:
                end = start + unpack(data, end)[0]
            if start > size or end > size or end - start > maximum:
                self.position, self._memory.spent = self._base + start - 8, spent
                end = self._load_text(field, f"{field}[{index}]" if indexed else field, maximum)
                data, start = self._loaded, self.position - self._base
                size, free = len(data), MAX_OBJECT_BYTES + 2 * self._base
            try:
                text = data[start:end].decode()
            except UnicodeDecodeError as error:
                self.position = self._base + start + error.start
                name = f"{field}[{index}]" if indexed else field
                found = bytes(data[start:end])[max(error.start - 8, 0) : error.start + 8]
                raise self.error(name, f"expected UTF-8, found {found!r}") from None
            spent += size_of(text) + 8
            if spent > free + 2 * end:
                self.position = self._base + end
                self.spend(spent - self._memory.spent, field)
            append(text)
        self.position, self._memory.spent = self._base + end, spent
        return tuple(texts)

    def skip_strings(self, count: int, field: str) -> None:
        """Go past `count` strings, which are checked as `strings` does, and not kept."""
        self.require(self.bounded(count, 8, field), field, f"{count} strings")
        start, spent, left = self.position, self._memory.spent, count
        try:
            while left:
                skipped = self._skip_short(left)
                if not skipped:
                    self.strings(1, field)
                left -= skipped or 1
        except (GgufError, UnicodeDecodeError):  # `strings` says where
            self.position = self._base = start
            self._loaded.clear()
            self._memory.spent = spent
            self.strings(count, field)
        self._memory.spent = spent

    def _skip_short(self, count: int) -> int:
        """Go past up to `count` strings, as far as they are loaded and have no more than `_SHORT` bytes.

        The lengths of these are ASCII, zeros and one byte below 128, which no character takes for a part of it: texts
        with such lengths between them are UTF-8 if each of them is.

        Returns:
            how many.

        Raises:
            UnicodeDecodeError: a text is not UTF-8.
        """
        if self._size - self.position < _SHORT_BYTES:
            return 0
        self._load(_SHORT_BYTES, "", "text")
        data, end, done, unpack = self._loaded, self.position - self._base, 0, _U64.unpack_from
        start, size = end, len(data)
        while count - done >= _RUN and (run := _run_of_texts().match(data, end)) is not None:
            end, done = run.end(), done + _RUN
        while room := min(count - done, (size - end) // _SHORT_BYTES):  # strings that are loaded, however long
            for index in range(room):
                n_bytes = unpack(data, end)[0]
                if n_bytes > _SHORT:
                    room = index
                    break
                end += 8 + n_bytes
            done += room
            if n_bytes > _SHORT:
                break
        data[start:end].decode()
        self.position = self._base + end
        return done

    def _load_text(self, field: str, item: str, maximum: int) -> int:
        """Go past the length of a text, and make the text present; returns its end in what is loaded."""
        self._load(8, field, "string length")
        n_bytes = _U64.unpack_from(self._loaded, self.position - self._base)[0]
        if n_bytes > maximum:
            raise self.error(item, f"expected at most {maximum} bytes of text, found {n_bytes}")
        self.position += 8
        self._load(n_bytes, item, "text")
        return self.position - self._base + int(n_bytes)

    def _load(self, n_bytes: int, field: str, what: str) -> None:
        """Make the next `n_bytes` present in `_loaded`, which begins with them if they were not."""
        self.require(n_bytes, field, what)
        if self.position - self._base + n_bytes <= len(self._loaded):
            return
        del self._loaded[: self.position - self._base]
        self._base = self.position
        goal = min(self._size - self._base, max(n_bytes, _CHUNK_BYTES))
        while len(self._loaded) < goal:
            end = self._base + len(self._loaded)
            piece = os.pread(self._fd, min(goal - len(self._loaded), _CHUNK_BYTES), end)
            if not piece:
                raise self.error(field, f"expected a file of {self._size} bytes, found {end}: it was cut")
            self._loaded += piece
