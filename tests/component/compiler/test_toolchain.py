"""C toolchains of the host: bad ones are named in one line, good ones build the same everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import ToolchainError
from rocmforge.compiler import host_toolchain, toolchain
from rocmforge.compiler.build import build_variants, find_toolchain
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.host_toolchain import find_host_toolchain
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.compiler.render import Source
from rocmforge.compiler.target import TARGETS
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.host import choose_variant
from rocmforge.tests.kernels.kernel_harness import LEVELS
from rocmforge.tests.support.programs import building_levels, logits
from rocmforge.tools.generate.fixtures import write_model

HOST = TARGETS["host"]
PORTABLE = replace(HOST, variants=HOST.variants[-1:])
SOURCE = Source("one.c", "int one(void) { return 1; }\n")
VERSION = 'case "$1" in --version) echo "fake cc 1.0"; exit 0;; -print-*) exit 1;; esac\n'

Fake = Callable[[str], str]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes a compiler `fakecc` of a shell script, first on PATH; returns its name."""

    def make(script: str) -> str:
        folder = tmp_path / "bin"
        folder.mkdir()
        path = folder / "fakecc"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return path.name

    return make


def build_with(name: str, folder: Path) -> bytes:
    cache = BuildCache(folder / "cache")
    (code,) = build_variants((SOURCE,), PORTABLE, find_toolchain(name, HOST), cache, lambda _done, _total: None, jobs=1)
    return code.data


def refusal(name: str, folder: Path) -> str:
    with pytest.raises(ToolchainError) as caught:
        build_with(name, folder)
    assert caught.value.exit_code == 4
    message = str(caught.value)
    assert message.isprintable()
    assert not list(folder.glob("cache/object/*/*"))
    return message


def test_F67_missing_compiler(tmp_path: Path) -> None:
    message = refusal("no-such-cc\x1b[2J", tmp_path)
    assert message == r"--toolchain no-such-cc\x1b[2J: not found on PATH (zig needs nothing but pip)"


def test_F67_ziglang_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocmforge.compiler.toolchain.util.find_spec", lambda _name: None)
    message = refusal("auto", tmp_path)
    assert message == "the Python package ziglang is not installed: pip install ziglang==0.17.0"


@pytest.mark.parametrize(
    "script, expected",
    [
        ("exit 1", "fakecc: --version failed: not a C compiler?"),
        ("exit 0", "fakecc: --version failed: not a C compiler?"),
        (VERSION + "echo 'a.c:1: error: no' >&2; echo more >&2; exit 1", "fakecc failed (1): a.c:1: error: no"),
        (VERSION + "printf 'bad \\033[31m news\\n' >&2; exit 3", r"fakecc failed (3): bad \x1b[31m news"),
        (VERSION + "exit 2", "fakecc failed (2): no message"),
        (VERSION + "kill -9 $$", "fakecc failed (-9): no message"),
        (VERSION + "head -c 3000000 /dev/zero | tr '\\0' e >&2; exit 1", f"fakecc failed (1): {'e' * 400}…"),
        (VERSION + "exit 0", "fakecc: wrote no one.o: No such file or directory"),
    ],
    ids=["F67-version-fails", "F67-version-says-nothing", "F67-error", "F67-escape-codes", "F67-silent", "F67-killed",
         "F67-floods", "F67-writes-nothing"],
)  # fmt: skip
def test_compiler_fails(fake: Fake, script: str, expected: str, tmp_path: Path) -> None:
    message = refusal(fake(script), tmp_path)
    assert message.removeprefix(f"{tmp_path}/bin/") == expected


def test_F67_compiler_hangs(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "COMPILE_TIMEOUT_SECONDS", 0.5)
    message = refusal(fake(f"{VERSION}exec sleep 600"), tmp_path)
    assert message == f"{tmp_path}/bin/fakecc: gave no result within 0.5 s"


def test_F67_compiler_hangs_at_its_version(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_toolchain, "VERSION_TIMEOUT_SECONDS", 0.5)
    message = refusal(fake("exec sleep 600"), tmp_path)
    assert message == f"{tmp_path}/bin/fakecc: --version gave no result within 0.5 s"


