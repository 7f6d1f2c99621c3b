"""The log of `rfc serve`: text or JSON lines, to stderr or a file, each with the id of the request that it belongs to.

What a client wrote is in no line raw: a line never has a control character, so that nobody can forge another. Prompts
and answers are logged nowhere.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import printable

TRACE: Final = 5  # below debug, as RUST_LOG has it
LEVELS: Final[Mapping[str, int]] = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
MAX_CHARACTERS: Final = 4000  # of a message, or of a line of a traceback
_TARGET = re.compile(r"[A-Za-z_][\w.\-]{0,200}")

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the HTTP request that this thread serves."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Attributes:
    level: one of `LEVELS` for all loggers; None: as `filter` says.
    filter: directives of RUST_LOG.
    json: JSON lines instead of text.
    file: where to, opened again when it was moved away; None: stderr.
    """

    level: str | None = None
    filter: str = "info"
    json: bool = False
    file: Path | None = None


def read_filter(directives: str) -> tuple[dict[str, int], list[str]]:
    """Read what RUST_LOG says: `info`, `rocmforge=debug,warn`, `rocmforge::runtime=trace`.

    Source: the documentation of env_logger and of tracing-subscriber's EnvFilter. Of the latter, filters by span and
    field are not known here.

    Returns:
        Levels by the name of a logger, "" for all others; and the directives that are not understood.
    """
    levels: dict[str, int] = {}
    unknown = []
    for directive in filter(None, (part.strip() for part in directives.split(","))):
        target, separator, level = directive.rpartition("=")
        if not separator and level.lower() not in LEVELS:
            target, level = level, "trace"  # a target alone: all of it
        target = target.strip().replace("::", ".")
        number = LEVELS.get(level.strip().lower())
        if number is None or (target and not _TARGET.fullmatch(target)) or (separator and not target):
            unknown.append(directive)
        else:
            levels[target] = number
    levels.setdefault("", logging.ERROR if levels else logging.INFO)
    return levels, unknown


def configure(options: LogOptions) -> None:
    """Set up the log of this process.

    Raises:
        OSError: the file cannot be written.
    """
    logging.addLevelName(TRACE, "TRACE")
    levels, unknown = read_filter(options.filter) if options.level is None else ({"": LEVELS[options.level]}, [])
    handler = _handler(options.file)
    handler.setFormatter(JsonFormatter() if options.json else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    for directive in unknown:
        logging.getLogger(__name__).warning("RUST_LOG: %s is not understood, and ignored", printable(directive, 100))


def _handler(file: Path | None) -> logging.Handler:
    if file is None:
        return logging.StreamHandler(sys.stderr)
    from .log_file import LogFile  # noqa: PLC0415 - takes time to load, and few need it

    return LogFile(file)


def _traceback(record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    return [
        printable(line, MAX_CHARACTERS) for line in logging.Formatter().formatException(record.exc_info).split("\n")
    ]


class TextFormatter(logging.Formatter):
    """`2026-11-21 13:16:00,123 INFO rocmforge.access [request id]: message`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        request_id = REQUEST_ID.get()
        about = f" [{request_id}]" if request_id else ""
        message = printable(record.getMessage(), MAX_CHARACTERS)
        line = f"{self.formatTime(record)} {record.levelname} {record.name}{about}: {message}"
        return "\n    ".join([line, *_traceback(record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line. A record's `fields` (by `extra`) are members of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        moment = datetime.fromtimestamp(record.created, UTC)
        document: dict[str, object] = {
            "timestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": "warn" if record.levelno == logging.WARNING else record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_CHARACTERS],
        }
        request_id = REQUEST_ID.get()
        if request_id:
            document["request_id"] = request_id
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            document |= fields
        if record.exc_info:
            document["exception"] = "\n".join(_traceback(record))
        return json.dumps(document)
