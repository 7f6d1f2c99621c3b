"""The commands of toolchains, to the letter: flags are in the manifest and in every cache key."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.artifacts.errors import ToolchainError, UsageError
from rocmforge.compiler import build, hip_toolchain, host_toolchain, toolchain
from rocmforge.compiler.hip_toolchain import HipToolchain, find_hip_toolchain, find_hipcc, hipcc_path
from rocmforge.compiler.host_toolchain import HostToolchain, find_host_toolchain
from rocmforge.compiler.target import TARGETS, CodeVariant

Commands = list[tuple[tuple[str, ...], Path]]
HIP = HipToolchain("hipcc", ("env", "hipcc"), ("ld.lld",), "HIP 6", frozenset({"gfx1100", "gfx906"}))
SOURCE_FLAGS = (
    "-x hip -std=c++17 --offload-device-only -emit-llvm -Xclang -emit-obj -nogpulib -nogpuinc -nostdinc "
    "-fno-exceptions -fno-rtti -ffp-contract=off -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-parameter "
    "-Wno-unused-command-line-argument"
)
HOST_FLAGS = (
    "-std=gnu11 -O3 -fPIC -ffreestanding -fno-builtin-malloc -ffp-contract=off -fvisibility=hidden -fno-ident -g0 "
    "-fno-math-errno -Wall -Wextra"
)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands that were run, and in which folder; none really is."""
    made: Commands = []

    def run(command: tuple[str, ...], folder: Path) -> str:
        made.append((command, folder))
        if "-o" in command:
            Path(folder, command[-1]).write_bytes(b"code")
        return ""

    for module in (hip_toolchain, host_toolchain):
        monkeypatch.setattr(module, "run_compiler", run)
    return made


def test_hip_goes_two_steps(ran: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = CodeVariant("", ("--offload-arch=gfx1100", "-mcode-object-version=4"), (), "code/gfx1100.hsaco")
    HIP.compile(tmp_path / "a.hip", tmp_path / "a.o", Path("/include"), variant)
    flags = f"{SOURCE_FLAGS} -O3 -g0 -fno-ident --offload-arch=gfx1100 -mcode-object-version=4"
    assert HIP.flags(variant) == tuple(flags.split())
    command = f"env hipcc {flags} -cuid=a -I/include -c a.hip -o a.o"
    assert ran == [(tuple(command.split()), tmp_path)]
    ran.clear()
    monkeypatch.setattr(hip_toolchain, "merge_metadata_notes", lambda code: b"merged " + code)
    (tmp_path / "out").mkdir()
    HIP.link([tmp_path / "a.o", tmp_path / "b.o"], tmp_path / "out" / "a.hsaco")
    objects = f"{tmp_path}/a.o {tmp_path}/b.o -o {tmp_path}/out/a.hsaco"
    command = f"ld.lld -shared --build-id=none --strip-debug {objects}"
    assert ran == [(tuple(command.split()), tmp_path / "out")]
    assert (tmp_path / "out" / "a.hsaco").read_bytes() == b"merged code"
    assert HIP.digest == hashlib.sha256(b"hipcc\nHIP 6").hexdigest()


def test_the_host_goes_two(ran: Commands, tmp_path: Path) -> None:
    tool = HostToolchain("cc", ("cc", "-target", "x"), ("cc", "-shared"), "cc 1", ("-Wall",))
    variant = TARGETS["host"].variants[0]
    tool.compile(tmp_path / "a.c", tmp_path / "a.o", Path("/include"), variant)
    tool.link([tmp_path / "a.o", tmp_path / "b.o"], tmp_path / "a.so")
    flags = " ".join(tool.flags(variant))
    compiled = f"cc -target x {flags} -I/include -c {tmp_path}/a.c -o {tmp_path}/a.o"
    linked = f"cc -shared {tmp_path}/a.o {tmp_path}/b.o -o {tmp_path}/a.so"
    assert ran == [(tuple(text.split()), tmp_path) for text in (compiled, linked)]
    assert tool.digest == hashlib.sha256(b"cc\ncc 1").hexdigest()


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "said, flags",
    [
        ("fake clang version 9", "-Werror -Wno-unused-function -Wno-unused-parameter"),
        ("gcc 12", "-Wno-unused-function -Wno-unused-parameter -Wno-psabi"),
    ],
)
def test_a_compiler_of_the_host(said: str, flags: str, tmp_path: Path) -> None:
    path = str(script(tmp_path / "mycc", f"echo '{said}'; echo more"))
    tool = find_host_toolchain(path)
    assert (tool.name, tool.compiler, tool.version) == (path, (path,), said)
    assert tool.linker == (path, "-shared", "-nostdlib", "-Wl,--build-id=none", "-Wl,-z,noexecstack")
    assert tool.flags(TARGETS["host"].variants[2]) == tuple(f"{HOST_FLAGS} {flags} -march=x86-64-v3".split())


