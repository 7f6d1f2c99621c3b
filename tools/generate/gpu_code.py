"""Builds the GPU kernels of real model shapes for every arch, without any weights, and lists what they take.

python -m rocmforge.tools.generate.gpu_code [--shape llama-8b] [--type Q4_K] [--arch gfx1100] [--kv-type q8_0]
Exits 1 where a kernel spills registers or takes scratch memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import click

from rocmforge.artifacts.cache_dir import default_cache_dir
from rocmforge.artifacts.code_object import CodeObjectFacts, KernelResources, read_code_object
from rocmforge.artifacts.formats import FORMATS
from rocmforge.artifacts.layout import KV_DTYPES
from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.build import build_variants, find_toolchain, render_sources
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Graph, Weight
from rocmforge.compiler.lower import make_plan
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.passes import run_passes
from rocmforge.compiler.position_tables import RopeScaling
from rocmforge.compiler.target import TARGETS, Target

GPUS: tuple[Target, ...] = tuple(target for target in TARGETS.values() if target.backend == "hip")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model of the llama family; fields as in `ModelConfig`."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_seq_len: int


SHAPES = {
    "smollm2-135m": ModelShape(576, 1536, 9, 3, 64, 49152, 8192),
    "llama-1b": ModelShape(2048, 8192, 32, 8, 64, 128256, 32768),
    "llama-8b": ModelShape(4096, 14336, 32, 8, 128, 128256, 32768),
}


def fitting_types(shape: ModelShape) -> tuple[str, ...]:
    """Weight types whose blocks divide the rows of the shape."""
    sizes = (shape.hidden_size, shape.intermediate_size)
    return tuple(row.name for row in FORMATS.values() if all(size % row.columns == 0 for size in sizes))


def shape_graph(shape: ModelShape, weight_type: str) -> Graph:
    """The graph of one layer with all its weights of one type: layers are alike, so their kernels are."""
    config = ModelConfig(
        architecture="llama",
        name="shape",
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_layers=1,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        max_seq_len=shape.max_seq_len,
        rope_theta=500000.0,
        norm_epsilon=1e-5,
        rope_style="interleaved",
        rope_dim=shape.head_dim,
        rope_scaling=RopeScaling(),
        tie_word_embeddings=False,
    )
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    matrices = {
        "token_embedding": (shape.vocab_size, hidden),
        "output": (shape.vocab_size, hidden),
        "layers.0.attention_q": (query, hidden),
        "layers.0.attention_k": (key, hidden),
        "layers.0.attention_v": (key, hidden),
        "layers.0.attention_output": (hidden, query),
        "layers.0.ffn_gate": (inner, hidden),
        "layers.0.ffn_up": (inner, hidden),
        "layers.0.ffn_down": (hidden, inner),
    }
    weights = {name: Weight(name, size, weight_type) for name, size in matrices.items()}
    for name in ("layers.0.attention_norm", "layers.0.ffn_norm", "output_norm"):
        weights[name] = Weight(name, (hidden,), "F32")
    weights["rope_table"] = Weight("rope_table", (shape.max_seq_len, shape.head_dim), "F32")
    return run_passes(build_graph(config, weights))


def build_shape(
    shape: ModelShape, weight_type: str, target: Target, cache: BuildCache, jobs: int, kv_dtype: str = "f16"
) -> CodeObjectFacts:
    """Build all kernels of a shape for one arch.

    Raises:
        ToolchainError: a kernel does not compile.
    """
    plan = make_plan(shape_graph(shape, weight_type), target, shape.max_seq_len, kv_dtype=kv_dtype)
    sources = render_sources(plan, target)
    toolchain = find_toolchain("clang", target)
    (code,) = build_variants(sources, target, toolchain, cache, lambda _done, _total: None, jobs)
    return read_code_object(code.data)


def wasteful(facts: CodeObjectFacts) -> tuple[KernelResources, ...]:
    """Kernels that spill registers or take scratch memory."""
    return tuple(kernel for kernel in facts.kernels if kernel.spills or kernel.scratch_bytes)


def _chosen(
    shapes: tuple[str, ...], types: tuple[str, ...], arches: tuple[str, ...]
) -> Iterator[tuple[str, str, Target]]:
    for name in shapes or SHAPES:
        for kind in fitting_types(SHAPES[name]):
            for target in GPUS:
                if (not types or kind in types) and (not arches or target.arch in arches):
                    yield name, kind, target


@click.command()
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="[default: all]")
@click.option("--type", "types", multiple=True, type=click.Choice(tuple(FORMATS)), help="[default: all]")
@click.option("--arch", "arches", multiple=True, type=click.Choice([t.arch for t in GPUS]), help="[default: all]")
@click.option("--kv-type", "kv_dtype", type=click.Choice(KV_DTYPES), default="f16", show_default=True)
@click.option("--jobs", default=2, show_default=True)
def main(shapes: tuple[str, ...], types: tuple[str, ...], arches: tuple[str, ...], kv_dtype: str, jobs: int) -> None:
    """Build and list."""
    cache, bad, count = BuildCache(default_cache_dir()), 0, 0
    for name, kind, target in _chosen(shapes, types, arches):
        facts = build_shape(SHAPES[name], kind, target, cache, jobs, kv_dtype)
        most = max(facts.kernels, key=lambda kernel: kernel.vgprs)
        click.echo(
            f"{name} {kind} {target.arch}: {len(facts.kernels)} kernels, at most {most.vgprs} VGPRs ({most.name})"
        )
        for kernel in wasteful(facts):
            click.echo(f"  {kernel.name}: {kernel.spills} spills, {kernel.scratch_bytes} B scratch")
            bad += 1
        count += len(facts.kernels)
    click.echo(f"{count} kernels built, {bad} of them spill or take scratch memory")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
