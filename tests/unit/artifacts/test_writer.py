"""Writing a bundle: the old one or the whole new one, whatever happens."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rocmforge.artifacts import writer as writer_module
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import BundleError, RocmforgeError, UsageError
from rocmforge.artifacts.manifest_entries import FileEntry
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.tests.support.bundle import LAYOUT_DATA, MANIFEST, WEIGHTS, content, no_exchange, write_bundle


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


def test_streams_are_written_in_whole_large_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write = os.write

    def write_some(fd: int, data: memoryview) -> int:
        sizes.append(len(data))
        return write(fd, data[: 3 << 19])

    monkeypatch.setattr(os, "write", write_some)
    data = os.urandom(7 << 20)
    with BundleWriter(tmp_path / "m.rfb") as writer:
        with writer.open_stream("weights.bin") as stream:
            for begin, end in ((0, 100), (100, 5 << 20), (5 << 20, 7 << 20)):
                stream.write(data[begin:end])
                assert stream.position == end
            written = Path(f"/proc/self/fd/{stream._fd}").resolve()
        assert written.read_bytes() == data
        assert writer._files["weights.bin"].sha256 == hashlib.sha256(data).hexdigest()
    assert sizes == [2 << 20, 1 << 19] * 3 + [1 << 20]


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