def test_the_wheels_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_toolchain, "ziglang_folder", lambda: Path("/zig"))
    monkeypatch.setattr(host_toolchain, "ziglang_version", lambda: "ziglang 1")
    for name in ("auto", "zig"):
        tool = find_host_toolchain(name)
        assert (tool.name, tool.version) == ("zig", "ziglang 1")
        compiler = "/zig/zig clang -target x86_64-linux-gnu -isystem /zig/lib/include"
        assert tool.compiler == tuple(compiler.split())
        assert tool.linker == ("/zig/zig", "ld.lld", "-shared", "--build-id=none", "-z", "noexecstack")
        flags = "-Werror -Wno-unused-function -Wno-unused-parameter"
        assert tool.flags(TARGETS["host"].variants[-1]) == tuple(f"{HOST_FLAGS} {flags}".split())


def test_compilers_run_without_what_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    cc = script(tmp_path / "cc", 'env > "$1"; pwd >> "$1"; cat >> "$1"')
    toolchain.run_compiler((str(cc), "out"), tmp_path)
    lines = (tmp_path / "out").read_text().splitlines()
    kept = {line for line in lines if not line.startswith(("PWD=", "_=", "SHLVL=", "OLDPWD="))}
    assert kept == {f"PATH={os.environ['PATH']}", "LC_ALL=C", f"TMPDIR={tmp_path}", str(tmp_path)}


def test_the_line_with_the_error_is_told(tmp_path: Path) -> None:
    cc = script(
        tmp_path / "cc", "echo 'in file a:'; echo first >&2; echo 'x: error: no' >&2; echo 'error: 2' >&2; exit 7"
    )
    with pytest.raises(ToolchainError) as caught:
        toolchain.run_compiler((str(cc),), tmp_path)
    assert str(caught.value) == "cc failed (7): x: error: no"


