"""Weights of a bundle: mapped, watched over, and apart for the host and for GPUs."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle, verify_bundle
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout import TensorEntry
from rocmforge.artifacts.layout_file import encode_layout
from rocmforge.artifacts.manifest import encode_manifest
from rocmforge.artifacts.pulled import Pulled
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.tests.support.bundle import (
    GPU_WEIGHTS,
    LAYOUT,
    LAYOUT_DATA,
    MANIFEST,
    WEIGHTS,
    flip,
    write_both,
    write_bundle,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "model.rfb")


def test_F42_weights_swapped_after_opening(model: Path) -> None:
    with open_bundle(model) as bundle:
        os.rename(model / "weights.bin", model.parent / "old")
        (model / "weights.bin").write_bytes(b"x" * len(WEIGHTS))
        assert bundle.map_weights()[:] == WEIGHTS
        os.truncate(model.parent / "old", 100)
        with pytest.raises(BundleError, match="found 100"):
            bundle.map_weights()


@pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage"), reason="a kernel without large pages")
def test_weights_come_in_large_pages(model: Path) -> None:
    with open_bundle(model) as bundle:
        weights = bundle.map_weights()
        areas = Path("/proc/self/smaps").read_text().split(f"{model}/weights.bin\n")
        assert weights[:] == WEIGHTS
        flags = areas[1].partition("VmFlags:")[2].partition("\n")[0]
    assert "hg" in flags.split()  # Linux, Documentation/filesystems/proc.rst: huge page advise flag


# Weights that are changed while they are mapped. A process of its own: what is not held ends it.
CUT_WHILE_MAPPED = """
import mmap, os, sys, threading
from pathlib import Path
import numpy as np
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import BundleError

path = Path(sys.argv[1])
with open_bundle(path) as bundle:
    weights, other = bundle.map_weights(), bundle.map_weights()
numbers = np.frombuffer(weights, np.uint8)
weights.check()
del other  # which is no longer watched over
os.truncate(path / "weights.bin", 4096)
sums = []
readers = [threading.Thread(target=lambda: sums.append(int(numbers.astype(np.int64).sum()))) for _ in range(4)]
for reader in readers:
    reader.start()
for reader in readers:
    reader.join()
assert len(sums) == 4 and int(numbers.sum()) == 0, sums
try:
    weights.check()
except BundleError as error:
    assert f"{path}: weights.bin: expected {len(weights)} bytes, found 4096: it was changed" in str(error)
else:
    sys.exit("not noticed")
print("alive", flush=True)
elsewhere = mmap.mmap(os.open(path / "weights.bin", os.O_RDONLY), 4096, prot=mmap.PROT_READ)
os.truncate(path / "weights.bin", 0)
elsewhere[0]  # nobody watches over this one
"""


def test_F79_weights_cut_while_they_are_read(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "m.rfb") as writer:
        with writer.open_stream("weights.bin") as stream:
            stream.write(b"weights!" * 8192)
        writer.add_bytes("layout.msgpack", LAYOUT_DATA)
        writer.add_bytes("code/host.so", b"")
        writer.finish(MANIFEST)
    script = [sys.executable, "-c", CUT_WHILE_MAPPED, str(tmp_path / "m.rfb")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("alive\n", -signal.SIGBUS), done.stderr


def test_F79_weights_written_to_while_they_are_mapped(model: Path) -> None:
    with open_bundle(model) as bundle:
        weights = bundle.map_weights()
        weights.check()
        before = (model / "weights.bin").stat()
        with (model / "weights.bin").open("r+b") as file:
            file.write(b"other")
        with pytest.raises(
            BundleError, match=r"weights\.bin: expected it as it was opened, found that it was written to"
        ):
            weights.check()
        for _ in range(2):  # the second time from memory
            with pytest.raises(BundleError, match=r"weights\.bin: expected sha256"):
                bundle.map_weights()
        with (model / "weights.bin").open("r+b") as file:
            file.write(WEIGHTS)
        bundle.map_weights().check()  # all of it was read, and is what it was
        with pytest.raises(BundleError):
            weights.check()  # what it gave meanwhile is not known
        os.utime(model / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
        weights.check()


def test_empty_weights_are_not_mapped(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "m.rfb") as writer:
        writer.add_bytes("weights.bin", b"")
        bare = dataclasses.replace(LAYOUT, tensors=(), launches=(), final_norm=None)
        writer.add_bytes("layout.msgpack", encode_layout(bare))
        writer.add_bytes("code/host.so", b"")
        writer.finish(MANIFEST)
    with open_bundle(tmp_path / "m.rfb") as bundle, pytest.raises(BundleError) as caught:
        bundle.map_weights()
    assert str(caught.value) == f"{tmp_path / 'm.rfb'}: weights.bin: expected 1 bytes, found 0"


def test_gpus_have_weights_of_their_own(tmp_path: Path) -> None:
    """Beside the host's: each backend maps its own, all are verified, and one that was changed is named."""
    more = encode_layout(dataclasses.replace(LAYOUT, vocab_size=LAYOUT.vocab_size - 1))
    model = write_both(tmp_path / "m.rfb", more)
    with verify_bundle(model) as bundle:
        assert [bundle.map_weights(backend)[:] for backend in ("host", "hip", "")] == [WEIGHTS, GPU_WEIGHTS, WEIGHTS]
        assert bundle.layout == LAYOUT
        with pytest.raises(BundleError, match=r"weights-hip\.bin: expected a file of the manifest that is not mapped"):
            bundle.read("weights-hip.bin")
        stamps = bundle.weights_stamps
        flip(model / "weights-hip.bin")
        for backend in ("hip", "host"):  # what was written to since is read, whoever asks
            with pytest.raises(BundleError, match=r"weights-hip\.bin: expected sha256"):
                bundle.map_weights(backend)
        flip(model / "weights-hip.bin")
        assert bundle.map_weights("hip")[:] == GPU_WEIGHTS
        assert (stamps[0] == bundle.weights_stamps[0], stamps[1] == bundle.weights_stamps[1]) == (True, False)