def test_F67_compiler_hangs_when_asked_for_its_programs(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked no further: each question would wait as long."""
    monkeypatch.setattr(host_toolchain, "VERSION_TIMEOUT_SECONDS", 0.5)
    asked = tmp_path / "asked"
    name = fake(f'[ "$1" = --version ] && {{ echo fake; exit; }}\necho "$1" >> {asked}\nexec sleep 600')
    assert find_host_toolchain(name).programs == ((tmp_path / "bin" / name).resolve(),)
    assert len(asked.read_text().splitlines()) == 1


def test_F67_compiler_that_cannot_be_run(fake: Fake, tmp_path: Path) -> None:
    name = fake("")
    (tmp_path / "bin" / name).write_bytes(b"\x7fELF nonsense")
    assert refusal(name, tmp_path) == f"{tmp_path}/bin/fakecc: cannot be run: Exec format error"


def test_F67_compiler_that_goes_away(fake: Fake, tmp_path: Path) -> None:
    name = fake('if [ "$1" = --version ]; then echo fake; rm "$0"; exit 0; fi')
    gone = f"{tmp_path}/bin/fakecc: No such file or directory"
    assert refusal(name, tmp_path) == f"fakecc: cannot read its programs: {gone}"


def test_F67_linker_fails(fake: Fake, tmp_path: Path) -> None:
    """The compile of garbage succeeds; what links it does not."""
    script = 'for last; do :; done\n[ "$1" != -shared ] || { echo "ld: error: cannot" >&2; exit 1; }\n: > "$last"\n'
    with pytest.raises(ToolchainError, match=r"^fakecc failed \(1\): ld: error: cannot$"):
        build_with(fake(VERSION + script), tmp_path)


def test_F67_the_command_line_says_it_in_one_line_and_leaves_nothing(fake: Fake, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf")
    name = fake(f"{VERSION}echo 'fatal error: cannot' >&2; exit 1")
    command = [sys.executable, "-m", "rocmforge.cli", "compile", str(model), "-o", str(tmp_path / "out.rfb")]
    command += ["--toolchain", name, "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].endswith("fakecc failed (1): fatal error: cannot")
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name not in {"model.gguf", "bin", "cache"}]


def test_any_compiler_may_be_named_by_its_path(tmp_path: Path) -> None:
    path = shutil.which("cc")
    if path is None:
        pytest.skip("this machine has no cc")
    assert find_host_toolchain(path).name == path


def test_toolchains_differ_in_their_digests(fake: Fake) -> None:
    one = find_host_toolchain("auto")
    other = find_host_toolchain(fake(VERSION))
    assert len({one.digest, other.digest, replace(other, version="fake cc 1.1").digest}) == 3
    assert other.digest == replace(other, compiler=("/elsewhere/fakecc",)).digest  # of what it is, not where
    assert not any("/" in flag for tool in (one, other) for v in HOST.variants for flag in tool.flags(v))


def test_cc_computes_the_same_bits_as_zig(tmp_path: Path, build_cache: BuildCache) -> None:
    """Kernels leave the compiler no choice of rounding: no contraction, each fused operation spelled out."""
    if shutil.which("cc") is None:
        pytest.skip("this machine has no cc")
    model = write_model(tmp_path / "model.gguf", num_layers=1)
    ids = [int(token) for token in np.random.default_rng(1).integers(0, 259, 20)]
    found: dict[str, list[np.ndarray]] = {}
    levels = (LEVELS[0], LEVELS[-1])  # GCC takes long; between them others' tests look for differences of levels
    for name in ("auto", "cc"):
        options = CompileOptions(model, tmp_path / f"{name}.rfb", toolchain=name)
        # At -O3 GCC takes eight times as long for portable code, and no flag may change a bit of the results.
        with building_levels(levels, {"portable": "-O2"} if name == "cc" else {}):
            manifest = compile_model(options, build_cache, PlainProgress(), make_golden)
        assert all(target.toolchain.startswith("zig" if name == "auto" else "cc") for target in manifest.targets)
        with open_bundle(tmp_path / f"{name}.rfb") as bundle:
            found[name] = [logits(bundle, ids, choose_variant(manifest.targets, level).level) for level in levels]
    for one, other in zip(found["auto"], found["cc"], strict=True):
        assert np.array_equal(one, other)


_BUILD = """
import hashlib, json, sys, tempfile
from pathlib import Path
from rocmforge.compiler.build import build_variants, find_toolchain
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.component.compiler.test_templates import rendered
host = TARGETS["host"]
sources = tuple(rendered(name) for name in ("quantize", "attention", "program"))
cache = BuildCache(Path(sys.argv[1]))
code = build_variants(sources, host, find_toolchain("auto", host), cache, lambda done, total: None, 2)
print(json.dumps([tempfile.gettempdir(), *(hashlib.sha256(item.data).hexdigest() for item in code)]))
"""


def test_zig_builds_the_same_bytes_whoever_runs_it_and_wherever(tmp_path: Path) -> None:
    places = {
        "a": {"LC_ALL": "C", "HOME": str(tmp_path)},
        "another/much-longer place ü": {
            "LC_ALL": "de_DE.UTF-8",
            "HOME": "/nonexistent",
            "SOURCE_DATE_EPOCH": "1",
            "CPATH": "/usr/include",
            "USER": "somebody",
            "TZ": "Asia/Tokyo",
        },
    }
    results = []
    for name, changes in places.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, str(folder / "cache")],
            cwd=folder,
            env={**kept, "TMPDIR": str(folder), **changes},
            capture_output=True,
            check=True,
            timeout=120,
        )
        temporary, *digests = json.loads(done.stdout)
        assert temporary == str(folder)
        results.append(digests)
    assert results[0] == results[1]
    assert len(set(results[0])) == len(HOST.variants)
