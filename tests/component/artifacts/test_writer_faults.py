"""A bundle that is written while the disk fills, calls fail and processes are killed, at every step."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.bundle import open_bundle, verify_bundle
from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.tests.support.bundle import content, write_bundle


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder in memory where there is one: each step syncs, which a disk takes its time for."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "rename", "open"])
@pytest.mark.parametrize("old", [False, True])
def test_F59_disk_full_at_every_step(quick_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, old: bool) -> None:
    goal = quick_path / "m.rfb"
    whole = getattr(os, call)
    for limit in range(1, 60):
        seen = 0
        shutil.rmtree(goal, ignore_errors=True)
        if old:
            write_bundle(goal, b"old")
        before = content(goal)

        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            # Opening to read needs no space.
            if call == "open" and not args[1] & os.O_CREAT:
                return whole(*args, **kwargs)
            seen += 1
            if seen == limit:  # noqa: B023
                raise OSError(errno.ENOSPC, "No space left on device")
            return whole(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                write_bundle(goal, b"new")
            except RocmforgeError as error:
                message = str(error)
            else:
                message = ""
        assert [name for name in os.listdir(quick_path) if name != "m.rfb"] == []
        if message:
            assert "No space left on device" in message and "\n" not in message  # noqa: PT018
            # The last sync of the parent comes when the new bundle is already in place.
            assert content(goal) == before or call == "fsync"
            if content(goal) != before:
                verify_bundle(goal).close()
        if seen < limit:
            break
    else:
        pytest.fail("never got to the end")
    assert open_bundle(goal).read("code/host.so") == b"new"


def test_F60_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:5]))
    verify_bundle(write_bundle(tmp_path / "m.rfb")).close()


@pytest.mark.parametrize(("swap", "old"), [("exchange", "first"), ("exchange", "again"), ("aside", "again")])
def test_F61_killed_at_every_step(quick_path: Path, swap: str, old: str) -> None:
    command = [sys.executable, "-m", "rocmforge.tests.support.killed_writer", str(quick_path), swap, old]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 40 < int(done.stdout) < 499


def test_F61_bundle_moved_aside_is_put_back(tmp_path: Path) -> None:
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    os.rename(goal, tmp_path / ".m.rfb.0123456789abcdef.aside.partial")
    with BundleWriter(goal):
        assert open_bundle(goal).read("code/host.so") == b"old"
    assert os.listdir(tmp_path) == ["m.rfb"]


def test_F61_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "m.rfb") as writer:
        writer.add_bytes("tokenizer.json", b"{}")
        write_bundle(tmp_path / "m.rfb")
        assert (writer._staging / "tokenizer.json").read_bytes() == b"{}"
    assert os.listdir(tmp_path) == ["m.rfb"]


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loss of power may leave the name and not the bytes. Folders too, and the goal's after the rename."""
    synced: list[Path] = []
    fsync, rename = os.fsync, os.rename
    at_rename: list[list[Path]] = []

    def note(fd: int) -> None:
        assert os.fstat(fd).st_size or not os.path.isfile(f"/proc/self/fd/{fd}")
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def move(source: Path, goal: Path) -> None:
        at_rename.append([path.relative_to(source) for path in synced])
        rename(source, goal)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", move)
    goal = write_bundle(tmp_path / "m.rfb")
    (before,) = at_rename
    whole = [path.relative_to(goal) for path in (goal, *goal.rglob("*"))]
    assert sorted(before) == sorted(whole)
    assert synced[len(before) :] == [tmp_path]


def test_F65_two_compiles_at_once(tmp_path: Path) -> None:
    goal = tmp_path / "m.rfb"
    write_bundle(goal, b"one")
    script = (
        "import sys; from pathlib import Path\n"
        "from rocmforge.tests.support.bundle import write_bundle\n"
        "for _ in range(60): write_bundle(Path(sys.argv[1]), sys.argv[2].encode())\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(goal), code], stderr=subprocess.PIPE, text=True)
        for code in ("one", "two")
    ]
    opened = 0
    while any(process.poll() is None for process in writers):
        with open_bundle(goal) as bundle:
            assert bundle.layout.weights_bytes == 2304
            opened += 1
    for process in writers:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    assert opened
    assert verify_bundle(goal).read("code/host.so") in (b"one", b"two")
    assert os.listdir(tmp_path) == ["m.rfb"]
