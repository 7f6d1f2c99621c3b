"""The file of `--log-file`: opened again when it was moved away, and never in the way of what is logged."""

from __future__ import annotations

import contextlib
import logging
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path

from ...artifacts.errors import printable


class LogFile(WatchedFileHandler):
    """Lines that it cannot take, for the disk is full or its folder gone, are lost; stderr says so, once each time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._path = path
        self._failed = False  # in this call of `emit`
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self._failed = False
        try:
            super().emit(record)
        except OSError:  # it cannot be opened again
            self.handleError(record)
        self._failing = self._failed

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line could not be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._failed = True
        if not self._failing:
            with contextlib.suppress(OSError, ValueError):
                where, reason = printable(self._path), printable(error.strerror or error)
                sys.stderr.write(f"rfc: --log-file: {where}: {reason}; lines are lost until it can be written\n")
                sys.stderr.flush()
