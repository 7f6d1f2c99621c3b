"""The library: where it is looked for, and what is said where there is none or a wrong one."""

from __future__ import annotations

import ctypes
import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.hip import HIP_SONAMES as SONAMES
from rocmforge.artifacts.hip import LIBRARY_VARIABLE, installed_arches, library_paths
from rocmforge.compiler.doctor import examine
from rocmforge.compiler.host_toolchain import find_host_toolchain
from rocmforge.compiler.target import CodeVariant
from rocmforge.runtime.device.hip.api import _ARGUMENTS, HipApi, HipError, check, load_hip, runtime_version
from rocmforge.runtime.device.hip.select import find_devices
from rocmforge.tests.support.fake_hip import FakeHip
from rocmforge.tools.emulator import HipEmulator

DEBIAN = "libamdhip64.so.5"
EXPORT = '__attribute__((visibility("default")))'


def library(folder: Path, name: str, functions: list[str], more: str = "") -> str:
    """A shared object whose functions return 7, and `more` C."""
    source = folder / "hip.c"
    source.write_text("".join(f"{EXPORT} int {function}(void) {{ return 7; }}\n" for function in functions) + more)
    toolchain, variant = find_host_toolchain(), CodeVariant("portable", (), (), name)
    toolchain.compile(source, folder / "hip.o", folder, variant)
    toolchain.link([folder / "hip.o"], folder / name)
    return str(folder / name)


def refused(*paths: str) -> str:
    with pytest.raises(DeviceError) as caught:
        load_hip(paths)
    assert caught.value.exit_code == 4
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_F131_newer_names_come_before_nearer_places() -> None:
    """Debian's .so.5 is on the loader's own path; a newer ROCm in /opt is not, and comes first all the same."""
    assert [name[-1] for name in SONAMES] == ["7", "6", "5", "o"]
    assert library_paths({}) == [path for name in SONAMES for path in (name, f"/opt/rocm/lib/{name}")]
    own = library_paths({"ROCM_PATH": "/x"})
    assert own[:4] == [f"/x/lib/{SONAMES[0]}", SONAMES[0], f"/opt/rocm/lib/{SONAMES[0]}", f"/x/lib/{SONAMES[1]}"]
    assert library_paths({"ROCM_PATH": "/x", LIBRARY_VARIABLE: "/y/hip.so"}) == ["/y/hip.so"]


def gpus(folder: Path, name: str, devices: int, version: int = 60_342_134) -> str:
    """A library whose functions return 7 but for those asked for devices and version."""
    folder.mkdir()
    answers = f"""
{EXPORT} int hipGetDeviceCount(int *count) {{ *count = {devices}; return {0 if devices else 100}; }}
{EXPORT} int hipRuntimeGetVersion(int *version) {{ *version = {version}; return 0; }}
{EXPORT} const char *hipGetErrorName(int code) {{ return "name"; }}
{EXPORT} const char *hipGetErrorString(int code) {{ return "text"; }}
"""
    functions = set(_ARGUMENTS) - {"hipGetDeviceCount", "hipGetErrorName", "hipGetErrorString"}
    return library(folder, name, sorted(functions), answers)


def test_F131_a_library_that_finds_no_gpu_is_passed_over(tmp_path: Path) -> None:
    newer, older = gpus(tmp_path / "newer", SONAMES[0], 0, 70_226_015), gpus(tmp_path / "older", SONAMES[2], 2)
    assert runtime_version(load_hip([newer, older])) == (6, 3)
    assert runtime_version(load_hip([older, newer])) == (6, 3)
    # Where none finds any, the first is taken: what it says of it is the message.
    assert runtime_version(load_hip([newer, newer])) == (7, 2)
    with pytest.raises(DeviceError, match="no AMD GPU can be used"):
        find_devices(load_hip([newer]), None)


