"""Texts that the user gives beside a model: a tokenizer, a chat template."""

from __future__ import annotations

import stat
from pathlib import Path

from ..artifacts.errors import InputError


def read_text_file(path: Path, field: str, content: str, max_bytes: int) -> str:
    """Return the text of a regular file in UTF-8.

    Args:
        path: the file.
        field: that names it in messages.
        content: what it should hold, for messages.
        max_bytes: its largest size.

    Raises:
        InputError: it is no such file, cannot be read, is too large, or is not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer
            raise InputError(path, field, f"expected a file of {content}, found a folder, a pipe or a device")
        if status.st_size > max_bytes:
            raise InputError(path, field, f"expected at most {max_bytes} bytes, found {status.st_size}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(path, field, f"expected a file of {content}, found: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(path, field, f"expected UTF-8, found {error.reason} at byte {error.start}") from None
