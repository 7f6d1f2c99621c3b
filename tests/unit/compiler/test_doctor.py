"""What `rfc doctor` says of machines of all kinds: each finding, found and not found."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest

from rocmforge.artifacts.cache_dir import default_cache_dir
from rocmforge.artifacts.errors import ToolchainError
from rocmforge.artifacts.host import HOST_LEVELS
from rocmforge.artifacts.processors import Processors
from rocmforge.compiler import doctor
from rocmforge.compiler.doctor import Finding, examine
from rocmforge.tests.support.systems import leave_home


def findings() -> dict[str, Finding]:
    found = examine()
    assert len({finding.what for finding in found}) == len(found) == 12
    return {finding.what: finding for finding in found}


class Runtime:
    """In the place of HIP's library: gives a version, or an error."""

    def __init__(self, version: int, status: int) -> None:
        def get_version(number: SimpleNamespace) -> int:
            number._obj.value = version
            return status

        self.hipRuntimeGetVersion = get_version


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing on it, and a cache that can be written; its folder."""

    def missing(*_: object) -> None:
        raise ToolchainError("not here")

    for name in ("find_host_toolchain", "find_hipcc"):
        monkeypatch.setattr(doctor, name, missing)
    monkeypatch.setattr("rocmforge.compiler.doctor.shutil.which", lambda _name: None)
    monkeypatch.setattr(doctor, "cpu_features", frozenset)
    monkeypatch.setattr(doctor, "read_processors", lambda: Processors(((0,), (1,), (2,))))
    monkeypatch.setattr(doctor, "installed_arches", list)
    monkeypatch.setattr(doctor, "library_paths", lambda: ["/nowhere/libamdhip64.so.7"])
    monkeypatch.setattr(doctor, "default_cache_dir", lambda: tmp_path / "not" / "yet")
    return tmp_path


def test_a_machine_with_nothing(bare: Path) -> None:
    amx, v4, v3, _ = (", ".join(features) for features in HOST_LEVELS["host"].values())
    assert list(findings().values()) == [
        Finding("zig toolchain", False, "not here", needed=True),
        Finding("cc", False, "not on PATH (optional)"),
        Finding("clang", False, "not on PATH (optional)"),
        Finding("hipcc", False, "not here (optional: clang builds every arch)"),
        Finding("host x86_64_amx", False, f"this CPU lacks {amx}"),
        Finding("host x86_64_v4", False, f"this CPU lacks {v4}"),
        Finding("host x86_64_v3", False, f"this CPU lacks {v3}"),
        Finding("host portable", True, "this CPU runs it", needed=True),
        Finding("processors", True, "3 cores, 3 CPUs: threads: 3"),
        Finding("AMD GPU", False, "none found in /sys/class/kfd/kfd/topology/nodes (the host target serves)"),
        Finding("HIP runtime", False, "libamdhip64.so.7 or older not found (GPUs need ROCm 5.7's or newer)"),
        Finding("build cache", True, str(bare / "not" / "yet")),
    ]


def test_a_machine_with_everything(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, str, tuple[str, ...]]] = []

    class Zig:
        version = "zig 1"

        def compile(self, source: Path, output: Path, include: Path, variant: object) -> None:
            assert source.parent == output.parent == include
            compiled.append((source.name, output.name, tuple(source.read_text().split())))

    monkeypatch.setattr(doctor, "find_host_toolchain", Zig)
    monkeypatch.setattr(
        doctor, "find_hipcc", lambda: SimpleNamespace(version="HIP 6", arches={"gfx906", "gfx1100", "gfx803"})
    )
    monkeypatch.setattr("rocmforge.compiler.doctor.shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor, "cpu_features", lambda: frozenset(HOST_LEVELS["host"]["x86_64_v3"]))
    monkeypatch.setattr(doctor, "installed_arches", lambda: ["gfx1100", "gfx942"])
    monkeypatch.setattr(doctor, "library_paths", lambda: ["/missing.so", "/hip.so", "/older.so"])
    libraries = {"/hip.so": Runtime(60_342_134, 0), "/older.so": Runtime(50_700_000, 0)}

    def load(path: str) -> object:
        if path not in libraries:
            raise OSError(path)
        return libraries[path]

    monkeypatch.setattr(ctypes, "CDLL", load)
    found = findings()
    assert {what for what, finding in found.items() if not finding.ok} == {"host x86_64_amx", "host x86_64_v4"}
    assert {what: finding.text for what, finding in found.items() if what[:4] != "host"} == {
        "zig toolchain": "zig 1",
        "cc": "/usr/bin/cc (--toolchain cc)",
        "clang": "/usr/bin/clang (--toolchain clang)",
        "hipcc": "HIP 6 (knows 2 of our arches)",
        "processors": "3 cores, 3 CPUs: threads: 3",
        "AMD GPU": "gfx1100, gfx942",
        "HIP runtime": "/hip.so (HIP 6.3)",
        "build cache": str(bare / "not" / "yet"),
    }
    assert {what for what, finding in found.items() if finding.needed} == {"zig toolchain", "host portable"}
    assert compiled == [("probe.c", "probe.o", ("int", "probe(void)", "{", "return", "1;", "}"))]
    for other in (Runtime(60_342_134, 1), SimpleNamespace()):  # an error, or no such function
        libraries["/hip.so"] = other  # type: ignore[assignment]
        assert findings()["HIP runtime"].text == "/hip.so (HIP of unknown version)"


def test_a_cache_that_cannot_be_written(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def access(path: Path, mode: int) -> bool:
        asked.append((path, mode))
        return False

    monkeypatch.setattr("rocmforge.compiler.doctor.os.access", access)
    cache = bare / "not" / "yet"
    assert findings()["build cache"] == Finding("build cache", False, f"{cache} cannot be written: --cache-dir")
    assert asked == [(bare, 2)]  # the nearest folder that is there


def test_no_home_for_a_cache(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "default_cache_dir", default_cache_dir)
    leave_home(monkeypatch)
    text = "caches: expected a home folder, found none; set XDG_CACHE_HOME or HOME, or --cache-dir"
    assert findings()["build cache"] == Finding("build cache", False, text)


def test_processors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, quota, text in (
        (((0,), (1,)), None, "2 cores, 2 CPUs: threads: 2"),
        (((0, 2), (1, 3)), None, "2 cores, 4 CPUs: threads: 2, or 4 where hyperthreads are faster"),
        (((0, 2), (1, 3)), 1.5, "2 cores, 4 CPUs, the time of 1.5: threads: 1"),
    ):
        monkeypatch.setattr(doctor, "read_processors", lambda cores=cores, quota=quota: Processors(cores, quota))
        assert doctor._processors().text == text
