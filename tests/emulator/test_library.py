"""How the emulator's own C is built: once for its sources, flags and machine; and what is said where it cannot be."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace

import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.tools.emulator import library

ADD = '#include "more.h"\n__attribute__((visibility("default"))) int add(int a, int b) { return a + b + MORE; }\n'
AVX2, AVX512 = ("avx2", "fma", "f16c", "bmi2"), ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rocmforge" / "emulator"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "add.c").write_text(ADD)
    (folder / "more.h").write_text("#define MORE 100\n")
    return folder


class Compiler:
    """Stands for the compiler and the linker: remembers commands, and writes what they are to write."""

    def __init__(self, code: int = 0, said: bytes = b"") -> None:
        self.commands: list[list[str]] = []
        self.code, self.said = code, said

    def __call__(
        self, command: list[str], *, stdin: int, capture_output: bool, timeout: float, check: bool
    ) -> SimpleNamespace:
        assert (stdin, capture_output, check) == (subprocess.DEVNULL, True, False)
        assert timeout == 300
        self.commands.append(command)
        Path(command[command.index("-o") + 1]).write_bytes(b"made")
        return SimpleNamespace(returncode=self.code, stderr=self.said)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setattr(subprocess, "run", found)
    return found


def compile_add(folder: Path, *flags: str) -> Path:
    return library.build_shared("add", folder, ["add.c"], ["-O1", "-fPIC", "-ffreestanding", *flags])


def test_c_is_built_and_its_functions_are_called(cache: Path, sources: Path) -> None:
    built = compile_add(sources)
    assert (built.parent, built.suffix) == (cache, ".so")
    assert ctypes.CDLL(str(built)).add(20, 3) == 123
    assert list(cache.iterdir()) == [built]  # nothing else is left


def test_the_headers_of_the_c_library_are_there_where_they_are_asked_for(cache: Path, sources: Path) -> None:
    (sources / "add.c").write_text(
        "#include <stdlib.h>\n#include <string.h>\n#include <linux/ioctl.h>\n"
        'int size(void) { return (int)strlen("four") + (int)sizeof(size_t) + _IOC_NRBITS; }\n'
    )
    flags = ["-O1", "-fPIC", "-fno-builtin"]
    assert library.build_shared("size", sources, ["add.c"], flags, libc=True).parent == cache
    with pytest.raises(ToolchainError, match=r"its own C does not compile: .*'stdlib.h' file not found"):
        library.build_shared("size", sources, ["add.c"], [*flags, "-nostdinc"])


@pytest.mark.usefixtures("cache")
def test_what_is_built_is_not_built_again(sources: Path, compiler: Compiler) -> None:
    built = compile_add(sources)
    assert built.read_bytes() == b"made"
    assert len(compiler.commands) == 2  # one file, and the linker
    assert compile_add(sources) == built
    assert len(compiler.commands) == 2


@pytest.mark.usefixtures("cache", "compiler")
def test_anything_that_decides_what_is_built_names_it(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = [compile_add(sources), compile_add(sources, "-DX")]
    (sources / "more.h").write_text("#define MORE 101\n")
    built.append(compile_add(sources))
    (sources / "more.h").rename(sources / "less.h")
    built.append(compile_add(sources))
    (sources / "two.c").write_text("")
    built.append(compile_add(sources))
    built.append(library.build_shared("add", sources, ["add.c", "two.c"], ["-O1", "-fPIC", "-ffreestanding"]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "uname", lambda: SimpleNamespace(machine="aarch64"))
        built.append(compile_add(sources))
    monkeypatch.setattr(metadata, "version", lambda _: "0.0.1")
    built.append(compile_add(sources))
    assert len(set(built)) == len(built)


def commands(cache: Path, sources: Path, compiler: Compiler, libc: bool) -> Sequence[list[str]]:
    (sources / "two.c").write_text("")
    compiler.commands.clear()
    library.build_shared(f"x{libc}", sources, ["add.c", "two.c"], ["-DA", "-DB"], libc=libc)
    assert cache.is_dir()
    return compiler.commands


@pytest.mark.parametrize(("machine", "family"), [("x86_64", "x86"), ("aarch64", "aarch64")])
def test_commands(
    cache: Path, sources: Path, compiler: Compiler, machine: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = util.find_spec("ziglang")
    assert spec is not None
    assert spec.submodule_search_locations
    root = spec.submodule_search_locations[0]
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    front = [f"{root}/zig", "clang", "-target", f"{machine}-linux-gnu", "-isystem", f"{root}/lib/include", "-DA", "-DB"]
    headers = ["-nostdinc"]
    for name in (f"{family}-linux-gnu", "generic-glibc", f"{family}-linux-any", "any-linux-any"):
        headers += ["-isystem", f"{root}/lib/libc/include/{name}"]
    for libc in (False, True):
        *compiled, linked = commands(cache, sources, compiler, libc)
        folder = Path(linked[-1]).parent
        assert folder.parent == cache
        assert sorted(compiled) == [
            [*front, *(headers if libc else []), "-c", f"{sources}/{name}", "-o", f"{folder}/{name}.o"]
            for name in ("add.c", "two.c")
        ]
        objects = [f"{folder}/add.c.o", f"{folder}/two.c.o"]
        back = [f"{root}/zig", "ld.lld", "-shared", "--build-id=none", "-z", "noexecstack"]
        assert linked == [*back, *objects, "-o", f"{folder}/shared.so"]


@pytest.mark.parametrize("processors", [None, 1, 5])
def test_files_are_compiled_on_all_processors(
    cache: Path, sources: Path, compiler: Compiler, processors: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, pool = [], ThreadPoolExecutor

    def executor(max_workers: int) -> object:
        made.append(max_workers)
        return pool(max_workers)

    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setattr(library, "ThreadPoolExecutor", executor)
    commands(cache, sources, compiler, libc=False)
    assert made == [processors or 1]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"a.c:1: note: x\na.c:1: error: no such thing\na.c:2: error: more\n", "a.c:1: error: no such thing"),
        (b"killed\n", "no message"),
        (b"error: \xff\x1b[1m" + b"y" * 1000, "error: "),
    ],
)
def test_c_that_does_not_compile(
    sources: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, words: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", Compiler(1, said))
    with pytest.raises(ToolchainError) as caught:
        compile_add(sources)
    text = str(caught.value)
    assert text.startswith(f"emulator: its own C does not compile: {words}")
    assert words in ("error: ", text.removeprefix("emulator: its own C does not compile: "))
    assert "\x1b" not in text
    assert len(text) < 500
    assert not list((tmp_path / "cache").rglob("*.so"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("error", [OSError("Exec format error"), subprocess.TimeoutExpired("zig", 300)])
def test_a_compiler_that_cannot_be_run(sources: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ToolchainError, match=r"emulator: /.*/zig cannot be run: ") as caught:
        compile_add(sources)
    assert str(caught.value).endswith(str(error))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("found", [None, SimpleNamespace(submodule_search_locations=None)])
def test_a_compiler_that_is_not_installed(sources: Path, monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    monkeypatch.setattr(util, "find_spec", lambda _: found)
    with pytest.raises(ToolchainError, match=r"needs the Python package ziglang: pip install ziglang==0\.17\.0"):
        compile_add(sources)


def test_where_what_is_built_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert library.cache_folder() == Path("/some/where/rocmforge/emulator")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert library.cache_folder() == tmp_path / ".cache" / "rocmforge" / "emulator"


LEVEL_4 = ["-march=x86-64-v4", "-mprefer-vector-width=512"]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ((*AVX2, *AVX512), LEVEL_4),
        (AVX512, LEVEL_4),
        (AVX2, ["-march=x86-64-v3"]),
        ((), []),
        (None, []),
        *(((*AVX2, *(f for f in AVX512 if f != left_out)), ["-march=x86-64-v3"]) for left_out in AVX512),
        *((tuple(f for f in AVX2 if f != left_out), []) for left_out in AVX2),
    ],
)
def test_waves_are_built_for_what_the_processor_can(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...] | None, expected: list[str]
) -> None:
    usual = Path.read_text

    def read_text(path: Path, **options: str) -> str:
        if path != Path("/proc/cpuinfo"):
            return usual(path, **options)
        assert options == {"encoding": "utf-8", "errors": "replace"}
        if features is None:
            raise FileNotFoundError
        return f"flags : {' '.join(features)}\n"

    monkeypatch.setattr(Path, "read_text", read_text)
    assert library.build(32).name.startswith("wave32-")
    *compiled, linked = compiler.commands
    names = {Path(command[command.index("-c") + 1]).name for command in compiled}
    assert names == {path.name for path in library.NATIVE.glob("*.c")}
    assert len([word for word in linked if word.endswith(".o")]) == len(names)
    for command in compiled:
        flags = command[command.index("-c") - len(expected) - 1 : command.index("-c")]
        assert flags == [*expected, "-DW=32"]
        assert len([flag for flag in command if flag.startswith("-m")]) == len(expected)
        # What bits depend on, and what stays out of the way of other libraries.
        for flag in ("-ffp-contract=off", "-fvisibility=hidden", "-ffreestanding", "-fPIC", "-std=gnu11", "-O2"):
            assert flag in command
        assert command[command.index("-Xclang") + 1] == "-ffloat16-excess-precision=none"


def test_structures_that_disagree_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    good = library.load(32)
    assert good is library.load(32)
    assert (good.wave_size, library.load(64).wave_size) == (32, 64)
    built = library.build(64)
    monkeypatch.setattr(library, "build", lambda _: built)
    with pytest.raises(ToolchainError, match=r"structures\.py \(.*\) and wave\.h \(.*, 64\]\) disagree"):
        library.load.__wrapped__(32)


def test_handlers_are_numbered_as_the_native_table_has_them() -> None:
    found = library.load(32)
    assert sorted(index for index, _ in found.handlers.values()) == list(range(len(found.handlers)))
    for name, (index, types) in found.handlers.items():
        entry = found.handle.emulator_entry(index).contents
        assert (entry.name.decode(), tuple(entry.types.decode().split())) == (name, types)
