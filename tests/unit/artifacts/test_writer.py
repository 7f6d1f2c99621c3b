"""Writing a bundle: the old one or the whole new one, whatever happens."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts import writer as writer_module
from rocmforge.artifacts.bundle import open_bundle, verify_bundle
from rocmforge.artifacts.errors import BundleError, RocmforgeError, UsageError
from rocmforge.artifacts.manifest import FileEntry
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.tests.support.bundle import LAYOUT_DATA, MANIFEST, WEIGHTS, write_bundle


def child(goal: Path, limit: int, swap: bool, code: bytes) -> int:
    """Write a bundle in another process that kills itself at its `limit`th step; return its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    step = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal step
            step += 1
            if step == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counting

    try:
        for name in ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir", "close"):
            setattr(os, name, counted(getattr(os, name)))
        writer_module.exchange = counted(writer_module.exchange if swap else no_exchange)
        write_bundle(goal, code)
        os._exit(0)
    finally:
        os._exit(3)


def no_exchange(one: Path, other: Path) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def content(model: Path) -> dict[str, bytes]:
    return {str(p.relative_to(model)): p.read_bytes() for p in model.rglob("*") if p.is_file()}


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    one, other = write_bundle(tmp_path / "one.rfb"), write_bundle(tmp_path / "deeper.rfb")
    assert content(one) == content(other)
    assert sorted(os.listdir(tmp_path)) == ["deeper.rfb", "one.rfb"]


def test_replaces_a_bundle(tmp_path: Path) -> None:
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    (tmp_path / "link").symlink_to(goal)
    write_bundle(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert open_bundle(goal).read("code/host.so") == b"new"
    assert sorted(os.listdir(tmp_path)) == ["link", "m.rfb"]


def test_replaces_without_renameat2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "exchange", no_exchange)
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    write_bundle(goal, b"new")
    assert open_bundle(goal).read("code/host.so") == b"new"
    assert os.listdir(tmp_path) == ["m.rfb"]


def test_stream_alignment(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "m.rfb") as writer:
        with writer.open_stream("weights.bin") as stream:
            stream.write(memoryview(bytes(8)).cast("d"))
            stream.write(b"")
            assert (stream.position, stream.align(64), stream.align(64)) == (8, 64, 64)
        assert writer._files["weights.bin"].n_bytes == 64
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "/x", "manifest.json", "a\\b", ""])
def test_F32_names_are_checked_when_written(tmp_path: Path, name: str) -> None:
    with BundleWriter(tmp_path / "m.rfb") as writer, pytest.raises(BundleError):
        writer.add_bytes(name, b"")


def change_manifest(model: Path, **changes: object) -> None:
    """With its digest made anew, as another version of rocmforge would write it."""
    table = json.loads((model / "manifest.json").read_bytes()) | changes | {"bundle_digest": ""}
    text = json.dumps(table, sort_keys=True, separators=(",", ":")) + "\n"
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    text = text.replace('"bundle_digest":""', f'"bundle_digest":"{digest}"')
    (model / "manifest.json").write_text(text)


def empty(goal: Path) -> None:
    shutil.rmtree(goal)
    goal.mkdir()


def extension(goal: Path) -> None:
    """Somebody's folder: browser extensions and web apps have a manifest.json too."""
    empty(goal)
    (goal / "manifest.json").write_text('{"manifest_version": 3, "name": "precious"}')
    (goal / "precious.js").write_text("precious")


def file(goal: Path) -> None:
    shutil.rmtree(goal)
    goal.write_text("precious")


def swap_file_for_folder(goal: Path, name: str) -> None:
    (goal / name).unlink()
    (goal / name).mkdir()
    (goal / name / "precious").write_text("precious")


def newer_with_notes(goal: Path) -> None:
    change_manifest(goal, format_version="9.0")
    (goal / "notes.txt").write_text("precious")


