"""`rfc` on a terminal, by a pseudo-terminal: a chat with Ctrl-C and Ctrl-D, the bars of a compile."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

from rocmforge.tests.support.process import COMMAND, PATIENCE_SECONDS, environment


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *COMMAND, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm", COLUMNS="100"),
        )
        os.close(theirs)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read_until(self, wanted: str) -> str:
        """Return what appears up to and with `wanted`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while wanted not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self._ours], [], [], 1)[0]:
                self.text += os.read(self._ours, 1 << 16).decode("utf-8", "replace")
        found, wanted, self.text = self.text.partition(wanted)
        return found + wanted

    def end(self, again: str = "") -> int:
        """Read what is left, and return the exit code; each second in which nothing comes, type `again`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while True:
                assert time.monotonic() < deadline, self.text
                if not select.select([self._ours], [], [], 1)[0]:
                    self.type(again)
                elif data := os.read(self._ours, 1 << 16):
                    self.text += data.decode("utf-8", "replace")
                else:
                    break
        except OSError:  # how Linux says that nobody holds the other end
            pass
        os.close(self._ours)
        return self.process.wait(PATIENCE_SECONDS)


def test_chat_with_ctrl_c_and_ctrl_d(smollm2_path: Path) -> None:
    terminal = Terminal("run", smollm2_path, "--temperature", 0, "-n", 4000)
    terminal.read_until("> ")
    terminal.type("Count from one to a thousand, in words.\n")
    terminal.read_until("words.")  # the echo
    terminal.read_until(" ")
    terminal.type("\x03")
    terminal.read_until("> ")
    terminal.type("Say hello.\n")
    terminal.read_until("hello.")
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.text


def test_ctrl_c_at_the_prompt_ends_a_chat(small_bundle: Path) -> None:
    terminal = Terminal("run", small_bundle)
    terminal.read_until("> ")
    terminal.type("\x03")
    # Between the prompt and the wait for a line a signal may come too early for Python: people press again.
    assert terminal.end(again="\x03") == 0


def test_compile_draws_bars(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    terminal = Terminal("compile", small_gguf, "-o", tmp_path / "goal.rfb", "--cache-dir", small_cache)
    assert terminal.end() == 0
    for stage in ("read model", "build kernels", "pack weights", "golden records"):
        assert stage in terminal.text
    assert "\x1b[" in terminal.text
    assert "sha256:" in terminal.text
