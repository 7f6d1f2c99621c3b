"""A bundle for the fake GPU: every kind of launch, and no kernel that anybody could run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.abi import HIP_ABI_VERSION
from rocmforge.artifacts.arguments import BufferRef, KvRef, StepRef, TensorRef
from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.layout import BufferEntry, FinalNorm, GridEntry, KvLayout, LaunchEntry, Layout, TensorEntry
from rocmforge.artifacts.layout_file import encode_layout
from rocmforge.artifacts.manifest_entries import TargetEntry
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.runtime.device.batch import Batch, RowSampling
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.memory import KvSize
from rocmforge.tests.support.bundle import MANIFEST
from rocmforge.tests.support.fake_hip import FakeHip, code_object

MANY = (1 << 31) - 1
EMBEDDING, NORM, TABLE = (48, 64), (64,), (128, 8)
LAUNCHES = (
    LaunchEntry("step_in", (StepRef("image"),), GridEntry(1024, 1)),
    LaunchEntry("embedding", (TensorRef("embedding"), BufferRef("hidden")), GridEntry(128, 1, "tokens")),
    LaunchEntry("gemv_2", (TensorRef("norm"), None, BufferRef("hidden")), GridEntry(64, 5, "tokens", 2, 0, 1, 2)),
    LaunchEntry("gemv_6", (TensorRef("norm"), None, BufferRef("hidden")), GridEntry(64, 5, "tokens", 6, 0, 3, 6)),
    LaunchEntry("gemm", (TensorRef("norm"), None, BufferRef("hidden")), GridEntry(128, 3, "tokens", 16, 0, 7, MANY)),
    LaunchEntry("rope", (TensorRef("table"), KvRef(1, "key"), KvRef(1, "value")), GridEntry(32, 4, "tokens")),
    LaunchEntry("split", (KvRef(0, "key"), KvRef(0, "value")), GridEntry(32, 2, "tokens", 1, 32, 1, 4)),
    LaunchEntry("tiled", (KvRef(0, "key"), KvRef(0, "value")), GridEntry(32, 2, "tokens", 8, 0, 5, MANY)),
    LaunchEntry("once", (), GridEntry(256, 7)),
    LaunchEntry("norm", (BufferRef("hidden"),), GridEntry(256, 1, "logits")),
    LaunchEntry("output", (BufferRef("hidden"), BufferRef("logits")), GridEntry(64, 1, "logits")),
    LaunchEntry("step_echo", (StepRef("echo"),), GridEntry(64, 1)),
    LaunchEntry("sample", (BufferRef("logits"),), GridEntry(512, 1, "logits")),
)
LAYOUT = Layout(
    tensors=(
        TensorEntry("embedding", "f32", EMBEDDING, 0, 4 * 48 * 64),
        TensorEntry("norm", "f32", NORM, 16384, 256),
        TensorEntry("table", "rope_table", TABLE, 20480, 4096),
    ),
    buffers=(BufferEntry("hidden", "float32", 64, 3), BufferEntry("logits", "float32", 0, 8 * 48)),
    launches=LAUNCHES,
    kv=KvLayout(num_layers=2, num_kv_heads=1, head_dim=8, block_size=16, dtype="f16"),
    max_batch_tokens=32,
    max_sequences=8,
    vocab_size=48,
    hidden_size=64,
    max_seq_len=128,
    final_norm=FinalNorm("hidden", "norm", 0.25),
)
WEIGHTS = np.random.default_rng(1).integers(0, 256, 25000, np.uint8).tobytes()


def target(arch: str) -> TargetEntry:
    """A row of the manifest."""
    return TargetEntry(
        arch=arch,
        backend="hip",
        level="",
        file=f"code/{arch}.hsaco",
        layout="layout.msgpack",
        entry="",
        toolchain="clang",
        toolchain_version="22",
        flags=(),
        abi=HIP_ABI_VERSION,
        determinism="bitwise",
        golden_tolerance=0.5,
    )


def hip_bundle(
    folder: Path,
    *arches: str,
    code: bytes | None = None,
    code_of_host: bytes = b"",
    layout: Layout = LAYOUT,
    targets: Sequence[TargetEntry] | None = None,
    golden: tuple[Mapping[str, object], ...] = (),
    kernels: tuple[Mapping[str, object], ...] = MANIFEST.kernels,
) -> Bundle:
    """A bundle with code for `arches` (gfx1100); `code`: instead of what belongs there; `golden`, `kernels`: rows."""
    rows = tuple(targets or [target(arch) for arch in arches or ("gfx1100",)])
    with BundleWriter(folder / "model.rfb") as writer:
        writer.add_bytes("layout.msgpack", encode_layout(layout))
        with writer.open_stream("weights.bin") as stream:
            stream.write(WEIGHTS)
        for row in rows:
            own = code_of_host if row.backend == "host" else code_object(row.arch)
            writer.add_bytes(row.file, own if code is None else code)
        writer.finish(dataclasses.replace(MANIFEST, targets=rows, golden=golden, kernels=kernels, files={}))
    return open_bundle(folder / "model.rfb")


BLOCKS = 20
KV = KvSize(BLOCKS, 128)


def load(bundle: Bundle, api: FakeHip, kv: KvSize = KV) -> HipProgram:
    return load_hip_program(bundle, api, kv, nodes=None)


def batch(*contexts: int, new: int = 1, rows: list[RowSampling] | None = None) -> Batch:
    """A sequence for each context; its last `new` tokens are computed, the very last has a row of logits."""
    count = len(contexts)
    return Batch(
        token_ids=np.arange(100, 100 + count * new, dtype=np.int32),
        positions=np.concatenate([np.arange(c - new, c, dtype=np.int32) for c in contexts]),
        rows=np.repeat(np.arange(count, dtype=np.int32), new),
        block_table=np.zeros((count, 8), np.int32),
        logits_rows=np.arange(new - 1, count * new, new, dtype=np.int32),
        sampling=rows or [RowSampling()] * count,
    )


GPU_0 = "GPU 0 (gfx1100, AMD Radeon RX 7900 XTX)"


def refused(api: FakeHip, act: Callable[[], object]) -> str:
    """The one line with which it fails."""
    with pytest.raises(DeviceError) as caught:
        act()
    assert caught.value.exit_code == 4
    assert str(caught.value).isprintable()
    return str(caught.value)