# What is made of a bundle, and what the message names.
OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "file": (file, "Not a directory"),
    "empty-folder": (empty, "manifest.json"),
    "folder-without-manifest": (lambda m: (m / "manifest.json").unlink(), "manifest.json"),
    "other-manifest": (extension, "format_version"),
    "manifest-that-is-no-json": (lambda m: (m / "manifest.json").write_text("precious"), "json"),
    "manifest-of-a-list": (lambda m: (m / "manifest.json").write_text("[]"), "manifest"),
    "manifest-nested-deep": (lambda m: (m / "manifest.json").write_text("[" * 100_000), "json"),
    "manifest-changed": (
        lambda m: (m / "manifest.json").write_bytes((m / "manifest.json").read_bytes().replace(b"host", b"most")),
        "bundle_digest",
    ),
    "manifest-is-a-folder": (lambda m: swap_file_for_folder(m, "manifest.json"), "manifest"),
    "files-are-no-table": (lambda m: change_manifest(m, files=["weights.bin"]), "files"),
    "version-is-none-of-ours": (lambda m: change_manifest(m, format_version="three"), "format_version"),
    "extra-file": (lambda m: (m / "notes.txt").write_text("precious"), "notes.txt"),
    "extra-hidden-file": (lambda m: (m / ".git").write_text("precious"), ".git"),
    "extra-file-in-a-folder": (lambda m: (m / "src" / "mine.c").write_text("precious"), "src/mine.c"),
    "extra-empty-folder": (lambda m: (m / "mine").mkdir(), "mine"),
    "folder-for-a-file": (lambda m: swap_file_for_folder(m, "tokenizer.json"), "tokenizer.json"),
    "extra-file-beside-a-newer-format": (newer_with_notes, "notes.txt"),
}


@pytest.mark.parametrize("make,named", OTHERS.values(), ids=[f"F78-{name}" for name in OTHERS])
@pytest.mark.parametrize("link", [False, True], ids=["named", "linked"])
def test_goal_that_is_more_or_less_than_a_bundle_is_not_touched(
    tmp_path: Path, make: Callable[[Path], object], named: str, link: bool
) -> None:
    goal = write_bundle(tmp_path / "home")
    make(goal)
    if link:
        (tmp_path / "link").symlink_to(goal)
    before, names = content(tmp_path), sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError, match="is not a bundle alone") as caught:
        write_bundle(tmp_path / "link" if link else goal)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (content(tmp_path), sorted(os.listdir(tmp_path))) == (before, names)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: change_manifest(m, format_version="1.0"),
        lambda m: change_manifest(m, format_version="9.7", targets="otherwise", new_field={"a": [1.5, None]}),
        lambda m: os.truncate(m / "weights.bin", 3),
        lambda m: shutil.rmtree(m / "src"),
        lambda m: (m / "src" / "embed.c").unlink(),
    ],
    ids=["older", "newer", "damaged", "folder-missing", "file-missing"],
)
def test_a_bundle_of_another_version_or_a_damaged_one_is_replaced(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    change(goal)
    write_bundle(goal, b"new")
    assert open_bundle(goal).read("code/host.so") == b"new"
    assert os.listdir(tmp_path) == ["m.rfb"]


@pytest.mark.parametrize("swap", [True, False], ids=["exchange", "aside"])
def test_F78_what_came_while_the_bundle_was_written_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    if not swap:
        monkeypatch.setattr(writer_module, "exchange", no_exchange)
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    publish = BundleWriter._publish

    def meanwhile(writer: BundleWriter) -> None:
        (goal / "notes.txt").write_text("precious")
        publish(writer)

    monkeypatch.setattr(BundleWriter, "_publish", meanwhile)
    with pytest.raises(UsageError, match=r"notes\.txt"):
        write_bundle(goal, b"new")
    assert content(goal)["notes.txt"] == b"precious"
    assert content(goal)["code/host.so"] == b"old"
    assert os.listdir(tmp_path) == ["m.rfb"]


def test_F78_a_folder_moved_aside_is_put_back_whatever_it_holds(tmp_path: Path) -> None:
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    (goal / "notes.txt").write_text("precious")
    before = content(goal)
    os.rename(goal, tmp_path / ".m.rfb.0123456789abcdef.aside.partial")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        write_bundle(goal, b"new")
    assert (content(goal), os.listdir(tmp_path)) == (before, ["m.rfb"])


def test_F78_a_folder_moved_aside_is_kept_where_its_name_is_taken(tmp_path: Path) -> None:
    goal, aside = write_bundle(tmp_path / "m.rfb", b"newer"), tmp_path / ".m.rfb.0123456789abcdef.aside.partial"
    os.rename(write_bundle(tmp_path / "old.rfb", b"old"), aside)
    (aside / "notes.txt").write_text("precious")
    write_bundle(goal, b"new")
    assert content(aside)["notes.txt"] == b"precious"
    (aside / "notes.txt").unlink()
    write_bundle(goal, b"new")
    assert os.listdir(tmp_path) == ["m.rfb"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_F61_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with BundleWriter(tmp_path / "m.rfb") as writer, writer.open_stream("weights.bin") as stream:
            stream.write(b"x")
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_unfinished_leaves_nothing(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "m.rfb") as writer:
        writer.add_bytes("tokenizer.json", b"{}")
        assert not any((p / "manifest.json").exists() for p in tmp_path.iterdir())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "rename", "open"])
