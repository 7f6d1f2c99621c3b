"""What the host device refuses, and how: one clear line, before foreign bytes can do harm."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.artifacts.abi import HOST_ABI_VERSION, OLDEST_HOST_ABI_VERSION
from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import BundleError, DeviceError
from rocmforge.artifacts.host import HOST_LEVELS, cpu_features
from rocmforge.artifacts.layout import BufferEntry, LaunchEntry, Layout, TensorEntry
from rocmforge.artifacts.layout_file import encode_layout
from rocmforge.artifacts.manifest import encode_manifest
from rocmforge.artifacts.manifest_entries import FileEntry, TargetEntry
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.host_toolchain import find_host_toolchain
from rocmforge.compiler.target import CodeVariant
from rocmforge.runtime.device import host as host_device
from rocmforge.runtime.device import host_library
from rocmforge.runtime.device.host import HostProgram, choose_variant, load_host_program
from rocmforge.tests.support.hip_bundle import LAYOUT as HIP_LAYOUT
from rocmforge.tests.support.programs import compiled
from rocmforge.tools.generate.fixtures import write_model

PORTABLE = "code/host-portable.so"
PAGE = 4096


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache) -> Iterator[Bundle]:
    path = tmp_path_factory.mktemp("device") / "model.gguf"
    write_model(path, num_layers=1)
    with compiled(path, build_cache, levels=tuple(HOST_LEVELS["host"])) as opened:
        yield opened


def in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("code")
    os.write(descriptor, data)
    return descriptor


def load_code(bundle: Bundle, data: bytes, layout: Layout | None = None, **sizes: int) -> HostProgram:
    """A program of `data` as code, on the bundle's weights."""
    sizes = {"num_blocks": 1, "threads": 1} | sizes
    return HostProgram(layout or bundle.layout, bundle.map_weights(), in_memory(data), PORTABLE, **sizes)


def refused(error: type[Exception], load: Callable[[], object]) -> str:
    """The message with which `load` fails; it is one line, and every descriptor is closed again."""
    gc.collect()  # what other tests left behind
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(error) as caught:
        load()
    message = str(caught.value)
    del caught
    gc.collect()  # a mapping of the weights keeps a descriptor, and the traceback kept the mapping
    assert set(os.listdir("/proc/self/fd")) <= before
    assert message.isprintable()
    return message


