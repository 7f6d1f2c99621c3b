"""Adapters merged into weights, of llama.cpp's kind and of PEFT's, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rocmforge.artifacts.errors import InputError, UsageError
from rocmforge.compiler import lora
from rocmforge.compiler.changes import Changes, changed_source
from rocmforge.compiler.floats import read_float_rows
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.hugging_face.folder import open_folder
from rocmforge.compiler.lora import LoraFile, parse_lora, read_gguf_adapter
from rocmforge.compiler.model_source import ModelSource
from rocmforge.compiler.sources import open_source
from rocmforge.tests.support.adapters import (
    DOWN,
    EMBEDDING,
    RANK,
    Pairs,
    Q,
    pairs,
    write_gguf_adapter,
    write_peft_adapter,
)
from rocmforge.tests.support.hugging_face import write_folder
from rocmforge.tools.generate.adapters import write_adapter
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.fixtures import write_model


def merged(base: ModelSource, *loras: LoraFile) -> ModelSource:
    return changed_source(base, Changes(loras=loras))[0]


def same_but_for_rounding(found: ModelSource, base: ModelSource, added: list[tuple[Pairs, float]]) -> None:
    """Compare every tensor with what float64 says."""
    for name, info in base.tensors.items():
        weight = read_float_rows(base, name, 0, info.rows).astype(np.float64)
        expected, size = weight.copy(), np.abs(weight)
        for adapter, factor in added:
            if name in adapter:
                a, b = (part.astype(np.float64) for part in adapter[name])
                expected += factor * (b @ a)
                size += abs(factor) * (np.abs(b) @ np.abs(a))
        values = read_float_rows(found, name, 0, info.rows)
        steps = 2 + 2 * RANK * len(added)  # roundings to float32 of what adds up to `size`
        bound = size * steps * 2.0**-24
        kept = {"F16": 2.0**-11, "BF16": 2.0**-8}.get(found.tensors[name].ggml_type.name, 0.0)
        assert (np.abs(values - expected) <= bound * 1.01 + kept * np.abs(expected)).all(), name


def half(adapter: Pairs) -> Pairs:
    """As a GGUF adapter here keeps it: one side is float16."""
    return {
        name: (a.astype(np.float16).astype(np.float32), b)
        if name == EMBEDDING
        else (a, b.astype(np.float16).astype("f4"))
        for name, (a, b) in adapter.items()
    }


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16"])
def test_a_gguf_adapter(tmp_path: Path, quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "ELEMENTS_AT_ONCE", 1000)
    base = read_gguf(write_model(tmp_path / "m.gguf", quantization=quantization))
    adapter = pairs(names=(Q, DOWN, EMBEDDING))
    path = write_gguf_adapter(tmp_path / "a.gguf", adapter)
    found = merged(base, LoraFile(path, 0.5))
    same_but_for_rounding(found, base, [(half(adapter), 0.5 * 8 / RANK)])
    assert {name: info.ggml_type for name, info in found.tensors.items()} == {
        name: info.ggml_type for name, info in base.tensors.items()
    }
    assert np.array_equal(found.read_rows(DOWN, 9, 20), found.read_tensor(DOWN).reshape(64, -1)[9:29])


def test_without_alpha_the_scale_is_the_users_alone(tmp_path: Path) -> None:
    base = read_gguf(write_model(tmp_path / "m.gguf", quantization="F32"))
    path = write_gguf_adapter(tmp_path / "a.gguf", pairs(), None)
    same_but_for_rounding(merged(base, LoraFile(path, -2.0)), base, [(half(pairs()), -2.0)])


def test_several_adapters_add_up_in_their_order(tmp_path: Path) -> None:
    base = read_gguf(write_model(tmp_path / "m.gguf", quantization="F32"))
    first, second = (
        write_gguf_adapter(tmp_path / "1.gguf", pairs(1)),
        write_gguf_adapter(tmp_path / "2.gguf", pairs(2, (DOWN,)), None),
    )
    found = merged(base, LoraFile(first), LoraFile(second, 0.25))
    same_but_for_rounding(found, base, [(half(pairs(1)), 2.0), (half(pairs(2, (DOWN,))), 0.25)])


def test_weights_that_were_quantized_become_f16_where_they_are_merged(tmp_path: Path) -> None:
    base = read_gguf(write_model(tmp_path / "m.gguf", quantization="Q4_1"))
    found = merged(base, LoraFile(write_gguf_adapter(tmp_path / "a.gguf", pairs())))
    same_but_for_rounding(found, base, [(half(pairs()), 2.0)])
    types = {name: info.ggml_type.name for name, info in found.tensors.items() if info.ggml_type.name != "F32"}
    assert {name for name, kind in types.items() if kind == "F16"} == {Q, DOWN}
    both, record = changed_source(base, Changes((LoraFile(tmp_path / "a.gguf"),), "Q4_1"))
    assert both.tensors[Q].ggml_type.name == "Q4_1"
    assert record["quantize"] == "Q4_1"
    assert not np.array_equal(both.read_tensor(Q), base.read_tensor(Q))
    other = "blk.0.attn_k.weight"
    assert np.array_equal(both.read_tensor(other), base.read_tensor(other))


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("of_a_folder", [False, True])
def test_a_peft_adapter_of_either_form_of_a_model(tmp_path: Path, of_a_folder: bool, rslora: bool) -> None:
    model = write_model(tmp_path / "m.gguf", quantization="F32")
    adapter = pairs(names=(Q, DOWN, EMBEDDING))
    folder = write_peft_adapter(tmp_path / "adapter", adapter, use_rslora=rslora)
    base = open_folder(write_folder(tmp_path / "m", model)) if of_a_folder else read_gguf(model)
    factor = 3.0 * 8 / (RANK**0.5 if rslora else RANK)
    same_but_for_rounding(merged(base, LoraFile(folder, 3.0)), base, [(adapter, factor)])


@pytest.mark.parametrize("architecture", ["mistral3", "granitemoe", "granite"])
def test_a_peft_adapter_of_a_model_without_a_row_of_folders(tmp_path: Path, architecture: str) -> None:
    """Rows of its queries stand in GGUF's order all the same."""
    base, adapter = read_gguf(write_architecture(tmp_path / "m.gguf", architecture)), pairs(names=(Q,))
    found = merged(base, LoraFile(write_peft_adapter(tmp_path / "adapter", adapter)))
    same_but_for_rounding(found, base, [(adapter, 2.0)])


