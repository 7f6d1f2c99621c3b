"""Machines of a proof: homes of their own, in which `rfc` runs as a process that can be killed at any moment.

Each process is forked from one that has all of `rfc` imported: it starts in milliseconds, so that most of its time is
its work.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import time
from dataclasses import dataclass
from io import FileIO, TextIOWrapper
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("rocmforge.cli", "rocmforge.cli.main", "rocmforge.registry.pull", "rocmforge.registry.push", "oras.provider"),
        *("rocmforge.runtime.serve", "rocmforge.signing.model_signature", "rocmforge.tools.prove.machines"),
    ]
)
_PATIENCE_SECONDS = 1800


class ProofError(Exception):
    """What was to hold does not; its text says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended (negative: by which signal), and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line of what it says to people."""
        return (self.err.strip().splitlines() or [""])[-1]


class Machine:
    """A home, and the commands that run there.

    Args:
        home: its folder, which is made where it is not there.
    """

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self._said = home / "said.out", home / "said.err"

    def rfc(self, *arguments: object, kill_after: float | None = None) -> Said:
        """Run `rfc` to its end, or kill it with SIGKILL so many seconds after its start.

        Raises:
            ProofError: it does not end.
        """
        process = self._start(arguments)
        process.join(_PATIENCE_SECONDS if kill_after is None else kill_after)
        if process.is_alive():
            process.kill()
            process.join()
            if kill_after is None:
                words = " ".join(map(str, arguments))
                raise ProofError(f"rfc {words}: expected an end within {_PATIENCE_SECONDS} s, found none")
        assert process.exitcode is not None
        return Said(process.exitcode, *(path.read_text(errors="replace") for path in self._said))

    def answer(self, bundle: object, prompt: str, *options: object) -> str:
        """What a server here says of a bundle.

        Raises:
            ProofError: it does not serve, or does not answer.
        """
        server = self._start(("serve", bundle, *options, "--addr", "127.0.0.1:0"))
        try:
            until = time.monotonic() + _PATIENCE_SECONDS
            while not (found := re.search(r" on (http:\S+)", self._said[1].read_text())):
                if not server.is_alive() or time.monotonic() > until:
                    raise ProofError(f"{bundle}: expected a server, found: {self._said[1].read_text()}")
                time.sleep(0.02)
            asked = ("generate", "--url", found[1], prompt, "--max-tokens", 8, "--temperature", 0)
            said = Machine(self.home / "client").rfc(*asked)
        finally:
            server.terminate()
            server.join()
        if said.code:
            raise ProofError(f"{bundle}: expected an answer, found: {said.err}")
        return said.out.strip()

    def _start(self, arguments: tuple[object, ...]) -> ForkServerProcess:
        for path in self._said:
            path.write_text("")
        words = [str(word) for word in arguments]
        process = _FORKS.Process(target=_be_rfc, args=(words, str(self.home), *map(str, self._said)))
        process.start()
        return process


def _be_rfc(words: list[str], home: str, out: str, err: str) -> None:
    """In the fork: what `rfc` does, in that home; it does not return."""
    from rocmforge.cli import main  # noqa: PLC0415 - who only asks for machines needs none of it

    for number, path in ((0, os.devnull), (1, out), (2, err)):
        fd = os.open(path, os.O_RDWR)
        os.dup2(fd, number)
        os.close(fd)
    sys.stdout, sys.stderr = (TextIOWrapper(FileIO(number, "w", closefd=False)) for number in (1, 2))
    for name in [name for name in os.environ if name.startswith(("ROCMFORGE_", "XDG_"))]:
        del os.environ[name]
    os.environ["HOME"] = home
    os.chdir(home)
    code: object = 70
    try:
        main(words, prog_name="rfc")
        code = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
