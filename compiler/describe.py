"""What a bundle says of itself: identity, targets, memory contract, kernel table, README."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..artifacts.abi import HIP_ABI_VERSION, HOST_ABI_VERSION
from ..artifacts.arguments import Argument, TensorRef
from ..artifacts.code_object import read_code_object
from ..artifacts.errors import InputError, printable
from ..artifacts.layout import Layout, TensorEntry
from ..artifacts.manifest import RERANK_TEMPLATE, TENSOR_COUNT, ModelIdentity
from ..artifacts.manifest_entries import TargetEntry
from .build import CodeObject
from .graph import Weight
from .model_config import ModelConfig
from .model_source import ModelSource
from .occupancy import waves_per_simd
from .plan import KernelSpec, Plan
from .position_tables import PACKINGS
from .target import Target
from .toolchain import Toolchain

_PIECE_BYTES = 1 << 20


def identity(gguf: ModelSource, config: ModelConfig, weights: Mapping[str, Weight]) -> ModelIdentity:
    """Return who the model is, with the digest of its files."""
    metadata = {
        key: value
        for key, value in gguf.metadata.items()
        if isinstance(value, (str, int, float, bool)) and (key == RERANK_TEMPLATE or not key.startswith("tokenizer."))
    }
    metadata[TENSOR_COUNT] = len(gguf.tensors)
    bytes_by_type: dict[str, int] = {}
    for tensor in gguf.tensors.values():
        kind = tensor.ggml_type.name
        bytes_by_type[kind] = bytes_by_type.get(kind, 0) + tensor.n_bytes
    return ModelIdentity(
        name=config.name or printable(gguf.path.stem),
        architecture=config.architecture,
        source_sha256=digest_of(gguf.files()),
        parameters=sum(math.prod(weight.shape) for role, weight in weights.items() if role not in config.tables()),
        quantization=max(bytes_by_type, key=lambda kind: bytes_by_type[kind]),
        context_length=config.max_seq_len,
        metadata=metadata,
    )


def digest_of(files: Sequence[Path]) -> str:
    """Return the hex SHA-256 of files' bytes, one file after another.

    Raises:
        InputError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb", buffering=0) as file:
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
        except OSError as error:
            raise InputError(path, "file", f"expected a readable file, found: {error.strerror}") from None
    return digest.hexdigest()


def target_entry(
    target: Target, item: CodeObject, toolchain: Toolchain, layout_name: str, tolerance: float = 0.0
) -> TargetEntry:
    """Return the manifest's row of one code object; `tolerance` is what the model needs, where the target has less."""
    is_host = target.backend == "host"
    return TargetEntry(
        arch=target.arch,
        backend=target.backend,
        level=item.variant.level,
        file=item.variant.file,
        layout=layout_name,
        entry="rfc_program_step" if is_host else "",
        toolchain=toolchain.name,
        toolchain_version=toolchain.version,
        flags=toolchain.flags(item.variant),
        abi=HOST_ABI_VERSION if is_host else HIP_ABI_VERSION,
        determinism="batch-invariant",
        golden_tolerance=max(target.golden_tolerance, tolerance),
    )


def memory_contract(layout: Layout) -> dict[str, int]:
    """Return the bytes that serving will need on one target, before anything is allocated."""
    per_block = layout.kv.bytes_per_block
    states = {"state_bytes_per_slot": layout.bytes_per_slot} if layout.states else {}
    return {
        "weights_bytes": sum(tensor.n_bytes for tensor in layout.tensors),
        "arena_bytes": layout.arena_bytes(),
        "kv_bytes_per_block": per_block,
        "kv_block_tokens": layout.kv.block_size,
        "kv_bytes_per_full_context": per_block * -(-layout.max_seq_len // layout.kv.block_size),
        **states,
    }


def kernel_row(spec: KernelSpec, plan: Plan, layout: Layout) -> dict[str, object]:
    """Return a row of the kernel table: what it is specialised to, and what a step of one token costs it.

    Kernels for more tokens are not launched then. Bytes are those of the weights, of an embedding one row, of experts
    those that a token goes to; operations are multiplications and additions with weights.
    """
    tensors: dict[Argument, TensorEntry] = {TensorRef(tensor.name): tensor for tensor in layout.tensors}
    launches = [entry for entry in plan.launches if entry.kernel == spec.symbol]
    of_one_token = [entry for entry in launches if entry.grid is None or entry.grid.at_least <= 1]
    read = [tensors[one] for entry in of_one_token for one in entry.arguments if one in tensors]
    weights = [tensor for tensor in read if tensor.packing not in PACKINGS]
    n_bytes = sum(tensor.n_bytes for tensor in weights)
    operations = sum(2 * math.prod(tensor.shape) for tensor in weights)
    if spec.template == "embedding":
        n_bytes, operations = n_bytes // layout.vocab_size, 0
    elif spec.template.startswith("expert") and n_bytes:
        values = dict(spec.parameters)
        used, experts = int(values["used"]), int(values["experts"])
        n_bytes, operations = n_bytes * used // experts, operations * used // experts
    return {
        "symbol": spec.symbol,
        "template": spec.template,
        "parameters": dict(spec.parameters),
        "launches_per_step": len(of_one_token),
        "weight_bytes_per_step": n_bytes,
        "operations_per_token": operations,
    }


def gpu_resources(arch: str, code: bytes) -> dict[str, dict[str, object]]:
    """Return what each kernel takes, by symbol: registers, LDS, spills, and waves that a SIMD holds."""
    return {
        kernel.name: {
            "arch": arch,
            "vgprs": kernel.vgprs,
            "sgprs": kernel.sgprs,
            "spills": kernel.spills,
            "scratch_bytes": kernel.scratch_bytes,
            "lds_bytes": kernel.lds_bytes,
            "threads": kernel.max_threads,
            "waves_per_simd": waves_per_simd(kernel, arch),
        }
        for kernel in read_code_object(code).kernels
    }


def readme(config: ModelConfig, targets: Sequence[Target]) -> str:
    """Return the bundle's README.md."""
    names = ", ".join(f"`{target.arch}`" for target in targets)
    return (
        f"# {config.name}\n\nA ROCmForge bundle for {names}. Serve it with\n\n"
        "    rfc serve .\n\n"
        "`manifest.json` names every file with its digest; `src/` holds the sources of `code/`; `rfc verify .` checks\n"
        "all of it and replays the golden records.\n"
    )
