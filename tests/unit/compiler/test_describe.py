"""What a bundle says of itself: identity, memory and costs, reckoned by hand for a small model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gguf
import pytest

from rocmforge.artifacts.abi import HIP_ABI_VERSION, HOST_ABI_VERSION
from rocmforge.artifacts.arguments import TensorRef
from rocmforge.artifacts.code_object import KernelResources
from rocmforge.artifacts.layout import LaunchEntry, Layout, StateEntry, TensorEntry
from rocmforge.artifacts.manifest import TENSOR_COUNT
from rocmforge.artifacts.manifest_entries import TargetEntry
from rocmforge.compiler import build, describe
from rocmforge.compiler.describe import gpu_resources, identity, kernel_row, memory_contract, readme, target_entry
from rocmforge.compiler.host_toolchain import HostToolchain
from rocmforge.compiler.lower import make_plan
from rocmforge.compiler.model import CompileOptions, Model, read_model
from rocmforge.compiler.occupancy import waves_per_simd
from rocmforge.compiler.plan import KernelSpec
from rocmforge.compiler.progress import PlainProgress
from rocmforge.compiler.stages import Lowered, make_layout
from rocmforge.compiler.target import GOLDEN_TOLERANCE, TARGETS
from rocmforge.compiler.weights import FileSink, write_weights
from rocmforge.tools.generate.fixtures import write_model

TOOLCHAIN = HostToolchain("zig", ("cc",), ("ld",), "zig 1", ("-Wall",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One layer, 64 wide, of Q4_1 but for F16 values; a context of 100."""
    path = write_model(tmp_path_factory.mktemp("model") / "m.gguf", num_layers=1, types={"attn_v": "F16"})
    return read_model(CompileOptions(path, path, max_context=100), PlainProgress())


def layout_of(model: Model, arch: str, folder: Path) -> tuple[Lowered, Layout]:
    target = TARGETS[arch]
    plan = make_plan(model.graph, target, model.max_seq_len)
    made = Lowered(target, TOOLCHAIN, plan, ())
    with FileSink(folder / "weights.bin") as sink:
        entries = write_weights(plan.tensors, model.gguf, model.config, 100, sink, lambda _done: None)
    return made, make_layout(made, model, entries)


def test_who_the_model_is(model: Model) -> None:
    found = identity(model.gguf, model.config, model.weights)
    reader = gguf.GGUFReader(model.gguf.path)
    assert found.name == "fixture"
    assert found.architecture == "llama"
    assert found.source_sha256 == hashlib.sha256(model.gguf.path.read_bytes()).hexdigest()
    assert found.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert (found.quantization, found.context_length) == ("Q4_1", 256)
    assert found.metadata[TENSOR_COUNT] == len(reader.tensors) == 11
    scalars = {key for key, value in model.gguf.metadata.items() if isinstance(value, str | int | float | bool)}
    kept = {key for key in scalars if not key.startswith("tokenizer.")}
    assert kept < scalars < set(model.gguf.metadata)
    assert {key: found.metadata[key] for key in kept} == {key: model.gguf.metadata[key] for key in kept}
    assert set(found.metadata) == kept | {TENSOR_COUNT}
    nameless = dataclasses.replace(model.config, name="")
    assert identity(model.gguf, nameless, model.weights).name == "m"


def test_most_of_the_bytes_name_the_quantization(tmp_path: Path) -> None:
    """Not most of the tensors: the embedding is as large as all else."""
    path = write_model(tmp_path / "m.gguf", num_layers=1, quantization_output="F32")
    model = read_model(CompileOptions(path, path), PlainProgress())
    assert identity(model.gguf, model.config, model.weights).quantization == "F32"


@pytest.mark.parametrize("arch", ["host", "gfx942"])
def test_the_row_of_a_target(arch: str) -> None:
    target, is_host = TARGETS[arch], arch == "host"
    variant = target.variants[-1] if is_host else target.variants[0]
    assert target_entry(target, build.CodeObject(variant, b""), TOOLCHAIN, "layout-x") == TargetEntry(
        arch=arch,
        backend="host" if is_host else "hip",
        level="portable" if is_host else "",
        file="code/host-portable.so" if is_host else "code/gfx942.hsaco",
        layout="layout-x",
        entry="rfc_program_step" if is_host else "",
        toolchain="zig",
        toolchain_version="zig 1",
        flags=TOOLCHAIN.flags(variant),
        abi=HOST_ABI_VERSION if is_host else HIP_ABI_VERSION,
        determinism="batch-invariant",
        golden_tolerance=GOLDEN_TOLERANCE,
    )


