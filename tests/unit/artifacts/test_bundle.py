"""Opening a bundle: exactly what the manifest lists, and nothing else."""

from __future__ import annotations

import _ctypes
import ctypes
import dataclasses
import errno
import fcntl
import gc
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocmforge.artifacts import bundle as bundle_module
from rocmforge.artifacts.bundle import check_replaceable, open_bundle, verify_bundle
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout_file import encode_layout
from rocmforge.artifacts.manifest import decode_manifest
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.tests.support.bundle import LAYOUT, LAYOUT_DATA, MANIFEST, WEIGHTS, flip, write_bundle


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "model.rfb")


def test_open_read_map(model: Path) -> None:
    with open_bundle(model) as bundle:
        assert bundle.layout == LAYOUT
        assert bundle.manifest.files["weights.bin"].n_bytes == len(WEIGHTS)
        assert bundle.read("tokenizer.json") == b"{}"
        weights = bundle.map_weights()
    assert weights[:] == WEIGHTS
    with pytest.raises(TypeError):
        weights[0] = 1
    gc.collect()  # what other tests left behind
    before = set(os.listdir("/proc/self/fd"))
    open_bundle(model).close()
    assert set(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(BundleError, match=r"weights\.bin"):
        open_bundle(model).read("weights.bin")
    with pytest.raises(BundleError, match="other"):
        open_bundle(model).read("other")


def test_verify_reads_all(model: Path) -> None:
    seen: list[tuple[str, int]] = []
    verify_bundle(model, lambda name, n_bytes: seen.append((name, n_bytes))).close()
    assert sum(n for name, n in seen if name == "weights.bin") == len(WEIGHTS)
    flip(model / "weights.bin")
    open_bundle(model).close()
    with pytest.raises(BundleError, match=r"weights\.bin: expected sha256"):
        verify_bundle(model)


def extra_folder(model: Path) -> None:
    (model / "empty").mkdir()


def link(model: Path) -> None:
    (model / "tokenizer.json").rename(model.parent / "elsewhere.json")
    (model / "tokenizer.json").symlink_to(model.parent / "elsewhere.json")


def link_folder(model: Path) -> None:
    (model / "code").rename(model.parent / "code")
    (model / "code").symlink_to(model.parent / "code")


def link_out(model: Path) -> None:
    shutil.copytree(model, model.parent / "bundle_evil")
    (model / "src" / "embed.c").unlink()
    (model / "src" / "embed.c").symlink_to("../../bundle_evil/src/embed.c")


def fifo(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    os.mkfifo(model / "tokenizer.json")


def device(model: Path) -> None:
    (model / "weights.bin").unlink()
    try:
        os.mknod(model / "weights.bin", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def unix_socket(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    before = Path.cwd()
    os.chdir(model)  # the path of a socket is limited to 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("tokenizer.json")
    os.chdir(before)


def huge_sparse(model: Path) -> None:
    os.truncate(model / "manifest.json", 1 << 40)


CASES: list[tuple[str, Callable[[Path], object], str]] = [
    ("F27-code", lambda m: flip(m / "code/host.so"), "code/host.so"),
    ("F27-source", lambda m: flip(m / "src/embed.c"), "src/embed.c"),
    ("F27-layout", lambda m: flip(m / "layout.msgpack"), "layout.msgpack"),
    ("F27-manifest", lambda m: flip(m / "manifest.json", 200), "manifest.json"),
    ("F28-file", lambda m: (m / "code/evil.so").write_bytes(b""), "code/evil.so"),
    ("F28-hidden-file", lambda m: (m / ".evil").write_bytes(b""), ".evil"),
    ("F28-folder", extra_folder, "empty"),
    ("F29-code", lambda m: (m / "code/host.so").unlink(), "code/host.so"),
    ("F29-weights", lambda m: (m / "weights.bin").unlink(), "weights.bin"),
    ("F29-manifest", lambda m: (m / "manifest.json").unlink(), "manifest.json"),
    ("F29-folder", lambda m: shutil.rmtree(m / "src"), "src/embed.c"),
    ("F29-bundle", shutil.rmtree, "bundle"),
    ("F32-symlink", link, "tokenizer.json"),
    ("F32-symlinked-folder", link_folder, "code"),
    ("F32-hard-link", lambda m: os.link(m / "code/host.so", m.parent / "other"), "code/host.so"),
    ("F32-fifo", fifo, "tokenizer.json"),
    ("F32-device", device, "weights.bin"),
    ("F32-socket", unix_socket, "tokenizer.json"),
    ("F33-sibling-prefix", link_out, "src/embed.c"),
    ("F38-weights-cut", lambda m: os.truncate(m / "weights.bin", 2303), "weights.bin"),
    ("weights-longer", lambda m: os.truncate(m / "weights.bin", 2305), "weights.bin"),
    ("manifest-huge", huge_sparse, "manifest.json"),
]


@pytest.mark.parametrize("spoil, name", [pytest.param(c[1], c[2], id=c[0]) for c in CASES])
def test_spoiled_bundle_is_refused_by_name(model: Path, spoil: Callable[[Path], object], name: str) -> None:
    spoil(model)
    gc.collect()  # what other tests left behind
    before = set(os.listdir("/proc/self/fd"))
    begin = time.perf_counter()
    with pytest.raises(BundleError) as caught:
        open_bundle(model)
    assert time.perf_counter() - begin < 2
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    del caught
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/proc/self/mem", "a\0b"])
def test_not_a_folder(path: str) -> None:
    with pytest.raises(BundleError):
        open_bundle(Path(path))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["manifest.json", "layout.msgpack", "code/host.so"]), st.binary(max_size=64))
def test_foreign_content_gives_a_bundle_error(model: Path, name: str, data: bytes) -> None:
    before = (model / name).read_bytes()
    (model / name).write_bytes(data)
    try:
        with pytest.raises(BundleError):
            open_bundle(model)
    finally:
        (model / name).write_bytes(before)


def test_F42_code_changed_in_place_after_the_check(model: Path) -> None:
    with open_bundle(model) as bundle:
        fd = bundle.open_code("code/host.so")
        (model / "code/host.so").write_bytes(b"\x7fELF evil")
        assert os.read(fd, 100) == b"\x7fELF code"
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"evil", 0)
        os.close(fd)
        with pytest.raises(BundleError, match="sha256"):
            bundle.open_code("code/host.so")


def test_another_valid_layout_is_refused_by_its_digest(model: Path) -> None:
    """It is as long, and would be decoded without a word: another epsilon, other logits."""
    other = encode_layout(dataclasses.replace(LAYOUT, vocab_size=LAYOUT.vocab_size - 1))
    assert len(other) == len(LAYOUT_DATA)
    (model / "layout.msgpack").write_bytes(other)
    with pytest.raises(BundleError, match=r"layout\.msgpack: expected sha256"):
        open_bundle(model)


def test_F42_sealed_code_can_be_loaded(tmp_path: Path) -> None:
    code = Path(_ctypes.__file__).read_bytes()
    with open_bundle(write_bundle(tmp_path / "m.rfb", code)) as bundle:
        fd = bundle.open_code("code/host.so")
        library = ctypes.CDLL(f"/proc/self/fd/{fd}")
        os.close(fd)
        assert library.PyInit__ctypes


def test_F60_short_reads(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, n: read(fd, min(n, 7)))
    verify_bundle(model).close()


def test_F60_read_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, n_bytes: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(BundleError, match="Input/output error"):
        open_bundle(model)


def test_each_target_has_the_layout_that_its_code_was_made_for(tmp_path: Path) -> None:
    other = dataclasses.replace(LAYOUT, max_sequences=LAYOUT.max_sequences + 1)
    targets = (MANIFEST.targets[0], dataclasses.replace(MANIFEST.targets[0], layout="gpu.msgpack"))
    with BundleWriter(tmp_path / "m.rfb") as writer:
        writer.add_bytes("weights.bin", WEIGHTS)
        writer.add_bytes("layout.msgpack", LAYOUT_DATA)
        writer.add_bytes("gpu.msgpack", encode_layout(other))
        writer.add_bytes("code/host.so", b"")
        writer.finish(dataclasses.replace(MANIFEST, targets=targets))
    with open_bundle(tmp_path / "m.rfb") as bundle:
        assert (bundle.layout, [bundle.layout_of(target) for target in targets]) == (LAYOUT, [LAYOUT, other])
    flip(tmp_path / "m.rfb" / "gpu.msgpack", -1)
    with pytest.raises(BundleError, match=r"gpu\.msgpack: expected sha256"):
        open_bundle(tmp_path / "m.rfb")


def test_progress_is_told_of_what_was_read(tmp_path: Path) -> None:
    """In pieces of 1 MiB, the last one shorter."""
    with BundleWriter(tmp_path / "m.rfb") as writer:
        with writer.open_stream("weights.bin") as stream:
            stream.write(bytes((2 << 20) + 5))
        writer.add_bytes("layout.msgpack", LAYOUT_DATA)
        writer.add_bytes("code/host.so", b"")
        writer.finish(MANIFEST)
    seen: list[tuple[str, int]] = []
    with verify_bundle(tmp_path / "m.rfb", lambda name, n_bytes: seen.append((name, n_bytes))) as bundle:
        assert seen == [("weights.bin", n) for n in (1 << 20, 1 << 20, 5)]
        bundle.read_weights()  # again, from the start


def message(path: Path, keep: tuple[str, ...] = ()) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path, keep)
    return str(caught.value)