@pytest.mark.parametrize("old", [False, True])
def test_F59_disk_full_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, old: bool) -> None:
    goal = tmp_path / "m.rfb"
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
        assert [name for name in os.listdir(tmp_path) if name != "m.rfb"] == []
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


@pytest.mark.parametrize("swap", [True, False], ids=["exchange", "aside"])
@pytest.mark.parametrize("old", [False, True], ids=["first", "again"])
def test_F61_killed_at_every_step(tmp_path: Path, swap: bool, old: bool) -> None:
    goal = tmp_path / "m.rfb"
    wanted = content(write_bundle(tmp_path / "undisturbed.rfb", b"new"))
    killed = 0
    for limit in range(1, 500):
        if old:
            write_bundle(goal, b"old")
        before = content(goal)
        status = child(goal, limit, swap, b"new")
        if swap or not old:
            assert content(goal) in (before, wanted)
        # A rerun clears up after the dead one and gives the same bytes as an undisturbed one.
        write_bundle(goal, b"new")
        assert content(goal) == wanted
        assert sorted(os.listdir(tmp_path)) == ["m.rfb", "undisturbed.rfb"]
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        killed += 1
        if not old:
            shutil.rmtree(goal)
    assert 40 < killed < 499


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


@pytest.mark.parametrize("name", ["layout.msgpack", "code/host.so", "src/embed.c"])
def test_what_does_not_open_again_is_not_published(tmp_path: Path, name: str) -> None:
    """Written, and then spoiled by a fault of the disk or of ours: the old bundle stays."""
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    before = content(goal)
    with BundleWriter(goal) as writer:
        writer.add_bytes("weights.bin", WEIGHTS)
        writer.add_bytes("layout.msgpack", LAYOUT_DATA)
        for other in ("code/host.so", "src/embed.c", "tokenizer.json"):
            writer.add_bytes(other, b"bytes")
        data = bytearray((writer.staging / name).read_bytes())
        data[-1] ^= 1
        (writer.staging / name).write_bytes(data)
        with pytest.raises(BundleError, match=name):
            writer.finish(MANIFEST)
    assert content(goal) == before
    assert os.listdir(tmp_path) == ["m.rfb"]


def test_a_layout_that_cannot_be_read_is_not_published(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "m.rfb") as writer:
        for name in ("weights.bin", "layout.msgpack", "code/host.so", "src/embed.c", "tokenizer.json"):
            writer.add_bytes(name, b"no layout")
        with pytest.raises(BundleError, match=r"layout\.msgpack"):
            writer.finish(MANIFEST)
    assert os.listdir(tmp_path) == []