@pytest.fixture
def rocm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No hipcc anywhere but where a test puts one; the folder of ROCm."""
    for name in ("HIPCC", "ROCM_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr("rocmforge.compiler.hip_toolchain.shutil.which", lambda name: which(tmp_path / "bin" / name))
    return tmp_path / "rocm"


def which(path: Path) -> str | None:
    return str(path) if path.exists() else None


def test_where_hipcc_is_looked_for(rocm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hipcc_path() is None
    with pytest.raises(ToolchainError) as caught:
        find_hipcc()
    assert str(caught.value).startswith("hipcc: not found by HIPCC, ROCM_PATH or PATH: ")
    on_path = script(tmp_path / "bin" / "hipcc", "exit 0")
    assert hipcc_path() == on_path
    monkeypatch.setenv("ROCM_PATH", str(rocm))
    assert hipcc_path() == on_path  # there is none in it yet
    of_rocm = script(rocm / "bin" / "hipcc", "exit 0")
    assert hipcc_path() == of_rocm
    monkeypatch.setenv("HIPCC", "/elsewhere/hipcc")
    assert hipcc_path() == Path("/elsewhere/hipcc")


@pytest.mark.parametrize(
    "said, called",
    [
        ('hipcc-cmd: "/my clang" -a "b c" {unit}', ("/my clang", "-a", "b c")),
        ("warning: x\nhipcc-cmd: /clang {unit}\n", ("/clang",)),
        ("hipcc-cmd: /clang {unit} -more", None),
        ("hipcc-cmd: {unit}", None),
        ("hipcc-cmd: 'half", None),
        ("", None),
    ],
)
def test_what_hipcc_calls_is_asked_for_once(said: str, called: tuple[str, ...] | None, tmp_path: Path) -> None:
    """Where it says nothing of use it is called each time; other flags are another question."""
    ran = tmp_path / "ran"
    other = script(tmp_path / "other", f'echo "other $*" >>{ran}; for last; do :; done; echo code >"$last"')
    spoken = said.replace("/my clang", str(other)).replace("/clang", str(other))
    unit = "-cuid=$3 -I/include -c a.hip -o a.o"
    text = f"cat <<EOF\n{spoken.replace('{unit}', unit)}\nEOF"
    hipcc = script(tmp_path / "hipcc", f"echo hipcc >>{ran}; set -- a b a\n{text}\necho code >a.o")
    tool = HipToolchain("hipcc", (str(hipcc),), (), "HIP 6", frozenset({"gfx1100", "gfx906"}), (hipcc, other))
    for arch in ("gfx1100", "gfx1100", "gfx906"):
        variant = CodeVariant("", (f"--offload-arch={arch}",), (), f"code/{arch}.hsaco")
        tool.compile(tmp_path / "a.hip", tmp_path / "a.o", Path("/include"), variant)
    first, second, third = ran.read_text().splitlines()
    assert (first, third) == ("hipcc", "hipcc")
    given = " ".join((*(called or ("",))[1:], "-cuid=a -I/include -c a.hip -o a.o"))
    assert second == (f"other {given}" if called else "hipcc")


def test_a_clang_that_is_not_hipccs_own_is_not_called(tmp_path: Path) -> None:
    """As of a hipcc in a container: its clang has the path of another one here, or of none."""
    ran = tmp_path / "ran"
    own = script(tmp_path / "own", "exit 0")
    for other in (script(tmp_path / "other", f"echo other >>{ran}; echo code >a.o"), tmp_path / "none"):
        said = f"hipcc-cmd: {other} -cuid=a -I/include -c a.hip -o a.o"
        hipcc = script(tmp_path / "hipcc", f"echo hipcc >>{ran}; echo '{said}'; echo code >a.o")
        tool = HipToolchain("hipcc", (str(hipcc),), (), "HIP 6", frozenset({"gfx1100"}), (hipcc, own))
        for _ in range(2):
            variant = CodeVariant("", ("--offload-arch=gfx1100",), (), "code/gfx1100.hsaco")
            tool.compile(tmp_path / "a.hip", tmp_path / "a.o", Path("/include"), variant)
    assert ran.read_text().split() == ["hipcc"] * 4


def fake_hipcc(folder: Path, name: str = "clang-17") -> Path:
    script(folder / "llvm" / name, "echo Available CPUs:; echo; printf '\\tgfx906\\n  gfx11-generic\\n gfx1 x\\n'")
    script(folder / "llvm" / "ld.lld", "exit 0")
    said = f"HIP version: 6.1\nAMD clang version 17.0.6 (x)\nTarget: y\nInstalledDir: {folder}/llvm"
    return script(folder / "hipcc", f"cat <<'EOF'\n{said}\nEOF\n[ \"$HIP_PLATFORM$1\" = amd--version ]")


@pytest.mark.parametrize("name", ["clang-17", "clang"])
def test_hipcc_names_its_clang(name: str, rocm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_hipcc(rocm, name)
    monkeypatch.setenv("HIPCC", str(path))
    found = find_hipcc()
    assert found.hip == ("/usr/bin/env", "HIP_PLATFORM=amd", "HIPCC_VERBOSE=1", str(path))
    assert found.linker == (f"{rocm}/llvm/ld.lld",)
    assert found.programs == tuple(rocm / one for one in ("hipcc", f"llvm/{name}", "llvm/ld.lld"))
    assert found.version == "HIP version: 6.1; AMD clang version 17.0.6 (x)"
    assert found.arches == {"gfx906", "gfx11-generic"}
    (rocm / "llvm" / "ld.lld").unlink()
    if not Path("/usr/lib/llvm-17/bin").exists():
        with pytest.raises(ToolchainError) as caught:
            find_hipcc()
        missing = f"{rocm}/llvm/ld.lld-17"
        assert str(caught.value) == f"{path}: its ld.lld-17 is not found; looked for {missing} and others"


@pytest.mark.parametrize("text, problem", [("exit 3", "failed (3)"), (None, "cannot be run: ")])
def test_a_hipcc_that_does_not_run(text: str | None, problem: str, rocm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rocm / "hipcc" if text is None else script(rocm / "hipcc", text)
    monkeypatch.setenv("HIPCC", str(path))
    with pytest.raises(ToolchainError) as caught:
        find_hipcc()
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


CLANG = HipToolchain("clang", ("zig",), ("zig",), "zig 1", frozenset({"gfx1201", "gfx906"}))


def test_which_toolchain_builds_an_arch(rocm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[bool] = [True]

    def hipcc() -> HipToolchain:
        if there[0]:
            return HIP
        raise ToolchainError("broken")

    monkeypatch.setattr(hip_toolchain, "find_hipcc", hipcc)
    monkeypatch.setattr(hip_toolchain, "find_clang", lambda: CLANG)
    assert find_hip_toolchain("auto", "gfx906") is CLANG  # no hipcc is to be found
    monkeypatch.setenv("HIPCC", "/hipcc")
    assert find_hip_toolchain("auto", "gfx906") is find_hip_toolchain("hipcc", "gfx1100") is HIP
    assert find_hip_toolchain("auto", "gfx1201") is find_hip_toolchain("clang", "gfx906") is CLANG
    for name, arch, known in (("hipcc", "gfx1201", "gfx906, gfx1100"), ("auto", "gfx942", "gfx906, gfx1201")):
        with pytest.raises(ToolchainError) as caught:
            find_hip_toolchain(name, arch)
        tool = HIP if name == "hipcc" else CLANG
        text = f"--arch {arch}: unknown to {tool.name} ({tool.version}), which knows: {known}"
        assert str(caught.value) == text
    there[0] = False
    assert find_hip_toolchain("auto", "gfx906") is CLANG
    with pytest.raises(ToolchainError, match=r"^broken$"):
        find_hip_toolchain("hipcc", "gfx906")


def test_names_of_toolchains(monkeypatch: pytest.MonkeyPatch) -> None:
    host, gpu = TARGETS["host"], TARGETS["gfx1100"]
    asked: list[Any] = []
    native = [False]

    def find(name: str) -> object:
        asked.append(name)
        return SimpleNamespace(native=native[0])

    monkeypatch.setattr(build, "find_host_toolchain", find)
    monkeypatch.setattr(build, "find_hip_toolchain", lambda *names: asked.append(names))
    for on_path in (None, "/usr/bin/clang"):
        monkeypatch.setattr("rocmforge.compiler.build.shutil.which", lambda _name, on_path=on_path: on_path)
        for name in ("auto", "zig", "hipcc", "clang", "gcc"):
            build.find_toolchain(name, host)
    assert asked == ["auto", "zig", "auto", "auto", "gcc", "auto", "zig", "auto", "clang", "gcc"]
    other = TARGETS["aarch64" if os.uname().machine == "x86_64" else "host"]
    assert build.find_toolchain("zig", other) is not None
    native[0] = True
    with pytest.raises(ToolchainError) as caught:
        build.find_toolchain("gcc", other)
    text = f"--toolchain gcc: builds for this machine's CPU alone; for {other.arch} expected auto or zig"
    assert str(caught.value) == text
    asked.clear()
    for name in ("auto", "zig", "hipcc", "clang"):
        build.find_toolchain(name, gpu)
    assert asked == [(name, "gfx1100") for name in ("auto", "clang", "hipcc", "clang")]
    with pytest.raises(UsageError) as refused:
        build.find_toolchain("gcc", gpu)
    assert str(refused.value) == "--toolchain gcc: cannot build gfx1100; expected auto, clang or hipcc"