def rewritten(
    bundle: Bundle,
    goal: Path,
    files: dict[str, bytes] | None = None,
    targets: tuple[TargetEntry, ...] | None = None,
) -> Path:
    """The bundle with other files or targets, all digests in order: nothing but its meaning is wrong."""
    shutil.copytree(bundle.path, goal)
    entries = dict(bundle.manifest.files)
    for name, data in (files or {}).items():
        (goal / name).write_bytes(data)
        entries[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    manifest = dataclasses.replace(bundle.manifest, files=entries, targets=targets or bundle.manifest.targets)
    (goal / "manifest.json").write_bytes(encode_manifest(manifest))
    return goal


def with_bytes(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    "at, new, expected",
    [
        pytest.param(18, b"\xe0\x00", "machine 224", id="F41-amdgpu"),
        pytest.param(18, b"\x28\x00", "machine 40", id="F41-arm"),
        pytest.param(16, b"\x02\x00", "type 2", id="F41-executable"),
        pytest.param(4, b"\x01", "64-bit", id="F41-32-bit"),
        pytest.param(5, b"\x02", "little-endian", id="F41-big-endian"),
        pytest.param(0, b"\x00ELF", "ELF file", id="F41-no-elf"),
        pytest.param(32, b"\xff" * 8, "program headers", id="F41-headers-far-away"),
        pytest.param(54, b"\x00\x00", "program headers", id="F41-header-size"),
        pytest.param(56, b"\x00\x00", "program headers", id="F41-no-headers"),
        pytest.param(56, b"\xff\xff", "program headers", id="F41-too-many-headers"),
        pytest.param(64 + 8, b"\xff" * 8, "cut short", id="F41-segment-far-away"),
        pytest.param(40, b"\xff" * 8, "cut short", id="F41-sections-far-away"),
    ],
)
def test_code_of_another_kind(bundle: Bundle, at: int, new: bytes, expected: str) -> None:
    code = bundle.read(PORTABLE)
    load_code(bundle, code).close()
    message = refused(DeviceError, lambda: load_code(bundle, with_bytes(code, at, new)))
    assert message.startswith(f"{PORTABLE}: expected ")
    assert expected in message


TRUNCATE = """
import json, os, sys
from pathlib import Path
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.runtime.device.host import HostProgram

bundle, found = open_bundle(Path(sys.argv[1])), {}
code = bundle.read(sys.argv[2])
for length in map(int, sys.argv[3:]):
    descriptor = os.memfd_create("code")
    os.write(descriptor, code[:length])
    try:
        HostProgram(bundle.layout, bundle.map_weights(), descriptor, "cut.so", 1, 1).close()
        found[length] = "loaded"
    except RocmforgeError as error:
        found[length] = str(error)
print(json.dumps(found))
"""


def test_F41_truncated_code_is_refused_and_kills_nothing(bundle: Bundle) -> None:
    """In a process of its own: a loader that maps a file cut short dies of SIGBUS."""
    size = len(bundle.read(PORTABLE))
    cuts = {0, 1, 10, 63, 64, 100, size // 4, size // 2, size - PAGE, size - 64, size - 1}
    done = run_python(TRUNCATE, str(bundle.path), PORTABLE, *map(str, [*sorted(cuts), size]))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop(str(size)) == "loaded"
    assert len(found) == len(cuts)
    for message in found.values():
        assert message.startswith("cut.so: expected ")
        assert message.isprintable()


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_F41_truncated_code_in_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    """Cut short after the bundle was made: its size gives it away. Made of cut code: the ELF headers do."""
    code = bundle.read(PORTABLE)
    goal = rewritten(bundle, tmp_path / "made.rfb", {PORTABLE: code[: len(code) // 2]})
    with open_bundle(goal) as opened:
        assert "cut short" in refused(DeviceError, lambda: load_host_program(opened, 1, 1, "portable"))
    whole = rewritten(bundle, tmp_path / "whole.rfb")
    (whole / PORTABLE).write_bytes(code[: len(code) // 2])
    assert PORTABLE in refused(BundleError, lambda: open_bundle(whole))


@given(
    changes=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 600),
)
def test_F41_any_header_is_taken_or_refused(header: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(header)
    for at, value in changes:
        data[at] = value
    descriptor = in_memory(bytes(data[:cut]))
    try:
        # Only its first 600 bytes are there: no shared object is whole.
        with pytest.raises(DeviceError):
            host_library.check_elf(descriptor, "x")
    finally:
        os.close(descriptor)


def elf(size: int, end: int = 0, sections: int = 0, kind: int = 3, count: int = 2, header: int = 56) -> bytes:
    """The first bytes of an ELF file of so many: its second segment ends at `end`, its table of `sections` at
    176 + 64 `sections`."""
    machine = host_library._ELF_MACHINES[platform.machine()]
    head = (b"\x7fELF", 2, 1, kind, machine, 1, 0, 64, 176, 0, 64, header, count, 64, sections, 0)
    segments = [(1, 5, 0, 0, 0, 100, 100, 4096), (1, 6, end // 2, 0, 0, end - end // 2, 9999, 4096)]
    packed = host_library._ELF_HEADER.pack(*head) + b"".join(host_library._ELF_SEGMENT.pack(*one) for one in segments)
    return packed.ljust(size, b"\0")[:size]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (elf(176), None),
        (elf(177, 177), None),
        (elf(240, 200, 1), None),
        (elf(250, 250, 1), None),
        (elf(120, count=1), "expected at least 176 bytes, found 120: the code object is cut short"),
        (elf(176, 177), "expected at least 177 bytes, found 176: the code object is cut short"),
        (elf(239, 0, 1), "expected at least 240 bytes, found 239: the code object is cut short"),
        (elf(249, 250, 1), "expected at least 250 bytes, found 249: the code object is cut short"),
        (elf(175), "expected 2 program headers @64, found 175 bytes in all"),
        (elf(64), "expected 2 program headers @64, found 64 bytes in all"),
        (elf(63), "expected a 64-bit little-endian ELF file, found 63 bytes of something else"),
        (elf(176, count=0), "expected 0 program headers @64, found 176 bytes in all"),
        (elf(176, header=57), "expected 2 program headers @64, found 176 bytes in all"),
        (elf(176, kind=4), "expected an ELF shared object for {0}, found type 4, machine {1}"),
    ],
)
def test_F41_code_is_whole_to_the_byte(data: bytes, problem: str | None) -> None:
    descriptor = in_memory(data)
    try:
        if problem is None:
            host_library.check_elf(descriptor, "x.so")
            return
        with pytest.raises(DeviceError) as caught:
            host_library.check_elf(descriptor, "x.so")
        machine = platform.machine()
        assert str(caught.value) == "x.so: " + problem.format(machine, host_library._ELF_MACHINES[machine])
    finally:
        os.close(descriptor)


def test_places_of_buffers() -> None:
    buffers = (BufferEntry("a", "float32", 1, 0), BufferEntry("b", "float32", 0, 17), BufferEntry("c", "float32", 0, 1))
    layout = dataclasses.replace(HIP_LAYOUT, buffers=buffers)
    assert host_device._place_buffers(layout) == {"a": 0, "b": 128, "c": 256}


@pytest.fixture(scope="module")
def header(bundle: Bundle) -> bytes:
    return bundle.read(PORTABLE)[:600]


STUB = """
int rfc_abi_version(void) { return %d; }
void *rfc_program_create(void *launches, int num_launches, int num_threads) { return 0; }
void rfc_program_step(void *program, void *step) {}
"""
DESTROY = "void rfc_program_destroy(void *program) {}\n"


def build(folder: Path, source: str) -> bytes:
    toolchain = find_host_toolchain()
    (folder / "stub.c").write_text("#pragma GCC visibility push(default)\n" + source)
    toolchain.compile(folder / "stub.c", folder / "stub.o", folder, CodeVariant("portable", (), (), "stub.so"))
    toolchain.link([folder / "stub.o"], folder / "stub.so")
    return (folder / "stub.so").read_bytes()


def test_abi_of_another_version(bundle: Bundle, tmp_path: Path) -> None:
    expected = f"expected ABI version {OLDEST_HOST_ABI_VERSION} or {HOST_ABI_VERSION}"
    for version in (OLDEST_HOST_ABI_VERSION - 1, HOST_ABI_VERSION + 1):
        code = build(tmp_path, STUB % version + DESTROY)
        message = refused(DeviceError, partial(load_code, bundle, code))
        assert f"{expected}, found {version}: compile the model again" in message
    targets = tuple(dataclasses.replace(entry, abi=7) for entry in bundle.manifest.targets)
    with open_bundle(rewritten(bundle, tmp_path / "model.rfb", targets=targets)) as opened:
        assert "found 7" in refused(DeviceError, lambda: load_host_program(opened, 1, 1))


def test_code_without_the_entry_points(bundle: Bundle, tmp_path: Path) -> None:
    code = build(tmp_path, STUB % HOST_ABI_VERSION)
    assert "rfc_program_destroy" in refused(DeviceError, lambda: load_code(bundle, code))


def test_code_that_needs_what_the_process_lacks(bundle: Bundle, tmp_path: Path) -> None:
    code = build(tmp_path, "extern int nowhere;\nint *rfc_abi_version(void) { return &nowhere; }\n")
    message = refused(DeviceError, lambda: load_code(bundle, code))
    assert "cannot be loaded" in message
    assert "nowhere" in message


def test_missing_kernel_is_named(bundle: Bundle) -> None:
    launches = (*bundle.layout.launches[:-1], LaunchEntry("no_such_kernel", ()))
    layout = dataclasses.replace(bundle.layout, launches=launches)
    code = bundle.read(PORTABLE)
    assert "no_such_kernel" in refused(DeviceError, lambda: load_code(bundle, code, layout))


def levels(bundle: Bundle, *names: str) -> tuple[TargetEntry, ...]:
    return tuple(entry for entry in bundle.manifest.targets if entry.level in names)


def test_the_best_level_that_the_cpu_has_is_chosen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = bundle.manifest.targets
    assert {entry.level for entry in targets} == set(HOST_LEVELS["host"])
    for name, features in HOST_LEVELS["host"].items():
        monkeypatch.setattr(host_device, "cpu_features", lambda features=features: frozenset(features))
        assert choose_variant(targets).level == choose_variant(targets[::-1]).level == name
        assert choose_variant(targets, "portable").level == "portable"


def test_code_for_the_other_kind_of_machine_is_not_chosen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_device, "host_arch", lambda: "aarch64")
    monkeypatch.setattr(host_device, "cpu_features", lambda: frozenset(("asimddp",)))
    targets = bundle.manifest.targets
    assert "the bundle has: x86_64_amx, x86_64_v4, x86_64_v3, portable" in refused(
        DeviceError, lambda: choose_variant(targets)
    )
    both = (
        *targets,
        *(dataclasses.replace(targets[0], arch="aarch64", level=level) for level in HOST_LEVELS["aarch64"]),
    )
    assert choose_variant(both).level == "aarch64_dotprod"


def test_no_level_for_this_cpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_device, "cpu_features", lambda: frozenset(("sse2", "avx2")))
    fast = levels(bundle, "x86_64_v3", "x86_64_v4")
    message = refused(DeviceError, lambda: choose_variant(fast))
    assert "no code object for this CPU" in message
    assert "x86_64_v4, x86_64_v3" in message
    message = refused(DeviceError, lambda: choose_variant(fast, "x86_64_v3"))
    assert message.endswith("no code object for this CPU at level x86_64_v3: it lacks bmi1, bmi2, f16c, fma, movbe")


def test_a_level_that_cannot_run_here_is_passed_over(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a processor that claims to have tiles: the code itself asks for them, and tries them."""
    if "amx_tile" in cpu_features():
        pytest.skip("this processor has tiles")
    monkeypatch.setattr(host_device, "cpu_features", lambda: cpu_features() | {"amx_tile", "amx_int8"})
    assert choose_variant(bundle.manifest.targets).level == "x86_64_amx"
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    load_host_program(bundle, 1, 1).close()
    (line,) = caplog.messages
    assert line == ("host: not the level x86_64_amx: code/host-x86_64_amx.so: the processor has no tiles")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    message = refused(DeviceError, lambda: load_host_program(bundle, 1, 1, "x86_64_amx"))
    assert message == "code/host-x86_64_amx.so: the processor has no tiles"


def test_no_host_code_at_all(bundle: Bundle) -> None:
    targets = tuple(dataclasses.replace(entry, backend="hip") for entry in bundle.manifest.targets)
    assert refused(DeviceError, lambda: choose_variant(targets)).endswith("the bundle has: none")


def test_unknown_levels(bundle: Bundle) -> None:
    message = refused(DeviceError, lambda: load_host_program(bundle, 1, 1, "x86_64_v9"))
    assert "at level x86_64_v9" in message
    # A level that only a newer rocmforge knows is passed over: who can say what it needs?
    newer = dataclasses.replace(bundle.manifest.targets[0], level="x86_64_v9")
    assert choose_variant((newer, *levels(bundle, "portable"))).level == "portable"
    assert "x86_64_v9" in refused(DeviceError, lambda: choose_variant((newer,)))


def test_cpu_features_are_read_from_both_kinds_of_cpuinfo(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\nvmx flags\t: ept\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_features(path) == {"fpu", "avx2", "fma"}
    path.write_text("processor\t: 0\nFeatures\t: fp asimd sve\n")
    assert cpu_features(path) == {"fp", "asimd", "sve"}
    path.write_text("")
    assert cpu_features(path) == cpu_features(tmp_path / "none") == frozenset()


THREADS = """
import os, resource, sys
from pathlib import Path
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.runtime.device.host import load_host_program

bundle = open_bundle(Path(sys.argv[1]))
load_host_program(bundle, 1, 2).close()
tasks = len(os.listdir("/proc/self/task"))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
for _ in range(3):
    try:
        load_host_program(bundle, 1, 4096)
        print("loaded")
    except DeviceError as error:
        print(error)
load_host_program(bundle, 1, 2).close()
print(len(os.listdir("/proc/self/task")) - tasks)
"""


def test_threads_that_are_not_to_be_had(bundle: Bundle) -> None:
    """Room for some stacks of 8 MiB, not for 4096: refused, and those that were made are gone again."""
    done = run_python(THREADS, str(bundle.path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["host: 4096 threads are unavailable"] * 3 + ["0"]


def test_F72_memory_that_is_not_to_be_had(bundle: Bundle) -> None:
    code = bundle.read(PORTABLE)
    needed = (1 << 50) * bundle.layout.kv.bytes_per_block
    message = refused(DeviceError, lambda: load_code(bundle, code, num_blocks=1 << 50))
    assert message == f"host: {needed} bytes for the KV cache are unavailable"


def test_a_closed_program_leaves_no_code_mapped(bundle: Bundle) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(" r-xp ")

    load_host_program(bundle, 1, 2).close()  # what is loaded once and stays
    before = mapped()
    programs = [load_host_program(bundle, 1, 2) for _ in range(3)]
    assert mapped() == before + 3
    for program in programs:
        program.close()
    assert mapped() == before


def test_closing_twice_is_harmless(bundle: Bundle) -> None:
    program = load_host_program(bundle, 1, 2)
    program.close()
    program.close()


def first(layout: Layout, packing: str) -> TensorEntry:
    return next(entry for entry in layout.tensors if entry.packing.startswith(packing))


@pytest.mark.parametrize(
    "packing, change",
    [
        pytest.param("f32", lambda e: {"shape": (e.shape[0] + 1,)}, id="F39-longer-norm"),
        pytest.param("f32", lambda e: {"shape": (e.shape[0] - 1,)}, id="F39-shorter-norm"),
        pytest.param("f32", lambda e: {"n_bytes": e.n_bytes - 4}, id="F39-fewer-bytes"),
        pytest.param("rope_table", lambda e: {"shape": (2 * e.shape[0], e.shape[1])}, id="F39-more-positions"),
        pytest.param("rows16_q4_1", lambda e: {"shape": (e.shape[0] + 1, e.shape[1])}, id="F39-one-row-more"),
        pytest.param("rows16_q4_1", lambda e: {"shape": (e.shape[0], 2 * e.shape[1])}, id="F39-wider"),
        pytest.param("rows16_q4_1", lambda e: {"shape": (e.shape[0], 33)}, id="F39-part-of-a-block"),
        pytest.param("rows16_q4_1", lambda e: {"packing": "rows16_f32"}, id="F39-another-packing"),
        pytest.param("rows16_q4_1", lambda e: {"packing": "rows16_q1_0"}, id="F39-unknown-packing"),
        pytest.param("rows16_pairs", lambda e: {"shape": (e.shape[0] + 16, e.shape[1])}, id="F39-half-a-pair"),
    ],
)
def test_shapes_that_contradict_bytes(
    bundle: Bundle, packing: str, change: Callable[[TensorEntry], dict[str, Any]], tmp_path: Path
) -> None:
    """Found when the bundle is opened: no code is at hand then, so none can be called."""
    entry = first(bundle.layout, packing)
    tensors = tuple(
        dataclasses.replace(item, **change(item)) if item is entry else item for item in bundle.layout.tensors
    )
    data = encode_layout(dataclasses.replace(bundle.layout, tensors=tensors))
    goal = rewritten(bundle, tmp_path / "model.rfb", {"layout.msgpack": data})
    message = refused(BundleError, lambda: open_bundle(goal))
    assert f"tensor {entry.name}.shape: expected " in message


def test_a_rewritten_bundle_without_a_fault_loads(bundle: Bundle, tmp_path: Path) -> None:
    goal = rewritten(bundle, tmp_path / "model.rfb", {"layout.msgpack": encode_layout(bundle.layout)})
    with open_bundle(goal) as opened:
        load_host_program(opened, 1, 1).close()


def test_memory_is_that_of_the_machine() -> None:
    """MemTotal is what sysconf counts in pages; what is available changes while we look."""
    available, total = HostProgram.memory(HostProgram.__new__(HostProgram))
    assert total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert total // 1000 < available <= total