def test_what_is_said_of_a_bundle_that_is_not_what_it_lists(model: Path) -> None:
    (model / "src" / "more.c").write_bytes(b"")
    assert message(model) == f"{model}: src/more.c: expected only files of the manifest, found another"
    (model / "src" / "more.c").unlink()
    os.link(model / "tokenizer.json", model.parent / "name")
    assert message(model) == f"{model}: tokenizer.json: expected one name for the file, found 2 hard links"
    (model.parent / "name").unlink()
    (model / "tokenizer.json").write_bytes(b"{} ")
    assert message(model) == f"{model}: tokenizer.json: expected 2 bytes, found 3"
    (model / "tokenizer.json").write_bytes(b"[]")
    found = hashlib.sha256(b"[]").hexdigest()
    assert (
        message(model) == f"{model}: tokenizer.json: expected sha256 {hashlib.sha256(b'{}').hexdigest()}, found {found}"
    )
    (model / "tokenizer.json").unlink()
    assert message(model) == f"{model}: tokenizer.json: expected a file, found none"
    os.mkfifo(model / "tokenizer.json")
    assert message(model) == f"{model}: tokenizer.json: expected a regular file, found another kind"
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").symlink_to(model / "manifest.json")
    found = os.strerror(errno.ELOOP)
    assert message(model) == f"{model}: tokenizer.json: expected a file, found {found}"
    os.truncate(model / "manifest.json", (16 << 20) + 1)
    assert message(model) == f"{model}: manifest.json: expected at most {16 << 20} bytes, found {(16 << 20) + 1}"
    (model / "manifest.json").unlink()
    assert message(model) == f"{model}: manifest.json: expected a file, found {os.strerror(errno.ENOENT)}"
    shutil.rmtree(model)
    assert message(model) == f"{model}: bundle: expected a readable folder, found {os.strerror(errno.ENOENT)}"
    assert message(Path("a\0b")) == r"a\x00b: bundle: expected a readable folder, found embedded null byte"


