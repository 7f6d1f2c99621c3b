"""What a compile tells while it runs: bars on a terminal, plain lines elsewhere, JSON lines for scripts."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Protocol, Self, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Where a compile reports to."""

    def stage(self, name: str, total: int = 0, unit: str = "") -> None:
        """Begin a stage; `total` of `unit` will be done in it, 0 where that is not counted."""

    def advance(self, done: int) -> None:
        """Tell how much of the stage is done, in all."""

    def note(self, text: str) -> None:
        """Tell something that the user should know."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear what is unfinished on the screen."""


class Silent:
    """Tells nobody."""

    def stage(self, name: str, total: int = 0, unit: str = "") -> None:
        """See `Progress`."""

    def advance(self, done: int) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""

    def __enter__(self) -> Self:
        """See `Progress`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `Progress`."""


class PlainProgress:
    """One line a stage, when it ends, with its time; to standard error."""

    def __init__(self) -> None:
        self._name, self._total, self._unit, self._began = "", 0, "", 0.0

    def stage(self, name: str, total: int = 0, unit: str = "") -> None:
        """See `Progress`."""
        self._finish()
        self._name, self._total, self._unit, self._began = name, total, unit, time.monotonic()

    def advance(self, done: int) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._print(f"note: {text}")

    def __enter__(self) -> Self:
        """See `Progress`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `Progress`."""
        if error is None:
            self._finish()

    def _finish(self) -> None:
        if self._name:
            amount = f", {self._total} {self._unit}" if self._total else ""
            self._print(f"{self._name}{amount}: {time.monotonic() - self._began:.2f} s")
        self._name = ""

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class JsonProgress(PlainProgress):
    """As `PlainProgress`, each line a JSON object."""

    def _finish(self) -> None:
        if self._name:
            seconds = round(time.monotonic() - self._began, 3)
            event = {"stage": self._name, "total": self._total, "unit": self._unit, "seconds": seconds}
            self._print(json.dumps(event))
        self._name = ""

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._print(json.dumps({"note": text}))


class TerminalProgress:
    """A bar a stage, drawn by rich; on standard error."""

    def __init__(self) -> None:
        from rich import console, progress  # noqa: PLC0415 - rich takes 0.1 s to import, and only terminals need it

        self._bars = progress.Progress(
            progress.TextColumn("{task.description:<22}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[amount]:>24}"),
            progress.TimeElapsedColumn(),
            console=console.Console(stderr=True),
        )
        self._task: progress.TaskID | None = None
        self._total, self._unit = 0, ""

    def stage(self, name: str, total: int = 0, unit: str = "") -> None:
        """See `Progress`."""
        self._finish()
        self._total, self._unit = total, unit
        self._task = self._bars.add_task(name, total=total or None, amount="")

    def advance(self, done: int) -> None:
        """See `Progress`."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, amount=f"{done}/{self._total} {self._unit}")

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._bars.console.print(f"note: {text}", markup=False, highlight=False)

    def _finish(self) -> None:
        if self._task is not None:
            total = self._total or 1
            amount = f"{self._total} {self._unit}" if self._total else ""
            self._bars.update(self._task, total=total, completed=total, amount=amount)
            self._bars.stop_task(self._task)

    def __enter__(self) -> Self:
        """See `Progress`."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `Progress`."""
        if error is None:
            self._finish()
        self._bars.stop()


def choose_progress(as_json: bool) -> Progress:
    """Return the right progress for standard error."""
    if as_json:
        return JsonProgress()
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()
