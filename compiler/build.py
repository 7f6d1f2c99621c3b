"""Builds sources to code objects: every kernel compiled once for each ISA level, through the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import ToolchainError, UsageError, printable
from ..artifacts.host import host_arch
from .build_cache import BuildCache, cache_key
from .build_inputs import programs_digest
from .guarded_folder import guarded_folder
from .hip_toolchain import find_hip_toolchain
from .host_toolchain import find_host_toolchain
from .plan import Plan
from .render import Source, kernel_headers, render_kernel, render_program
from .target import CodeVariant, Target
from .toolchain import Toolchain


@dataclass(frozen=True, slots=True)
class CodeObject:
    """One code object of a bundle."""

    variant: CodeVariant
    data: bytes


def find_toolchain(name: str, target: Target) -> Toolchain:
    """Return the toolchain called `name` for a target.

    `auto` and `zig` are the pinned wheel's clang (for a GPU, `auto` prefers a hipcc that knows it). `clang` is the
    wheel's for a GPU; for the host the one on PATH where there is one. `hipcc` leaves the host its default.

    Raises:
        ToolchainError: it is not there, or cannot build the target. UsageError: it is a C compiler, and no GPU's.
    """
    if target.backend == "host":
        is_default = name == "hipcc" or (name == "clang" and shutil.which(name) is None)
        toolchain = find_host_toolchain("auto" if is_default else name)
        if toolchain.native and target.arch != host_arch():
            raise ToolchainError(
                f"--toolchain {printable(name)}: builds for this machine's CPU alone; for {target.arch} expected auto "
                "or zig"
            )
        return toolchain
    if name not in {"auto", "zig", "clang", "hipcc"}:
        raise UsageError(f"--toolchain {printable(name)}: cannot build {target.arch}; expected auto, clang or hipcc")
    return find_hip_toolchain({"zig": "clang"}.get(name, name), target.arch)


def render_sources(plan: Plan, target: Target) -> tuple[Source, ...]:
    """Return all translation units of a plan; on the host the driver last."""
    kernels = tuple(render_kernel(target.backend, spec) for spec in plan.kernels)
    return (*kernels, render_program()) if target.backend == "host" else kernels


def build_variants(
    sources: tuple[Source, ...],
    target: Target,
    toolchain: Toolchain,
    cache: BuildCache,
    progress: Callable[[int, int], None],
    jobs: int,
) -> tuple[CodeObject, ...]:
    """Build one code object a variant.

    Args:
        sources: from `render_sources`.
        progress: called with (units done, units in all).
        jobs: compilers run at once.
    Raises:
        ToolchainError: a unit does not compile.
    """
    headers = kernel_headers(target.backend)
    header_key = cache_key(*(part for item in sorted(headers.items()) for part in item))
    programs = programs_digest(toolchain, cache)
    total = len(sources) * len(target.variants)
    done = 0
    with guarded_folder("rocmforge-") as folder:
        include = _Include(folder / "include", headers)

        def compile_one(job: tuple[CodeVariant, Source]) -> bytes:
            variant, source = job
            if variant.plain_flags is not None and not source.panels:
                variant = replace(variant, flags=variant.plain_flags)
            key = cache_key(header_key, source.text, toolchain.digest, programs, *toolchain.flags(variant))
            with cache.lock(key):
                found = cache.get("object", key)
                if found is None:
                    unit = folder / Path(variant.file).stem / source.name
                    unit.parent.mkdir(exist_ok=True)
                    unit.write_text(source.text, "utf-8")
                    toolchain.compile(unit, unit.with_suffix(".o"), include.written(), variant)
                    found = _read_output(unit.with_suffix(".o"), toolchain)
                    cache.put("object", key, found)
            return found

        jobs_list = [(variant, source) for variant in target.variants for source in sources]
        objects: list[bytes] = []
        with ThreadPoolExecutor(jobs) as pool:
            for data in pool.map(compile_one, jobs_list):
                objects.append(data)
                done += 1
                progress(done, total)
        size = len(sources)
        return tuple(
            _link(variant, sources, objects[i * size : (i + 1) * size], toolchain, folder)
            for i, variant in enumerate(target.variants)
        )


class _Include:
    """The folder of headers, written when the first unit is compiled: where all objects are known none is."""

    def __init__(self, folder: Path, headers: Mapping[str, str]) -> None:
        self._folder, self._headers, self._lock = folder, headers, Lock()

    def written(self) -> Path:
        with self._lock:
            if not self._folder.exists():
                self._folder.mkdir()
                for name, text in self._headers.items():
                    (self._folder / name).write_text(text, "utf-8")
        return self._folder


def _link(
    variant: CodeVariant,
    sources: tuple[Source, ...],
    objects: list[bytes],
    toolchain: Toolchain,
    folder: Path,
) -> CodeObject:
    paths = []
    for source, data in zip(sources, objects, strict=True):
        path = folder / f"{Path(variant.file).stem}-{source.name}.o"
        path.write_bytes(data)
        paths.append(path)
    output = folder / Path(variant.file).name
    toolchain.link(paths, output)
    return CodeObject(variant, _read_output(output, toolchain))


def _read_output(path: Path, toolchain: Toolchain) -> bytes:
    """Read what a compiler that claims success must have written."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ToolchainError(f"{printable(toolchain.name)}: wrote no {path.name}: {error.strerror}") from None