def test_F132_the_library_that_was_named_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = gpus(tmp_path / "own", "libother.so", 1, 60_342_134)
    monkeypatch.setenv(LIBRARY_VARIABLE, own)
    assert runtime_version(load_hip()) == (6, 3)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "absent.so"))
    with pytest.raises(
        DeviceError, match=r"^ROCMFORGE_HIP_LIBRARY: expected a HIP library, found /.*/absent\.so: cannot"
    ) as caught:
        load_hip()
    assert caught.value.exit_code == 4
    monkeypatch.setenv(LIBRARY_VARIABLE, library(tmp_path, "lacks.so", sorted(set(_ARGUMENTS) - {"hipMalloc"})))
    with pytest.raises(DeviceError, match="lacks hipMalloc"):
        load_hip()


def test_doctor_says_which_library_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = gpus(tmp_path / "own", "libother.so", 1, 60_342_134)
    monkeypatch.setenv(LIBRARY_VARIABLE, own)
    found = next(finding for finding in examine() if finding.what == "HIP runtime")
    assert (found.ok, found.text) == (True, f"{own} (HIP 6.3)")


def test_F71_no_library(tmp_path: Path) -> None:
    names = "libamdhip64.so.7, libamdhip64.so.6, libamdhip64.so.5, libamdhip64.so"
    assert refused(str(tmp_path / SONAMES[0])) == (
        f"no HIP library could be loaded (looked for {names}); AMD GPUs need ROCm 5.7 or newer"
    )


def test_F71_a_library_that_does_not_load_is_told_apart_from_none(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not ELF" * 20)
    assert "broken.so" in refused(str(tmp_path / "absent.so"), str(tmp_path / "broken.so"))


def test_F71_a_library_that_lacks_functions(tmp_path: Path) -> None:
    path = library(tmp_path, SONAMES[1], sorted(set(_ARGUMENTS) - {"hipGraphLaunch", "hipMalloc"}))
    message = refused(path)
    assert "lacks hipMalloc, hipGraphLaunch: ROCm 5.7" in message
    os.unlink(path)


def test_the_first_library_that_loads_is_taken(tmp_path: Path) -> None:
    path = library(tmp_path, SONAMES[2], sorted(_ARGUMENTS))
    api = load_hip([str(tmp_path / SONAMES[0]), path])
    assert api.hipSetDevice(0) == 7


@pytest.mark.parametrize("stand_in", [FakeHip, HipEmulator])
def test_stand_ins_offer_all_functions_with_their_arguments(stand_in: type) -> None:
    for name, types in _ARGUMENTS.items():
        assert hasattr(HipApi, name)
        parameters = list(inspect.signature(getattr(stand_in, name)).parameters)
        assert len(parameters) > len(types), name  # and self
        assert len(inspect.signature(getattr(HipApi, name)).parameters) == 1 + len(types), name
    assert {name for name in vars(HipApi) if name.startswith("hip")} == set(_ARGUMENTS)


def test_errors_carry_hips_own_name() -> None:
    check(FakeHip(), 0, "nothing")
    with pytest.raises(HipError, match=r"^upload: hipErrorLaunchFailure \(unspecified launch failure\)$") as caught:
        check(FakeHip(), 719, "upload")
    assert (caught.value.code, caught.value.name) == (719, "hipErrorLaunchFailure")


class Speechless(FakeHip):
    """Says little of its errors, and as little of itself."""

    def __init__(self, name: bytes | None, text: bytes | None) -> None:
        super().__init__()
        self._name, self._words = name, text

    def hipGetErrorName(self, code: int) -> bytes:
        return self._name  # type: ignore[return-value]

    def hipGetErrorString(self, code: int) -> bytes:
        return self._words  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (b"hipErrorNew", b"hipErrorNew", "hipErrorNew"),
        (b"hipErrorNew", b"", "hipErrorNew"),
        (b"hipErrorNew", None, "hipErrorNew"),
        (None, b"odd", "HIP error 7 (odd)"),
        (b"", None, "HIP error 7"),
        (b"a\xff\n", b"x" * 601, "a\ufffd\\n (" + "x" * 600 + "…)"),
    ],
)
def test_errors_that_hip_has_no_words_for(name: bytes | None, text: bytes | None, expected: str) -> None:
    with pytest.raises(HipError) as caught:
        check(Speechless(name, text), 7, "upload")
    assert str(caught.value) == f"upload: {expected}"
    assert caught.value.code == 7


