"""The emulated driver without AMD's libraries: what describes the GPUs, and its ioctls as a program makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.tools.emulator import kfd, library

# Numbers and structures of linux/kfd_ioctl.h, by hand: the shim is built from the header.
PROGRAM = """
import ctypes, errno, fcntl, os, struct, sys, threading
fd = os.open("/dev/kfd", os.O_RDWR)
gpu = int(open("/sys/class/kfd/kfd/topology/nodes/1/gpu_id").read())

def ioctl(number, layout, *values, direction=3, size=0):
    data = bytearray(struct.pack(layout, *values))
    request = direction << 30 | (size or len(data)) << 16 | ord("K") << 8 | number
    fcntl.ioctl(fd, request, data)
    return struct.unpack(layout, data)

def refused(*arguments, **options):
    try:
        ioctl(*arguments, **options)
    except OSError as error:
        return errno.errorcode[error.errno]

def version():
    assert ioctl(0x01, "II", 0, 0, direction=2) == (1, 17)
    assert ioctl(0x01, "IIII", 0, 0, 7, 7, direction=2) == (1, 17, 7, 7)  # a header that knows more
    assert ioctl(0x01, "II", 0, 9, direction=2, size=4) == (1, 9)  # one that knows less
    assert refused(0x27, "II", 0, 0) == refused(0x90, "II", 0, 0) == "EINVAL"

def memory():
    free = lambda: ioctl(0x23, "QII", 0, gpu, 0)[0]
    allocate = lambda at, size, flags: ioctl(0x16, "QQQQII", at, size, 0, 0, gpu, flags)
    total, at = free(), 0x7000_0000_0000
    _, _, handle, offset, _, _ = allocate(at, 5000, 1)
    assert (offset, free()) == (at, total - 8192)
    assert refused(0x16, "QQQQII", at + (1 << 40), total, 0, 0, gpu, 1) == "ENOMEM"
    assert refused(0x16, "QQQQII", at + 1, 4096, 0, 0, gpu, 1) == "EINVAL"
    assert refused(0x16, "QQQQII", at, 4096, 0, 0, 99, 1) == "EINVAL"
    ids = (ctypes.c_uint32 * 1)(gpu)
    assert ioctl(0x18, "QQII", handle, ctypes.addressof(ids), 1, 0)[3] == 1
    assert refused(0x18, "QQII", handle + 9, ctypes.addressof(ids), 1, 0) == "EINVAL"
    ioctl(0x17, "Q", handle, direction=1)
    assert free() == total
    assert refused(0x17, "Q", handle, direction=1) == "EINVAL"

def event(kind=0):
    return ioctl(0x08, "QIIIIII", 0, 0, kind, 1, 0, 0, 0)[5]

def wait(milliseconds, *ids, all_of=False, ages=()):
    rows = (ctypes.c_uint64 * (6 * len(ids)))()
    for i, one in enumerate(ids):
        rows[6 * i], rows[6 * i + 5] = (ages or [0] * len(ids))[i], one
    found = ioctl(0x0C, "QIIII", ctypes.addressof(rows), len(ids), all_of, milliseconds, 9)
    return ("set", "not yet")[found[4]], rows[0]

def events():
    one, two = event(), event()
    assert wait(0, one)[0] == wait(30, one, two)[0] == "not yet"
    ioctl(0x0A, "II", one, 0, direction=1)
    assert wait(0, one, two, all_of=True)[0] == "not yet"
    ioctl(0x0A, "II", one, 0, direction=1)
    assert wait(1000, one, two)[0] == "set"
    assert wait(0, one)[0] == "not yet"  # whoever is first takes it
    ioctl(0x0A, "II", two, 0, direction=1)
    ioctl(0x0B, "II", two, 0, direction=1)
    assert wait(0, two)[0] == "not yet"
    state, age = wait(0, two, ages=[1])  # set since the age of its birth, though taken back
    assert (state, age) == ("set", 2)
    assert wait(0, two, ages=[age])[0] == "not yet"
    assert refused(0x0A, "II", 4000, 0, direction=1) == "EINVAL"

def waiters():
    one, found = event(), []
    def work():
        found.append(wait(20_000, one)[0])
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    import time
    time.sleep(0.5)
    ioctl(0x0A, "II", one, 0, direction=1)
    for thread in threads:
        thread.join()
    assert found == ["set"] * 4, found  # all who waited, not only the first

globals()[sys.argv[1]]()
"""


def start(case: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a case of the program with the shim."""
    changes = {"LD_PRELOAD": str(kfd.preload()), **variables}
    command = [sys.executable, "-c", PROGRAM, case]
    return subprocess.run(command, env=os.environ | changes, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("case", ["version", "memory", "events", "waiters"])
def test_ioctls(case: str) -> None:
    done = start(case, **kfd.environment(["gfx1100"]))
    assert done.returncode == 0, done.stderr


def test_without_gpus_there_is_no_device() -> None:
    done = start("version")
    assert "No such file or directory: '/dev/kfd'" in done.stderr


def test_topology_of_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ROCMFORGE_KFD_VRAM_GIB", "3")
    found = kfd.environment(["gfx1100", "gfx942", "gfx1201"])
    assert found == kfd.environment(["gfx1100", "gfx942", "gfx1201"])
    nodes = Path(found["ROCMFORGE_KFD_TOPOLOGY"], "topology", "nodes")
    ids = [(nodes / name / "gpu_id").read_text().strip() for name in ("0", "1", "2", "3")]
    rows = [row.split(",") for row in found["ROCMFORGE_KFD_GPUS"].split(";")]
    assert ids == ["0", *(row[1] for row in rows)]
    assert len(set(ids)) == 4
    for number, target in ((1, 110000), (2, 90402), (3, 120001)):
        text = (nodes / str(number) / "properties").read_text()
        values = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
        assert values["gfx_target_version"] == target
        assert values["drm_render_minor"] == 127 + number
        assert values["num_sdma_engines"] == 0
        assert values["local_mem_size"] == int(rows[number - 1][6]) == 3 << 30
        assert values["p2p_links_count"] == len(list((nodes / str(number) / "p2p_links").iterdir())) == 2


@pytest.mark.parametrize("text", ["", "0", "-1", "1e3", "4096", "4 GiB"])
def test_memory_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCMFORGE_KFD_VRAM_GIB", text)
    with pytest.raises(ToolchainError, match="ROCMFORGE_KFD_VRAM_GIB: expected 1 to 1024, found"):
        kfd.environment(["gfx1100"])


def test_a_gpu_that_is_not_known() -> None:
    with pytest.raises(ToolchainError, match=r"no GPU 'gfx9000'; there are gfx1100, "):
        kfd.environment(["gfx9000"])


def test_all_that_kernels_run_on_is_built_before_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(name: str, *_: object, **__: object) -> Path:
        built.append(name)
        return Path(name)

    monkeypatch.setattr(library, "build_shared", build)
    monkeypatch.setattr(kfd, "build_shared", build)
    kfd.preload()
    assert sorted(built) == ["kfd", "wave32", "wave64"]
