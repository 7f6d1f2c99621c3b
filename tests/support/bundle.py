"""A small bundle: its manifest, layout, weights, and the folder of them all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
from pathlib import Path

from rocmforge.artifacts.arguments import BufferRef, KvRef, TensorRef
from rocmforge.artifacts.layout import BufferEntry, FinalNorm, GridEntry, KvLayout, LaunchEntry, Layout, TensorEntry
from rocmforge.artifacts.layout_file import encode_layout
from rocmforge.artifacts.manifest import Manifest, ModelIdentity
from rocmforge.artifacts.manifest_entries import FileEntry, TargetEntry
from rocmforge.artifacts.writer import BundleWriter

SHA = hashlib.sha256(b"").hexdigest()
TARGET = TargetEntry(
    "host",
    "host",
    "x86_64_v4",
    "code/host.so",
    "layout.msgpack",
    "rf_step",
    "clang",
    "22.1",
    ("-O3",),
    1,
    "bitwise",
    0.0,
)
MANIFEST = Manifest(
    model=ModelIdentity("Tiny", "llama", SHA, 1000, "Q8_0", 128, {"general.license": "mit", "x": 1.5}),
    targets=(TARGET,),
    tokenizer={"kind": "bpe", "bos": 1, "stop": [1, 2]},
    memory={"host": {"weights": 2304}},
    kernels=({"symbol": "embed", "bytes": 4},),
    golden=({"prompt": [1, 2], "logits": [0.5, -1.25]},),
    generator="0.1.0",
    options={"arch": ["host"]},
    files={
        name: FileEntry(0, SHA)
        for name in ("layout.msgpack", "weights.bin", "code/host.so", "src/embed.c", "tokenizer.json")
    },
)
LAYOUT = Layout(
    tensors=(
        TensorEntry("token_embd", "rows16_q8_0", (64, 32), 0, 2176),
        TensorEntry("norm", "f32", (32,), 2176, 128),
    ),
    buffers=(BufferEntry("hidden", "float32", 32, 0), BufferEntry("scratch", "int8", 0, 10)),
    launches=(
        LaunchEntry("embed_q8_0", (TensorRef("token_embd"), BufferRef("hidden"), None)),
        LaunchEntry(
            "attention",
            (BufferRef("hidden"), KvRef(1, "key"), KvRef(1, "value")),
            GridEntry(128, 3, "tokens", 4, 256, 2, 8),
        ),
    ),
    kv=KvLayout(num_layers=2, num_kv_heads=3, head_dim=64, block_size=16, dtype="f16"),
    max_batch_tokens=8,
    max_sequences=4,
    vocab_size=64,
    hidden_size=32,
    max_seq_len=128,
    final_norm=FinalNorm("hidden", "norm", 1e-5),
)
LAYOUT_DATA = encode_layout(LAYOUT)
WEIGHTS = bytes(range(256)) * 9


def write_bundle(goal: Path, code: bytes = b"\x7fELF code") -> Path:
    with BundleWriter(goal) as writer:
        with writer.open_stream("weights.bin") as stream:
            stream.write(memoryview(WEIGHTS))
        writer.add_bytes("layout.msgpack", LAYOUT_DATA)
        writer.add_bytes("code/host.so", code)
        writer.add_bytes("src/embed.c", b"int x;\n")
        writer.add_bytes("tokenizer.json", b"{}")
        writer.finish(MANIFEST)
    return goal


GPU_WEIGHTS = WEIGHTS[::-1] + bytes(64)


def write_both(goal: Path, layout: bytes = LAYOUT_DATA) -> Path:
    """A bundle for the host and for gfx942, each with its own weights; `layout`: the GPU's."""
    gpu = dataclasses.replace(TARGET, arch="gfx942", backend="hip", level="", file="code/gfx942.hsaco")
    targets = (TARGET, dataclasses.replace(gpu, layout="layout-gfx942.msgpack"))
    files = {"weights.bin": WEIGHTS, "weights-hip.bin": GPU_WEIGHTS, "layout.msgpack": LAYOUT_DATA}
    files |= {"layout-gfx942.msgpack": layout, "tokenizer.json": b"{}", "src/embed.c": b"int x;\n"}
    with BundleWriter(goal) as writer:
        for name, data in (files | {target.file: target.arch.encode() for target in targets}).items():
            writer.add_bytes(name, data)
        writer.finish(dataclasses.replace(MANIFEST, targets=targets))
    return goal


def no_exchange(one: Path, other: Path) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def content(model: Path) -> dict[str, bytes]:
    return {str(p.relative_to(model)): p.read_bytes() for p in model.rglob("*") if p.is_file()}


def flip(path: Path, at: int = 3) -> None:
    """Change a bit of a file's byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
