"""What `rfc inspect` says of a GGUF: every fact, by hand."""

from __future__ import annotations

from pathlib import Path

import gguf

from rocmforge.compiler.inspect import format_facts, inspect_gguf
from rocmforge.tools.generate.fixtures import write_model


def test_the_facts_of_a_model(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", num_layers=3, types={"ffn_down": "Q8_0"}, context_length=100)
    # Elements by type: Q4_1 takes 20 bytes for 32 of them, Q8_0 34.
    matrices = 320 * 64 + 3 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 2 * 128 * 64)
    n_bytes = matrices // 32 * 20 + 3 * 64 * 128 // 32 * 34 + 7 * 64 * 4
    facts = inspect_gguf(path)
    assert facts == {
        "file": str(path),
        "gguf_version": 3,
        "architecture": "llama",
        "name": "fixture",
        "layers": 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "heads": "4 query, 2 key/value, of 16",
        "vocabulary": 320,
        "context": 100,
        "tensors": "7 F32, 19 Q4_1, 3 Q8_0",
        "unused_tensors": [],
        "weight_bytes": n_bytes,
        "packed_weight_bytes": n_bytes,
        "weight_bytes_by_type": (
            f"F32 {7 * 64 * 4:,} in the file and {7 * 64 * 4:,} packed; "
            f"Q4_1 {matrices // 32 * 20:,} in the file and {matrices // 32 * 20:,} packed; "
            f"Q8_0 {3 * 64 * 128 // 32 * 34:,} in the file and {3 * 64 * 128 // 32 * 34:,} packed"
        ),
        "kv_bytes_per_token": 2 * 2 * 3 * 2 * 16,  # keys and values, of two bytes
        "kv_bytes_full_context": 2 * 2 * 3 * 2 * 16 * 100,
    }
    assert list(format_facts({"gguf_version": 3, "weight_bytes": 1234567, "name": "x"})) == [
        "gguf version  3",
        "weight bytes  1,234,567",
        "name          x",
    ]


def test_what_a_bundle_holds_of_weights_is_told(tmp_path: Path) -> None:
    """A superblock of IQ2_S is 82 bytes in the file and 106 packed, of Q4_K 144 and 148; rows come in tiles of 16."""
    path = write_model(tmp_path / "m.gguf", quantization="Q4_K", types={"token_embd": "IQ2_S"}, vocab_size=330)
    facts = inspect_gguf(path)
    superblocks = 2 * (2 * 256 + 2 * 128 + 3 * 512)  # attention's, of a layer, and the feed-forward's
    rows = {"F32": (5 * 1024, 5 * 1024), "IQ2_S": (330 * 82, 336 * 106), "Q4_K": (superblocks * 144, superblocks * 148)}
    assert facts["packed_weight_bytes"] == sum(packed for _, packed in rows.values())
    assert facts["weight_bytes_by_type"] == "; ".join(
        f"{kind} {in_file:,} in the file and {packed:,} packed" for kind, (in_file, packed) in rows.items()
    )


def test_the_facts_of_an_architecture_that_cannot_be_compiled(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", "rwkv7")
    assert inspect_gguf(path) == {
        "file": str(path),
        "gguf_version": 3,
        "architecture": "rwkv7, which cannot be compiled (see docs/architectures.md)",
        "name": "fixture",
        "tensors": "5 F32, 15 Q4_1",
        "weight_bytes": sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors),
        "vocabulary": 320,
        "merges": 61,
    }


def test_a_file_with_no_tensors_and_no_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    facts = inspect_gguf(tmp_path / "bare.gguf")
    found = (facts["name"], facts["tensors"], facts["weight_bytes"], facts["vocabulary"], facts["merges"])
    assert found == ("bare", "none", 0, 0, 0)