def test_a_scale_of_the_matrix_is_not_one_of_the_adapter(tmp_path: Path) -> None:
    """As llama.cpp has it: W x * scale + B A x; and 0 takes no adapter."""
    path, name = write_architecture(tmp_path / "m.gguf", "granite", whole=True), "blk.1.attn_output.weight"
    base = read_gguf(path)
    own = read_float_rows(base, "blk.1.attn_output.scale", 0, 1).reshape(-1)[0]
    assert own != 1
    write_adapter(tmp_path / "a.gguf", path, [name], 4, 4.0, 1)
    added = read_gguf_adapter(tmp_path / "a.gguf", base, 1.0).matrices[name]
    rows = base.tensors[name].rows
    found = own * (read_float_rows(merged(base, LoraFile(tmp_path / "a.gguf")), name, 0, rows).astype(np.float64))
    expected = (
        own * read_float_rows(base, name, 0, rows).astype(np.float64) + added.left.astype(np.float64) @ added.right
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("at_once", [100, 1 << 22])
def test_an_adapter_of_experts(tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each expert's matrix has its own, and a scale of its own that holds for it alone."""
    monkeypatch.setattr(lora, "ELEMENTS_AT_ONCE", at_once)
    base, name = read_gguf(write_architecture(tmp_path / "m.gguf", "olmoe", whole=True)), "blk.1.ffn_down_exps.weight"
    experts, rows, columns = base.tensors[name].shape
    own = read_float_rows(base, "blk.1.ffn_down_exps.scale", 0, 1).reshape(-1)
    assert len(set(own.tolist())) == experts
    random = np.random.default_rng(1)
    a, b = random.normal(0, 0.3, (experts, 3, columns)), random.normal(0, 0.3, (experts, rows, 3)).astype(np.float16)
    path = write_gguf_adapter(tmp_path / "a.gguf", {name: (a.astype(np.float32), b)}, 6.0, architecture="olmoe")
    found = read_float_rows(merged(base, LoraFile(path)), name, 0, experts * rows).reshape(experts, rows, columns)
    weight = read_float_rows(base, name, 0, experts * rows).reshape(found.shape).astype(np.float64)
    scales = own.reshape(-1, 1, 1).astype(np.float64)
    np.testing.assert_allclose(found * scales, weight * scales + 2 * (b.astype(np.float64) @ a), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "a, b, problem",
    [
        ((8, 2, 32), (4, 64, 2), "expected as many matrices of either side, found shapes [8, 2, 32] and [4, 64, 2]"),
        ((4, 2, 32), (4, 64, 2), "expected shape [8, 64, 32], as the model has, found [4, 64, 32]"),
        ((2, 32), (64, 2), "expected shape [8, 64, 32], as the model has, found [64, 32]"),
        ((8, 2, 32), (8, 64, 3), "ranks 3 and 2"),
        ((2, 32), (8, 64, 2), "found shapes [2, 32] and [8, 64, 2]"),
    ],
)
def test_what_is_no_adapter_of_experts(a: tuple[int, ...], b: tuple[int, ...], problem: str, tmp_path: Path) -> None:
    base = read_gguf(write_architecture(tmp_path / "m.gguf", "olmoe"))
    pair = np.ones(a, np.float32), np.ones(b, np.float32)
    path = write_gguf_adapter(tmp_path / "a.gguf", {"blk.1.ffn_down_exps.weight": pair}, architecture="olmoe")
    with pytest.raises(InputError) as caught:
        merged(base, LoraFile(path))
    assert problem in str(caught.value)


def test_both_kinds_merge_to_the_same_bits(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", "qwen3", "BF16")
    adapter = {DOWN: half(pairs())[DOWN]}
    one = merged(read_gguf(model), LoraFile(write_peft_adapter(tmp_path / "peft", adapter)))
    path = write_gguf_adapter(tmp_path / "a.gguf", adapter, architecture="qwen3")
    other = merged(open_source(write_folder(tmp_path / "m", model)), LoraFile(path))
    assert np.array_equal(one.read_tensor(DOWN), other.read_tensor(DOWN))


def test_what_the_user_writes() -> None:
    assert parse_lora("a.gguf") == LoraFile(Path("a.gguf"), 1.0)
    assert parse_lora("a.gguf:0.5") == LoraFile(Path("a.gguf"), 0.5)
    assert parse_lora("C:/x/a.gguf:-2") == LoraFile(Path("C:/x/a.gguf"), -2.0)
    assert parse_lora("odd:name") == LoraFile(Path("odd:name"), 1.0)
    with pytest.raises(UsageError, match="--lora: expected a finite scale, found nan"):
        parse_lora("a.gguf:nan")


def changed(name: str, value: np.ndarray, side: int = 1) -> Pairs:
    found: dict[str, Any] = pairs()
    found[name] = (found[name][0], value) if side else (value, found[name][1])
    return found


GGUF_CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a model": (write_model, "general.type: expected adapter, found nothing"),
    "another kind": (
        lambda path: write_gguf_adapter(path, pairs(), kind_of="dora"),
        "adapter.type: expected lora, found dora",
    ),
    "another base": (
        lambda path: write_gguf_adapter(path, pairs(), architecture="qwen2"),
        "general.architecture: expected llama, found qwen2",
    ),
    "unknown tensor": (
        lambda path: write_gguf_adapter(path, {"blk.7.attn_q.weight": pairs()[Q]}),
        "blk.7.attn_q.weight: expected a tensor of the model, found one that it does not have",
    ),
    "shape": (
        lambda path: write_gguf_adapter(path, changed(Q, np.ones((32, RANK), np.float32))),
        "blk.0.attn_q.weight: expected shape [64, 64], as the model has, found [32, 64], ranks 4 and 4",
    ),
    "ranks": (
        lambda path: write_gguf_adapter(path, changed(Q, np.ones((64, 2), np.float32))),
        "expected shape [64, 64], as the model has, found [64, 64], ranks 2 and 4",
    ),
    "nan": (
        lambda path: write_gguf_adapter(path, changed(DOWN, np.full((64, RANK), np.nan, np.float32))),
        "blk.1.ffn_down.weight: expected finite numbers, found others",
    ),
    "activated": (
        lambda path: write_gguf_adapter(path, pairs(), alora=(1, 2)),
        "adapter.alora.invocation_tokens: expected an adapter of all tokens, found one that begins with some",
    ),
    "alpha": (
        lambda path: write_gguf_adapter(path, pairs(), float("inf")),
        "adapter.lora.alpha: expected a finite number",
    ),
}


@pytest.mark.parametrize("case", GGUF_CASES)
def test_a_gguf_that_does_not_fit_is_refused_in_a_line(tmp_path: Path, case: str) -> None:
    make, problem = GGUF_CASES[case]
    base = read_gguf(write_model(tmp_path / "m.gguf", quantization="F32"))
    make(tmp_path / "a.gguf")
    with pytest.raises(InputError) as caught:
        merged(base, LoraFile(tmp_path / "a.gguf"))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def stored(folder: Path, **tensors: np.ndarray) -> None:
    write_peft_adapter(folder, {})
    save_file({name.replace("__", "."): data for name, data in tensors.items()}, folder / "adapter_model.safetensors")


A, B = np.ones((RANK, 64), np.float32), np.ones((64, RANK), np.float32)
PEFT_CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: None, "file: expected a readable file, found: No such file"),
    "no configuration": (lambda folder: folder.mkdir(), "adapter_config.json: file: expected a file of JSON"),
    "kind": (
        lambda folder: write_peft_adapter(folder, pairs(), peft_type="IA3"),
        "expected LORA, found IA3",
    ),
    "dora": (
        lambda folder: write_peft_adapter(folder, pairs(), use_dora=True),
        "use_dora: expected False, found",
    ),
    "activated": (
        lambda folder: write_peft_adapter(folder, pairs(), alora_invocation_tokens=[1]),
        "alora_invocation_tokens: expected None, found another value",
    ),
    "biases": (lambda folder: write_peft_adapter(folder, pairs(), bias="all"), "bias: expected none, found"),
    "no alpha": (lambda folder: write_peft_adapter(folder, pairs(), lora_alpha=None), "lora_alpha: expected a number"),
    "one side": (lambda folder: stored(folder, **{"model__norm__lora_A__weight": A}), "found one alone"),
    "saved module": (lambda folder: stored(folder, lm_head__weight=A), "lm_head.weight: expected lora_A or lora_B"),
    "unknown layer": (
        lambda folder: stored(folder, model__x__lora_A__weight=A, model__x__lora_B__weight=B),
        "expected a layer of the model, found one that it does not have",
    ),
    "no matrix": (
        lambda folder: stored(
            folder,
            **{f"model__layers__0__self_attn__q_proj__lora_{side}__weight": np.ones(4, np.float32) for side in "AB"},
        ),
        "expected a matrix of F32, F16, BF16, found F32 of shape [4]",
    ),
}


@pytest.mark.parametrize("case", PEFT_CASES)
def test_a_folder_that_does_not_fit_is_refused_in_a_line(tmp_path: Path, case: str) -> None:
    make, problem = PEFT_CASES[case]
    base = read_gguf(write_model(tmp_path / "m.gguf", quantization="F32"))
    make(tmp_path / "adapter")
    with pytest.raises(InputError) as caught:
        merged(base, LoraFile(tmp_path / "adapter"))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
