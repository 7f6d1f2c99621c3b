"""The process that a chat template runs in: the child's side of `template_process`.

Standard input and output are one socket. Frames go over it, each its length in 8 bytes and then its bytes. The first
is the template's source, each further one the variables of a rendering, in JSON. Answers begin with a byte that says
what they are: `READY` before the source is read, then for each frame `DONE` with a text, or else a problem in one line.

Nothing is imported here but Jinja and its sandbox: a server waits for it to start.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
import time
from collections.abc import Mapping
from typing import BinaryIO

READY = b"r"
DONE = b"+"
FAILED = b"-"  # the template did; the process goes on
BROKEN = b"!"  # there was no memory; the process ends

LENGTH_BYTES = 8
MAX_PROBLEM_CHARS = 1000
# What parsing or one rendering may take: processor time, and memory beyond what Python and Jinja hold themselves.
CPU_SECONDS = 3
MEMORY_BYTES = 256 << 20
BYTES_PER_GIVEN = 16  # further memory for each byte of the conversation, which is there several times


class SandboxedTemplate:
    """A parsed template, under the sandbox's limits alone. Whatever Python can raise comes out of it.

    Args:
        source: Jinja source.
    """

    def __init__(self, source: str) -> None:
        from .template_budget import budgeted  # noqa: PLC0415 - as Jinja, for the child alone
        from .template_sandbox import NoTools, template_environment  # noqa: PLC0415 - brings Jinja

        self._template = template_environment().from_string(source)
        self._no_tools = NoTools()
        self._budgeted = budgeted

    def render(self, variables: Mapping[str, object]) -> str:
        """Return the text that it makes of its variables."""
        with self._budgeted(variables):
            return "".join(self._template.generate({"tools": self._no_tools, **variables}))


def describe(error: BaseException) -> str:
    """What went wrong in a template, in one line or more."""
    if isinstance(error, RecursionError):
        return "recurses too deeply"
    if isinstance(error, MemoryError):
        return f"takes more than {MEMORY_BYTES >> 20} MiB of memory, or nests too deeply"
    name = type(error).__name__.lstrip("_")
    if name == "TemplateError":  # the template's own raise_exception
        return str(error)
    line = getattr(error, "lineno", None)
    at = f"line {line}: " if isinstance(line, int) else ""
    return f"{at}{name}: {error}"


def main() -> None:
    """Serve until the other end of the socket is closed. Signals to a whole group are the server's to judge."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    from .template_sandbox import template_environment  # noqa: PLC0415 - brings Jinja

    template_environment()
    held = _address_space()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _send(answers, READY, b"")
    template: SandboxedTemplate | None = None
    while (frame := _receive(requests)) is not None:
        _limit(resource.RLIMIT_AS, held + MEMORY_BYTES + BYTES_PER_GIVEN * len(frame))
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS)
        kind, text = DONE, ""
        try:
            if template is None:
                template = SandboxedTemplate(frame.decode("utf-8", "surrogatepass"))
            else:
                text = template.render(json.loads(frame))
            data = text.encode("utf-8", "surrogatepass")
        except Exception as error:  # a template can raise anything that Python can
            kind = BROKEN if isinstance(error, MemoryError) else FAILED
            data = describe(error)[:MAX_PROBLEM_CHARS].encode("utf-8", "surrogatepass")
        _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
        _send(answers, kind, data)
        if kind == BROKEN:
            return


def _limit(what: int, soft: int) -> None:
    """Set a soft limit, as far as the hard one lets it be."""
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
        soft = hard
    resource.setrlimit(what, (soft, hard))


def _address_space() -> int:
    """Bytes of this process's address space."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _receive(stream: BinaryIO) -> bytes | None:
    """The next frame; None at the end."""
    head = stream.read(LENGTH_BYTES)
    return stream.read(int.from_bytes(head, "little")) if len(head) == LENGTH_BYTES else None


def _send(stream: BinaryIO, kind: bytes, data: bytes) -> None:
    stream.write((len(kind) + len(data)).to_bytes(LENGTH_BYTES, "little") + kind + data)
    stream.flush()