def test_what_is_no_file_of_a_bundle_cannot_be_read(model: Path) -> None:
    with open_bundle(model) as bundle:
        for name in ("weights.bin", "manifest.json", "other"):
            with pytest.raises(BundleError) as caught:
                bundle.read(name)
            problem = "expected a file of the manifest that is not mapped"
            assert str(caught.value) == f"{model}: {name}: {problem}"
        (model / "src" / "embed.c").write_bytes(b"int y;\n")
        with pytest.raises(BundleError, match=r"src/embed\.c: expected sha256"):
            bundle.read("src/embed.c")


def test_what_is_kept_is_what_was_checked(model: Path) -> None:
    with open_bundle(model, keep=("src/embed.c", "other")) as bundle:
        (model / "src" / "embed.c").write_bytes(b"int y;\n")
        assert bundle.read("src/embed.c") == b"int x;\n"
        with pytest.raises(BundleError, match=r"src/embed\.c: expected sha256"):  # once: it is not held on to
            bundle.read("src/embed.c")
    assert message(model, ("src/embed.c",)).startswith(f"{model}: src/embed.c: expected sha256")


def test_a_reader_reads_what_was_there_when_it_was_opened(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_bundle(model) as bundle:
        for name in ("weights.bin", "other"):
            with pytest.raises(BundleError, match=f"{name}: expected a file of the manifest that is not mapped"):
                bundle.reader(name)
        read, written_to = bundle.reader("tokenizer.json"), bundle.reader("src/embed.c")
    (model / "src" / "embed.c").write_bytes(b"int y;\n")
    shutil.rmtree(model)
    assert (read(), read()) == (b"{}", b"{}")
    with pytest.raises(BundleError, match=r"src/embed\.c: expected sha256"):
        written_to()

    def fail(fd: int, n_bytes: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(BundleError) as caught:
        read()
    assert str(caught.value) == f"{model}: tokenizer.json: expected readable, found Input/output error"


def test_a_bundle_has_a_gibibyte_beside_its_weights_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_bundle(tmp_path / "m.rfb")
    with open_bundle(model) as bundle:
        files = bundle.manifest.files
    small = sum(entry.n_bytes for name, entry in files.items() if name != "weights.bin")
    monkeypatch.setattr(bundle_module, "MAX_SMALL_FILES_BYTES", small)
    open_bundle(model).close()
    monkeypatch.setattr(bundle_module, "MAX_SMALL_FILES_BYTES", small - 1)
    assert message(model) == f"{model}: files: expected at most {small - 1} bytes beside the weights, found {small}"


def test_a_layout_is_bounded_before_it_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(LAYOUT_DATA)
    monkeypatch.setattr(bundle_module, "MAX_LAYOUT_BYTES", size)
    open_bundle(model).close()
    monkeypatch.setattr(bundle_module, "MAX_LAYOUT_BYTES", size - 1)
    assert message(model) == f"{model}: layout.msgpack: expected at most {size - 1} bytes, found {size}"


def test_verifying_what_is_wrong_leaves_nothing_open(model: Path) -> None:
    flip(model / "weights.bin")
    gc.collect()  # what other tests left behind
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(BundleError) as caught:
        verify_bundle(model)
    assert set(os.listdir("/proc/self/fd")) <= before
    assert caught.value.field == "weights.bin"


def test_a_bundle_that_is_replaced_while_it_is_opened_is_opened_anew(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder has lost a file already: the new one at the same name counts."""
    new = write_bundle(model.parent / "new.rfb", b"new code")

    def replacing(path: Path, data: bytes) -> object:
        if new.exists():
            os.rename(model, model.parent / "old.rfb")
            os.rename(new, model)
            (model.parent / "old.rfb" / "tokenizer.json").unlink()
        return decode_manifest(path, data)

    monkeypatch.setattr(bundle_module, "decode_manifest", replacing)
    with open_bundle(model) as bundle:
        assert bundle.read("code/host.so") == b"new code"

    def removing(path: Path, _: bytes) -> object:
        """One that is gone, and not replaced, is an error."""
        shutil.rmtree(path.parent)
        return decode_manifest(path, b"")

    monkeypatch.setattr(bundle_module, "decode_manifest", removing)
    with pytest.raises(BundleError, match="json"):
        open_bundle(model)


def test_code_is_sealed_and_stands_at_its_start(model: Path) -> None:
    with open_bundle(model) as bundle:
        fd = bundle.open_code("code/host.so")
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:host.so (deleted)"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        assert not os.get_inheritable(fd)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == (
            fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    finally:
        os.close(fd)


def test_check_replaceable_leaves_nothing_open(model: Path) -> None:
    gc.collect()  # what other tests left behind
    before = set(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        check_replaceable(model)
        assert set(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()
