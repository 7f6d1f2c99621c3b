"""Progress: bars on a terminal, plain lines elsewhere, JSON for scripts; all of it on standard error."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from rocmforge.compiler import progress as progress_module
from rocmforge.compiler.progress import JsonProgress, PlainProgress, Progress, TerminalProgress, choose_progress


def compile_something(progress: Progress, error: type[BaseException] | None = None) -> None:
    """Report as `compile_model` does."""
    with progress:
        progress.stage("read model")
        progress.note("context limited to [32768] of 131072")
        progress.stage("build kernels", 30, "objects")
        for done in (1, 15, 30):
            progress.advance(done)
        progress.stage("pack weights", 95, "MiB")
        progress.advance(7)
        if error is not None:
            raise error


def lines_of(progress: Callable[[], Progress], capsys: pytest.CaptureFixture[str]) -> list[str]:
    compile_something(progress())
    captured = capsys.readouterr()
    assert captured.out == ""  # what a script reads is not mixed with it
    return captured.err.splitlines()


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(PlainProgress, capsys)
    assert [re.sub(r"\d+\.\d\d s$", "0.00 s", line) for line in lines] == [
        "note: context limited to [32768] of 131072",
        "read model: 0.00 s",
        "build kernels, 30 objects: 0.00 s",
        "pack weights, 95 MiB: 0.00 s",
    ]


def test_json_lines_parse(capsys: pytest.CaptureFixture[str]) -> None:
    events = [json.loads(line) for line in lines_of(JsonProgress, capsys)]
    stages = [event for event in events if "stage" in event]
    assert [(event["stage"], event["total"], event["unit"]) for event in stages] == [
        ("read model", 0, ""),
        ("build kernels", 30, "objects"),
        ("pack weights", 95, "MiB"),
    ]
    assert all(isinstance(event["seconds"], float) for event in stages)
    assert [event for event in events if "note" in event] == [{"note": "context limited to [32768] of 131072"}]


def test_each_stage_has_its_own_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (PlainProgress, JsonProgress):
        times = iter([10.0, 12.5, 20.0, 20.1256])
        monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=times.__next__))
        with kind() as progress:
            progress.stage("one", 3, "MiB")
            progress.stage("two")
            progress.advance(2)
        with progress:  # nothing is left to be told
            pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["one, 3 MiB: 2.50 s", "two: 0.13 s"]
    assert [json.loads(line) for line in lines[2:]] == [
        {"stage": "one", "total": 3, "unit": "MiB", "seconds": 2.5},
        {"stage": "two", "total": 0, "unit": "", "seconds": 0.126},
    ]


@pytest.mark.parametrize("kind", [PlainProgress, JsonProgress])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_stage_that_failed_is_not_reported_as_done(
    kind: type[PlainProgress], error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error):
        compile_something(kind(), error)
    text = capsys.readouterr().err
    assert "build kernels" in text
    assert "pack weights" not in text


def test_chosen_by_what_standard_error_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(choose_progress(as_json=False)) is PlainProgress
    assert type(choose_progress(as_json=True)) is JsonProgress
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb"), os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert type(choose_progress(as_json=False)) is TerminalProgress
        assert type(choose_progress(as_json=True)) is JsonProgress


def read_all(descriptor: int) -> str:
    """What is written to a terminal, until all its writers have closed it."""
    chunks = []
    with os.fdopen(descriptor, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while chunk := terminal.read(4096):
            chunks.append(chunk)
    return b"".join(chunks).decode()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_bars_on_a_terminal(
    error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    leader, follower = pty.openpty()
    with ThreadPoolExecutor(1) as pool:
        text_read = pool.submit(read_all, leader)
        with os.fdopen(follower, "w") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            progress = choose_progress(as_json=False)
            with contextlib.nullcontext() if error is None else pytest.raises(error):
                compile_something(progress, error)
        text = text_read.result()
    assert capsys.readouterr().out == ""
    for part in ("read model", "build kernels", "30 objects", "pack weights"):
        assert part in text
    assert "note: context limited to [32768]" in text  # brackets are no markup
    assert (re.search(r"[^/]95 MiB", text) is not None) == (error is None)
    # The cursor is hidden while bars move, and shown again.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
