"""Sources to code objects: every kernel compiled once for each ISA level, through the cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .build_cache import BuildCache, cache_key
from .plan import Plan
from .render import Source, kernel_headers, render_kernel, render_program
from .target import CodeVariant, Target
from .toolchain import Toolchain


@dataclass(frozen=True, slots=True)
class CodeObject:
    """One shared object of a bundle."""

    variant: CodeVariant
    file: str
    data: bytes


def render_sources(plan: Plan, target: Target) -> tuple[Source, ...]:
    """All translation units of a plan, the driver last."""
    kernels = tuple(render_kernel(target.backend, spec) for spec in plan.kernels)
    return (*kernels, render_program(target.backend))


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
    total = len(sources) * len(target.variants)
    done = 0
    with tempfile.TemporaryDirectory(prefix="rocmforge-") as folder:
        include = Path(folder, "include")
        include.mkdir()
        for name, text in headers.items():
            (include / name).write_text(text, "utf-8")

        def compile_one(job: tuple[CodeVariant, Source]) -> bytes:
            variant, source = job
            key = cache_key(header_key, source.text, toolchain.digest, *toolchain.flags(variant))
            with cache.lock(key):
                found = cache.get("object", key)
                if found is None:
                    unit = Path(folder, variant.level, source.name)
                    unit.parent.mkdir(exist_ok=True)
                    unit.write_text(source.text, "utf-8")
                    toolchain.compile(unit, unit.with_suffix(".o"), include, variant)
                    found = unit.with_suffix(".o").read_bytes()
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
            _link(variant, sources, objects[i * size : (i + 1) * size], target, toolchain, Path(folder))
            for i, variant in enumerate(target.variants)
        )


def _link(
    variant: CodeVariant,
    sources: tuple[Source, ...],
    objects: list[bytes],
    target: Target,
    toolchain: Toolchain,
    folder: Path,
) -> CodeObject:
    paths = []
    for source, data in zip(sources, objects, strict=True):
        path = folder / f"{variant.level}-{source.name}.o"
        path.write_bytes(data)
        paths.append(path)
    output = folder / f"{variant.level}.so"
    toolchain.link(paths, output)
    return CodeObject(variant, f"code/{target.arch}-{variant.level}.so", output.read_bytes())