def test_a_copy_without_the_weights_of_others(tmp_path: Path) -> None:
    more = encode_layout(dataclasses.replace(LAYOUT, vocab_size=LAYOUT.vocab_size - 1))
    host, gpu = (("weights.bin", "code/host.so"), ("weights-hip.bin", "code/gfx942.hsaco"))
    for left_out, here, layout in ((gpu, WEIGHTS, LAYOUT.vocab_size), (host, GPU_WEIGHTS, LAYOUT.vocab_size - 1)):
        model = write_both(tmp_path / f"{here[0]}.rfb", more)
        (model / "pulled.json").write_bytes(Pulled("h.x/r", left_out).encode())
        for name in left_out:
            (model / name).unlink()
        with verify_bundle(model) as bundle:
            assert (bundle.map_weights()[:], bundle.layout.vocab_size, bundle.is_whole) == (here, layout, False)
    model = write_both(tmp_path / "m.rfb", more)
    for name, file in (("weights-hip.bin", "gfx942.hsaco"), ("weights.bin", "host.so")):
        (model / "pulled.json").write_bytes(Pulled("h.x/r", (name,)).encode())
        with pytest.raises(
            BundleError, match=f"left_out: expected the weights of code/{file} to be here, found {name}"
        ):
            open_bundle(model)


def test_a_layout_lies_within_the_weights_of_each_of_its_targets(tmp_path: Path) -> None:
    """The GPU's are longer by 64 bytes: a layout may use them, unless the host reads by it too."""
    tensors = (*LAYOUT.tensors, TensorEntry("more", "f32", (16,), len(WEIGHTS), 64))
    more = encode_layout(dataclasses.replace(LAYOUT, tensors=tensors))
    with open_bundle(write_both(tmp_path / "m.rfb", more)) as bundle:
        assert bundle.layouts["layout-gfx942.msgpack"].weights_bytes == len(GPU_WEIGHTS)
        targets = tuple(dataclasses.replace(row, layout="layout-gfx942.msgpack") for row in bundle.manifest.targets)
        changed = encode_manifest(dataclasses.replace(bundle.manifest, targets=targets))
    (tmp_path / "m.rfb/manifest.json").write_bytes(changed)
    with pytest.raises(BundleError, match=r"tensor more\.offset: expected an end within 2304 bytes, found 2304 \+ 64"):
        open_bundle(tmp_path / "m.rfb")


def test_weights_that_are_known_are_not_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_bundle(model) as bundle:
        status = (model / "weights.bin").stat()
        assert bundle.weights_stamps == ((len(WEIGHTS), status.st_mtime_ns),)
        os.utime(model / "weights.bin", ns=(0, 12345))
        reads: list[int] = []
        read_weights = Bundle.read_weights

        def counted(bundle: Bundle) -> None:
            reads.append(1)
            read_weights(bundle)

        monkeypatch.setattr(Bundle, "read_weights", counted)
        bundle.trust_weights(((len(WEIGHTS), 12345),))
        bundle.map_weights()
        assert (reads, bundle.weights_stamps) == ([], ((len(WEIGHTS), 12345),))
        os.utime(model / "weights.bin", ns=(0, 12346))
        for _ in range(2):
            bundle.map_weights()
        assert (reads, bundle.weights_stamps) == ([1], ((len(WEIGHTS), 12346),))
        # What was refused is read once, and again only when it changed.
        (model / "weights.bin").write_bytes(bytes(len(WEIGHTS)))
        for time_ns in (1, 1, 2, 2):
            os.utime(model / "weights.bin", ns=(0, time_ns))
            with pytest.raises(BundleError, match=r"weights\.bin: expected sha256"):
                bundle.map_weights()
        assert reads == [1, 1, 1]


def test_weights_that_the_disk_does_not_give(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_bundle(model) as bundle:
        weights = bundle.map_weights()
        weights._guard.broken = True
        with pytest.raises(BundleError) as caught:
            weights.check()
        problem = "expected readable, found that the disk did not give a part of it"
        assert str(caught.value) == f"{model}: weights.bin: {problem}"
        monkeypatch.setattr(os, "lseek", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(BundleError) as caught:
            bundle.read_weights()
        assert str(caught.value) == f"{model}: weights.bin: expected readable, found Input/output error"