def test_F64_read_only_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(RocmforgeError, match=r"cannot write .*m\.rfb: Read-only file system"):
        write_bundle(tmp_path / "m.rfb")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("goal", ["/proc/m.rfb", "/sys/m.rfb", "/nowhere/at/all/m.rfb", "/dev/null/m.rfb"])
def test_F64_parent_that_takes_nothing(goal: str) -> None:
    with pytest.raises(RocmforgeError, match="cannot write") as caught:
        write_bundle(Path(goal))
    assert "\n" not in str(caught.value)


def test_F65_two_compiles_at_once(tmp_path: Path) -> None:
    goal = tmp_path / "m.rfb"
    write_bundle(goal, b"one")
    script = (
        "import sys; from pathlib import Path\n"
        "from rocmforge.tests.unit.artifacts.test_bundle import write_bundle\n"
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


def refusing(number: int, call: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    """`call`, but for what it is given `when`: then an error of the system, without a text of its own."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            raise OSError(number, os.strerror(number))
        return call(*args, **kwargs)

    return refuse


def test_two_names_are_swapped_in_one_step(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    other.mkdir()
    writer_module.exchange(one, other)
    assert (one.is_dir(), other.read_bytes()) == (True, b"1")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        writer_module.exchange(one, tmp_path / "none")
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOENT, os.strerror(errno.ENOENT))


def test_a_c_library_without_renameat2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(OSError) as caught:  # noqa: PT011
        writer_module.exchange(tmp_path, tmp_path)
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT])
def test_where_names_cannot_be_swapped_the_old_one_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    monkeypatch.setattr(writer_module, "exchange", refusing(number, writer_module.exchange))
    write_bundle(goal, b"new")
    assert open_bundle(goal).read("code/host.so") == b"new"
    assert os.listdir(tmp_path) == ["m.rfb"]


@pytest.mark.parametrize("call", ["exchange", "rename"])
def test_any_other_error_while_it_is_published_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    goal = write_bundle(tmp_path / "m.rfb", b"old")
    before = content(goal)
    of = writer_module if call == "exchange" else os
    monkeypatch.setattr(of, call, refusing(errno.EXDEV, getattr(of, call)))
    with pytest.raises(RocmforgeError) as caught:
        write_bundle(goal, b"new")
    assert str(caught.value) == f"cannot write {goal}: {os.strerror(errno.EXDEV)}"
    assert (content(goal), os.listdir(tmp_path)) == (before, ["m.rfb"])


def test_an_error_without_a_number_is_told_of_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_: object) -> None:
        raise OSError("it broke")

    monkeypatch.setattr(os, "fsync", odd)
    with pytest.raises(RocmforgeError) as caught:
        write_bundle(tmp_path / "m.rfb")
    assert str(caught.value) == f"cannot write {tmp_path / 'm.rfb'}: it broke"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_nothing_is_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    left = tmp_path / ".m.rfb.0123456789abcdef.partial"
    left.mkdir()
    monkeypatch.setattr(fcntl, "flock", refusing(number, fcntl.flock))
    write_bundle(tmp_path / "m.rfb")
    assert sorted(os.listdir(tmp_path)) == [left.name, "m.rfb"]


def test_a_lock_that_fails_otherwise_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO, fcntl.flock))
    with pytest.raises(RocmforgeError) as caught:
        write_bundle(tmp_path / "m.rfb")
    assert str(caught.value) == f"cannot write {tmp_path / 'm.rfb'}: {os.strerror(errno.EIO)}"
    assert os.listdir(tmp_path) == []
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_staging_folder_that_another_takes_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone before it is opened, gone before it is locked, and then left alone."""
    opened, flock, taken = os.open, fcntl.flock, list[Path]()

    def take(path: Path) -> None:
        taken.append(path)
        os.rmdir(path)

    def opening(path: Any, *args: Any, **kwargs: Any) -> int:
        if not taken and str(path).endswith(".partial"):
            take(Path(path))
        return opened(path, *args, **kwargs)

    def locking(fd: int, operation: int) -> None:
        if len(taken) == 1:
            take(Path(os.readlink(f"/proc/self/fd/{fd}")))
        flock(fd, operation)

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(fcntl, "flock", locking)
    with BundleWriter(tmp_path / "m.rfb") as writer:
        assert len({*taken, writer.staging}) == 3
        assert os.listdir(tmp_path) == [writer.staging.name]
    assert os.listdir(tmp_path) == []
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    "name",
    [
        ".m.rfb.0123456789abcde.partial",
        ".m.rfb.0123456789abcdef0.partial",
        ".m.rfb.0123456789abcdeg.partial",
        ".mxrfb.0123456789abcdef.partial",
        ".m.rfb.0123456789abcdef.aside",
        "m.rfb.0123456789abcdef.partial",
    ],
)
def test_folders_of_other_names_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    write_bundle(tmp_path / "m.rfb")
    assert sorted(os.listdir(tmp_path)) == sorted([name, "m.rfb"])


def test_what_dead_writers_left_is_removed_and_what_is_no_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / ".m.rfb.0000000000000000.partial").symlink_to("precious")
    (tmp_path / ".m.rfb.1111111111111111.partial").write_bytes(b"file")
    for digit in "23":
        (tmp_path / f".m.rfb.{digit * 16}.partial").mkdir()
        (tmp_path / f".m.rfb.{digit * 16}.partial" / "weights.bin").write_bytes(b"half")
    (tmp_path / f".m.rfb.{'4' * 16}.aside.partial").mkdir()  # half removed
    write_bundle(tmp_path / "m.rfb")
    left = [".m.rfb.0000000000000000.partial", ".m.rfb.1111111111111111.partial", "m.rfb", "precious"]
    assert sorted(os.listdir(tmp_path)) == left


