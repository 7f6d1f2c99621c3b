"""Pages of a mapped file, given back while code reads it: the kernel keeps them as cache, and no process has them."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 256 << 20
LOOK_SECONDS: Final = 0.01  # in which a machine's memory gives some hundred MiB


@contextlib.contextmanager
def pages_given_back(mapping: mmap.mmap, most: int = MOST_BYTES, kept: tuple[int, int] = (0, 0)) -> Iterator[None]:
    """While the body runs, give all pages of a file's mapping back whenever this process has more than `most` bytes of
    files in memory. What reads them next finds them in the kernel's cache.

    Args:
        mapping: of the file.
        most: bytes of files.
        kept: begin and end of what is not in the file, and must stay.
    """
    done = threading.Event()
    start, end = kept[0] // mmap.PAGESIZE * mmap.PAGESIZE, -(-kept[1] // mmap.PAGESIZE) * mmap.PAGESIZE
    others = [(first, past - first) for first, past in ((0, start), (end, len(mapping))) if past > first]

    def give_back() -> None:
        while not done.wait(LOOK_SECONDS):
            if _file_bytes() > most:
                for first, n_bytes in others:
                    mapping.madvise(mmap.MADV_DONTNEED, first, n_bytes)

    thread = threading.Thread(target=give_back, name="pages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _file_bytes() -> int:
    """Return the bytes of files that are resident in this process. Source: proc(5), `statm`."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[2]) * mmap.PAGESIZE