def test_a_version_that_is_not_told() -> None:
    api = FakeHip()
    assert runtime_version(api) == (7, 2)
    api.version = 1
    assert runtime_version(api) == (0, 0)
    for version in (0, -1):
        api.version = version
        assert runtime_version(api) is None
    api = FakeHip()
    api.fail("hipRuntimeGetVersion", 1, 1)
    assert runtime_version(api) is None
    assert runtime_version(SimpleNamespace()) is None


def test_functions_of_a_library_have_the_signatures_of_its_header(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, pointer, number = gpus(tmp_path / "own", "libother.so", 1), ctypes.c_void_p, ctypes.c_int
    none = gpus(tmp_path / "none", "libnone.so", 0)
    with caplog.at_level(logging.INFO):
        api: Any = load_hip([none, none, own])
    assert [record.getMessage() for record in caplog.records] == [
        f"{none} is passed over: it shows no GPU, and {own} does"
    ]
    for function, types in (
        (api.hipMalloc, (pointer, ctypes.c_size_t)),
        (api.hipMemcpyAsync, (pointer, pointer, ctypes.c_size_t, number, pointer)),
        (api.hipModuleGetFunction, (pointer, pointer, ctypes.c_char_p)),
        (api.hipModuleLaunchKernel, (pointer, *(ctypes.c_uint,) * 7, pointer, pointer, pointer)),
        (api.hipRuntimeGetVersion, (pointer,)),
    ):
        assert (function.argtypes, function.restype) == (types, number), function.__name__
    for function in (api.hipGetErrorName, api.hipGetErrorString):
        assert (function.argtypes, function.restype) == ((number,), ctypes.c_char_p)
    assert api.hipGetErrorString(5) == b"text"


@pytest.mark.parametrize(("lacks", "words"), [(3, ""), (4, " and others")])
def test_a_library_that_lacks_many_functions(tmp_path: Path, lacks: int, words: str) -> None:
    path = library(tmp_path, "lacks.so", list(_ARGUMENTS)[lacks:])
    first = ", ".join(list(_ARGUMENTS)[:3])
    assert f"{path} lacks {first}{words}: ROCm 5.7 or newer is needed" in refused(path)


def debian() -> HipApi:
    """Debian's libamdhip64-5, or a skip."""
    try:
        ctypes.CDLL(DEBIAN)
    except OSError:
        pytest.skip(f"{DEBIAN} is not installed (apt-get install libamdhip64-5)")
    return load_hip([DEBIAN])


def test_F71_real_library_has_every_function_and_names_errors() -> None:
    api = debian()
    with pytest.raises(HipError, match="hipErrorOutOfMemory"):
        check(api, 2, "test")


@pytest.mark.skipif(bool(installed_arches()), reason="this machine has an AMD GPU")
def test_F71_real_library_without_a_gpu_is_one_clear_line() -> None:
    api = debian()
    with pytest.raises(DeviceError, match="no AMD GPU can be used: hipErrorNoDevice") as caught:
        find_devices(api)
    assert caught.value.exit_code == 4
    assert str(caught.value).isprintable()


def test_F71_real_library_in_a_process_of_its_own() -> None:
    """What it prints by itself must not drown the line, and it must not end the process."""
    debian()
    code = (
        "from rocmforge.runtime.device.hip.api import load_hip\n"
        "from rocmforge.runtime.device.hip.select import find_devices\n"
        "try: find_devices(load_hip())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") <= 1
    assert done.stderr == ""