def test_what_a_stream_has_written(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with BundleWriter(tmp_path / "m.rfb") as writer:
        with writer.open_stream("src/a") as stream:
            stream.write(bytearray(b"abc"))
            assert (stream.position, stream.align(3), stream.align(4)) == (3, 3, 4)
            stream.write(b"d")
            assert writer.files == {}
        stream.close()  # again: nothing
        digest = hashlib.sha256(b"abc\0d").hexdigest()
        assert writer.files == {"src/a": FileEntry(5, digest)}
        assert (writer.staging / "src" / "a").read_bytes() == b"abc\0d"
        with pytest.raises(RocmforgeError, match=os.strerror(errno.EEXIST)):
            writer.add_bytes("src/a", b"")
        abandoned = writer.open_stream("src/b")
        abandoned.__exit__(ValueError, ValueError("given up"), None)
        abandoned.close()
        assert list(writer.files) == ["src/a"]
        # Modes are those that the process asks for.
        os.umask(mask := os.umask(0))
        assert (writer.staging / "src" / "a").stat().st_mode & 0o777 == 0o666 & ~mask
        assert sorted(path.name for path in writer.staging.iterdir()) == ["src"]
    assert set(os.listdir("/proc/self/fd")) <= before


def test_the_manifest_as_written(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "m.rfb") as writer:
        writer.add_bytes("weights.bin", WEIGHTS)
        writer.add_bytes("layout.msgpack", LAYOUT_DATA)
        writer.add_bytes("code/host.so", b"")
        written = writer.finish(MANIFEST)
    with open_bundle(tmp_path / "m.rfb") as bundle:
        assert bundle.manifest == written
    assert sorted(written.files) == ["code/host.so", "layout.msgpack", "weights.bin"]
    assert written.files["weights.bin"] == FileEntry(len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
