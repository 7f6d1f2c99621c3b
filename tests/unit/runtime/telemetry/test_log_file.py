"""A log file that cannot take lines: they are lost, standard error says so once, and all else goes on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocmforge.runtime.telemetry.log_file import LogFile


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    (tmp_path / "folder").mkdir()
    made = LogFile(tmp_path / "folder" / "log")
    yield made
    made.close()


def write(log: LogFile, message: str, *arguments: object) -> None:
    log.handle(logging.LogRecord("x", logging.INFO, __file__, 1, message, arguments, None))


def test_each_time_that_lines_are_lost_is_told_once(log: LogFile, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(log.baseFilename)
    said = f"rfc: --log-file: {path}: No such file or directory; lines are lost until it can be written\n"
    for _ in range(2):
        write(log, "a")
        shutil.rmtree(path.parent)
        write(log, "b")
        write(log, "c")
        assert capsys.readouterr().err == said
        path.parent.mkdir()
        write(log, "d")
        assert path.read_text() == "d\n"
        assert capsys.readouterr().err == ""


def test_a_full_disk_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(Path("/dev/full"))
    for _ in range(2):
        write(log, "a")
    assert capsys.readouterr().err == (
        "rfc: --log-file: /dev/full: No space left on device; lines are lost until it can be written\n"
    )


def test_a_mistake_of_ours_is_no_lost_line(log: LogFile, capsys: pytest.CaptureFixture[str]) -> None:
    write(log, "%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err
    write(log, "after")
    assert Path(log.baseFilename).read_text() == "after\n"


def test_any_text_is_written_in_utf_8(log: LogFile) -> None:
    write(log, "\u00e9\U0001f600 \ud800")
    assert Path(log.baseFilename).read_bytes() == "\u00e9\U0001f600 ".encode() + b"\\ud800\n"