def test_the_memory_that_serving_takes(model: Model, tmp_path: Path) -> None:
    _, layout = layout_of(model, "host", tmp_path)
    rows = {"token": 320, "q+k": 64 + 32, "output": 64, "down": 64 * 2, "gate+up": 2 * 128}
    q4_1 = sum(rows.values()) * 64 // 32 * 20
    floats = 32 * 64 * 2 + 3 * 64 * 4 + 100 * 16 * 4
    per_block = 2 * 2 * 2 * 16 * 16  # keys and values, of two bytes, two heads of 16, 16 positions
    assert memory_contract(layout) == {
        "weights_bytes": q4_1 + floats,
        "arena_bytes": layout.arena_bytes(),
        "kv_bytes_per_block": per_block,
        "kv_block_tokens": 16,
        "kv_bytes_per_full_context": per_block * 7,  # 100 positions: six blocks and a bit
    }
    stateful = dataclasses.replace(layout, states=(StateEntry("a", 64), StateEntry("b", 128)))
    assert memory_contract(stateful) == {**memory_contract(layout), "state_bytes_per_slot": 192}


def rows_of(made: Lowered, layout: Layout) -> Iterator[tuple[str, dict[str, object]]]:
    for spec in made.plan.kernels:
        row = kernel_row(spec, made.plan, layout)
        assert (row["symbol"], row["template"], row["parameters"]) == (
            spec.symbol,
            spec.template,
            dict(spec.parameters),
        )
        yield spec.template, row


def costs(row: dict[str, object]) -> tuple[object, object, object]:
    return row["launches_per_step"], row["weight_bytes_per_step"], row["operations_per_token"]


def test_a_token_costs_the_experts_that_it_goes_to() -> None:
    spec = KernelSpec("expert_matmul", (("experts", 8), ("used", 2)))
    tensor = TensorEntry("stack", "rows16", (8 * 32, 64), 0, 8 * 32 * 64)
    plan = SimpleNamespace(launches=[LaunchEntry(spec.symbol, (TensorRef("stack"),))])
    layout = SimpleNamespace(tensors=(tensor,), vocab_size=100)
    assert costs(kernel_row(spec, cast(Any, plan), cast(Any, layout))) == (1, 2 * 32 * 64, 2 * 2 * 32 * 64)


def test_what_a_token_costs_on_the_host(model: Model, tmp_path: Path) -> None:
    found = dict[str, list[tuple[object, object, object]]]()
    for template, row in rows_of(*layout_of(model, "host", tmp_path)):
        found.setdefault(template, []).append(costs(row))
    assert found["embedding"] == [(1, 64 // 32 * 20, 0)]
    assert found["norm"] == 3 * [(1, 64 * 4, 2 * 64)]
    assert found["gate_up"] == [(1, 256 * 2 * 20, 2 * 256 * 64)]
    assert found["rope_kv"] == found["attention"] == found["sample"] == [(1, 0, 0)]
    products = {
        (1, 96 * 2 * 20, 2 * 96 * 64),
        (1, 32 * 64 * 2, 2 * 32 * 64),
        (1, 64 * 2 * 20, 2 * 64 * 64),
        (1, 64 * 4 * 20, 2 * 64 * 128),
        (1, 320 * 2 * 20, 2 * 320 * 64),
    }
    assert set(found["matmul"]) == products


def test_kernels_for_many_tokens_cost_one_token_nothing(model: Model, tmp_path: Path) -> None:
    for template, row in rows_of(*layout_of(model, "gfx1100", tmp_path)):
        many = template in {"gemm", "attention_tiled"}
        tokens = dict(row["parameters"]).get("tokens", 1)  # type: ignore[call-overload]
        assert (row["launches_per_step"] == 0) == (many or tokens > 1), row
        assert bool(row["operations_per_token"]) == ((template == "gemv" and tokens == 1) or template == "norm")


def test_what_a_gpus_kernels_take(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {field.name: index + 40 for index, field in enumerate(dataclasses.fields(KernelResources))}
    kernel = KernelResources(**{**given, "name": "norm_1"})  # type: ignore[arg-type]
    monkeypatch.setattr(describe, "read_code_object", lambda code: SimpleNamespace(kernels=[kernel], code=code))
    assert gpu_resources("gfx1100", b"code") == {
        "norm_1": {
            "arch": "gfx1100",
            **{name: given[name] for name in ("vgprs", "sgprs", "spills", "scratch_bytes", "lds_bytes")},
            "threads": given["max_threads"],
            "waves_per_simd": waves_per_simd(kernel, "gfx1100"),
        }
    }


def test_the_readme(model: Model) -> None:
    text = readme(model.config, [TARGETS["gfx1100"], TARGETS["host"]])
    assert text.startswith(
        "# fixture\n\nA ROCmForge bundle for `gfx1100`, `host`. Serve it with\n\n    rfc serve .\n\n"
    )
    assert text.endswith("`rfc verify .` checks\nall of it and replays the golden records.\n")
