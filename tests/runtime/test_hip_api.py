"""The library: where it is looked for, and what is said where there is none or a wrong one."""

from __future__ import annotations

import ctypes
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.hip import HIP_SONAMES as SONAMES
from rocmforge.artifacts.hip import installed_arches
from rocmforge.compiler.host_toolchain import find_host_toolchain
from rocmforge.compiler.target import CodeVariant
from rocmforge.runtime.hip_api import _ARGUMENTS, HipApi, HipError, check, library_paths, load_hip
from rocmforge.runtime.hip_device import find_devices
from rocmforge.tools.emulator import HipEmulator

from .fake_hip import FakeHip

DEBIAN = "libamdhip64.so.5"
EXPORT = '__attribute__((visibility("default")))'


def library(folder: Path, name: str, functions: list[str]) -> str:
    """A shared object whose functions return 7."""
    source = folder / "hip.c"
    source.write_text("".join(f"{EXPORT} int {function}(void) {{ return 7; }}\n" for function in functions))
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


def test_looks_where_it_was_told_first_and_for_newer_names_first() -> None:
    paths = library_paths({"ROCM_PATH": "/x"})
    assert paths[:4] == [f"/x/lib/{name}" for name in SONAMES]
    assert paths[4:8] == list(SONAMES)
    assert paths[8:] == [f"/opt/rocm/lib/{name}" for name in SONAMES]
    assert library_paths({}) == paths[4:]
    assert [name[-1] for name in SONAMES] == ["7", "6", "5", "o"]


def test_F71_no_library(tmp_path: Path) -> None:
    message = refused(str(tmp_path / SONAMES[0]))
    assert "libamdhip64.so.6" in message
    assert "ROCm 5.7 or newer" in message


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
    assert {name for name in vars(HipApi) if name.startswith("hip")} == set(_ARGUMENTS)


def test_errors_carry_hips_own_name() -> None:
    check(FakeHip(), 0, "nothing")
    with pytest.raises(HipError, match=r"^upload: hipErrorLaunchFailure \(unspecified launch failure\)$") as caught:
        check(FakeHip(), 719, "upload")
    assert (caught.value.code, caught.value.name) == (719, "hipErrorLaunchFailure")


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
        "from rocmforge.runtime.hip_api import load_hip; from rocmforge.runtime.hip_device import find_devices\n"
        "try: find_devices(load_hip())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") <= 1
    assert done.stderr == ""
