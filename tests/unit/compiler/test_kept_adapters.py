"""Adapters kept beside the weights: what the graph means with them, how their numbers lie, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.errors import InputError, UsageError
from rocmforge.compiler.changes import Changes
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.kept_adapters import check_names, parse_adapter
from rocmforge.compiler.lora import LoraFile
from rocmforge.compiler.model import CompileOptions, Model, read_model
from rocmforge.compiler.operation import Float64
from rocmforge.compiler.ops.lora_segments import SCALES, Segment, read_segments
from rocmforge.compiler.passes import run_passes
from rocmforge.compiler.progress import Silent
from rocmforge.tests.oracles.graph_interpreter import Interpreter
from rocmforge.tests.support.adapters import (
    DOWN,
    EMBEDDING,
    HEAD,
    OUT,
    RANK,
    UP,
    K,
    Pairs,
    Q,
    pairs,
    write_gguf_adapter,
    write_peft_adapter,
)
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.adapters import ADAPTED, write_adapted
from rocmforge.tools.generate.architecture_oracle.adapters import SCALES as ADAPTED_SCALES
from rocmforge.tools.generate.architecture_oracle.judge import nmse
from rocmforge.tools.generate.architecture_oracle.logits import VECTOR_IDS
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.fixtures import write_model

IDS = [1, 40, 300, 7, 7, 60]
ALL = (Q, K, UP, OUT, DOWN, HEAD)


def write(path: Path, seed: int, names: tuple[str, ...] = ALL, rank: int = RANK, alpha: float | None = 8.0) -> Pairs:
    """Write an adapter whose numbers are float16, so that none is rounded where it is kept."""
    made = {
        name: (a.astype("f2").astype("f4"), b.astype("f2").astype("f4"))
        for name, (a, b) in pairs(seed, names, rank).items()
    }
    write_gguf_adapter(path, made, alpha)
    return made


def read(path: Path, *adapters: str) -> Model:
    changes = Changes(adapters=tuple(map(parse_adapter, adapters)))
    return read_model(CompileOptions(path, path, changes=changes), Silent())


def numbers_of(model: Model, path: Path) -> dict[str, Float64]:
    """Of all weights, the adapters' included."""
    made = {name: array.astype(np.float64) for name, array in model.adapters.made.items()}
    return {**Meaning.of(path, len(IDS)).numbers, **made}


def merged(meaning: Meaning, added: list[tuple[Pairs, float]]) -> dict[str, Float64]:
    """The weights of a llama with adapters merged, in float64."""
    roles = {
        **{Q: "layers.0.attention_q", K: "layers.0.attention_k", UP: "layers.0.ffn_up"},
        **{OUT: "layers.1.attention_output", DOWN: "layers.1.ffn_down", HEAD: "output"},
    }
    numbers = dict(meaning.numbers)
    for adapter, scale in added:
        for name, (a, b) in adapter.items():
            numbers[roles[name]] = numbers[roles[name]] + scale * (b.astype(np.float64) @ a.astype(np.float64))
    return numbers


@pytest.mark.parametrize("scales", [(1.0, 0.0), (0.0, 0.5), (-0.25, 2.0), (0.0, 0.0)])
def test_a_model_with_adapters_means_what_it_means_with_these_merged(
    scales: tuple[float, float], tmp_path: Path
) -> None:
    """float64 sums in another order, and units that are float32 once alpha is no power of two."""
    path = write_model(tmp_path / "m.gguf", quantization="F32", tie=False)
    first = write(tmp_path / "1.gguf", 1)
    second = write(tmp_path / "2.gguf", 2, (DOWN, Q), 6, None)
    model = read(path, f"one={tmp_path / '1.gguf'}", f"two={tmp_path / '2.gguf'}:0.75")
    meaning = Meaning.of(path, len(IDS))
    expected = Interpreter(
        meaning.graph, merged(meaning, [(first, scales[0] * 8 / RANK), (second, scales[1] * 0.75)]), IDS
    ).run()
    numbers = numbers_of(model, path) | {SCALES: np.array(scales)}
    found = Interpreter(model.graph, numbers, IDS).run()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    base = Interpreter(meaning.graph, meaning.numbers, IDS).run()
    assert (np.abs(expected - base).max() > 0.1) == any(scales)


def test_a_products_own_scale_and_rows_of_a_fused_tensor(tmp_path: Path) -> None:
    """Granite's residual scale multiplies what an adapter adds too, a matrix' own scale does not, as llama.cpp has it;
    phi3's file has q, k and v in one tensor.
    """
    ids = [1, 40, 30, 7, 7, 60]
    for name, target in (("granite", "blk.1.attn_output.weight"), ("phi3", "blk.0.attn_qkv.weight")):
        path = write_architecture(tmp_path / f"{name}.gguf", name, whole=True)
        meaning = Meaning.of(path, len(ids))
        model = read_model(CompileOptions(path, path), Silent())
        rows, columns = model.gguf.tensors[target].shape
        random = np.random.default_rng(5)
        a, b = (random.normal(0, 0.3, shape).astype("f2").astype("f4") for shape in ((3, columns), (rows, 3)))
        write_gguf_adapter(tmp_path / "a.gguf", {target: (a, b)}, None, architecture=name)
        model = read(path, f"x={tmp_path / 'a.gguf'}")
        found = Interpreter(model.graph, numbers_of(model, path) | {SCALES: np.ones(1)}, ids).run()
        product, numbers, first = b.astype(np.float64) @ a, dict(meaning.numbers), 0
        roles = ["layers.1.attention_output"] if name == "granite" else [f"layers.0.attention_{one}" for one in "qkv"]
        for role in roles:
            count = len(numbers[role])
            own = numbers.get(f"{role}_scale", np.ones(1))
            numbers[role] = numbers[role] + product[first : first + count] / own
            first += count
        assert first == rows
        expected = Interpreter(meaning.graph, numbers, ids).run()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())  # of float32 units
        base = Interpreter(meaning.graph, meaning.numbers, ids).run()
        assert np.abs(expected - base).max() > 1e-3 * np.abs(base).max()


def test_numbers_are_kept_as_float16_whatever_their_size(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", quantization="F32")
    made = {Q: tuple(part * size for part, size in zip(pairs(3)[Q], (1e-6, 1e9), strict=True))}
    write_gguf_adapter(tmp_path / "a.gguf", {Q: (made[Q][0], made[Q][1] / 1e9)}, 4e9)
    model = read(path, f"x={tmp_path / 'a.gguf'}")
    arrays = {name.rpartition("lora_")[2]: array for name, array in model.adapters.made.items()}
    assert [arrays[name].dtype.name for name in "ab"] == ["float16", "float16"]
    assert arrays["a"].shape == (RANK, 64)
    assert read_segments(arrays["segments"].astype(float)) == [Segment(0, 0, RANK, 0, 64, 0)]
    a, b = made[Q]
    found = arrays["units"][0] * (arrays["b"][:-16].reshape(RANK, 64).T.astype(float) @ arrays["a"].astype(float))
    size = np.abs(b).astype(float) @ np.abs(a)
    assert (np.abs(found - b.astype(float) @ a) <= 1.01 * 3 * 2.0**-11 * size).all()  # A, B, and B in the file
    assert (arrays["b"][-16:] == 0).all()


def test_a_model_without_adapters_is_as_it_was(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    model = read(path)
    assert (model.adapters.names, model.adapters.made, dict(model.changes)) == ((), {}, {})
    assert model.graph.text() == run_passes(Meaning.of(path, 4).graph).text()


def test_what_the_manifest_says(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", quantization="F32")
    write(tmp_path / "a.gguf", 1, (Q,), 2)
    folder = write_peft_adapter(tmp_path / "peft", pairs(2, (DOWN,)))
    record = read(path, f"one={tmp_path / 'a.gguf'}:-2", f"two={folder}").changes["adapters"]
    assert [(one["name"], one["scale"], one["rank"]) for one in record] == [("one", -2.0, 2), ("two", 1.0, RANK)]  # type: ignore[attr-defined]
    assert all(len(one["sha256"]) == 64 for one in record)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["file.gguf", "=file", "a=", "a b=f", "a:b=f", "latest=f", f"{'a' * 65}=f", "-a=f"])
def test_a_name_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--adapter: expected NAME=FILE\[:SCALE\]"):
        parse_adapter(text)


def test_a_scale_that_is_none() -> None:
    assert parse_adapter("a=b=c:0.5").file == LoraFile(Path("b=c"), 0.5)
    with pytest.raises(UsageError, match=r"^--adapter: expected a finite scale, found nan"):
        parse_adapter("a=b:nan")


def test_names_that_are_equal_or_too_many() -> None:
    one = parse_adapter("a=f")
    with pytest.raises(UsageError, match=r"^--adapter: expected each name once, found a twice"):
        check_names([one, parse_adapter("b=g"), one])
    with pytest.raises(UsageError, match=r"^--adapter: expected at most 64, found 65"):
        check_names([replace(one, name=f"a{index}") for index in range(65)])


def refused(tmp_path: Path, adapter: Pairs) -> str:
    path = write_model(tmp_path / "m.gguf", quantization="F32")
    write_gguf_adapter(tmp_path / "a.gguf", adapter)
    with pytest.raises(InputError) as caught:
        read(path, f"x={tmp_path / 'a.gguf'}")
    return str(caught.value).removeprefix(str(tmp_path / "a.gguf: "))


@pytest.mark.parametrize("tie", [False, True])
def test_adapters_of_the_embedding(tie: bool, tmp_path: Path) -> None:
    """Rows of tokens have them, and so have the logits where the embedding gives these too."""
    path = write_model(tmp_path / "m.gguf", quantization="F32", tie=tie)
    made = [write(tmp_path / f"{index}.gguf", index, (EMBEDDING, Q), 3 + index) for index in range(2)]
    model = read(path, f"one={tmp_path / '0.gguf'}:0.5", f"two={tmp_path / '1.gguf'}")
    meaning, numbers = Meaning.of(path, len(IDS)), numbers_of(model, path)
    for scales in ((1.0, 0.0), (-0.5, 2.0), (0.0, 0.0)):
        weights = dict(meaning.numbers)
        for index, scale in enumerate(scales):
            factor = scale * (0.5, 1.0)[index] * 8 / (3 + index)
            for name, role in ((EMBEDDING, "token_embedding"), (Q, "layers.0.attention_q")):
                a, b = made[index][name]
                weights[role] = weights[role] + factor * (b.astype(np.float64) @ a.astype(np.float64))
        expected = Interpreter(meaning.graph, weights, IDS).run()
        found = Interpreter(model.graph, numbers | {SCALES: np.array(scales)}, IDS).run()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())  # of float32 units
        base = Interpreter(meaning.graph, meaning.numbers, IDS).run()
        assert (np.abs(expected - base).max() > 0.1) == any(scales)
    assert [node.op for node in model.graph.nodes[:3]] == ["embedding", "lora_rows", "lora_up"]


def test_adapters_of_experts_are_refused_by_name(tmp_path: Path) -> None:
    path = write_architecture(tmp_path / "m.gguf", "qwen3moe")
    name = "blk.1.ffn_down_exps.weight"
    experts, rows, columns = read_gguf(path).tensors[name].shape
    made = {name: (np.ones((experts, 2, columns), np.float32), np.ones((experts, rows, 2), np.float32))}
    write_gguf_adapter(tmp_path / "a.gguf", made, architecture="qwen3moe")
    problem = f"{name}: expected a matrix of products or an embedding, found experts': merge it with --lora"
    with pytest.raises(InputError, match=problem):
        read(path, f"x={tmp_path / 'a.gguf'}")


def test_damaged_adapters_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, {}) == "tensors: expected lora_a and lora_b of a matrix, found none"
    a, b = pairs()[Q]
    broken = a.copy()
    broken[1, 2] = np.nan
    assert refused(tmp_path, {Q: (broken, b)}) == f"{Q}: expected finite numbers, found others"
    assert refused(tmp_path, {Q: (a[:, :32], b)}).startswith(f"{Q}: expected shape [64, 64], as the model has")
    assert refused(tmp_path, {"blk.7.attn_q.weight": (a, b)}).endswith("found one that it does not have")


with np.load(Path(__file__).parents[2] / "data/adapter_logits.npz") as _vectors:
    VECTORS = dict(_vectors)


def test_there_are_vectors_of_each_architecture() -> None:
    assert set(VECTORS) == set(ADAPTED)


@pytest.mark.parametrize("name", VECTORS)
def test_llama_cpp_agrees(name: str, tmp_path: Path) -> None:
    """Of both adapters at once; the bound is that of models without any: llama.cpp sums in float32."""
    path, files = write_adapted(tmp_path, name)
    model = read(path, *(f"a{index}={file}" for index, file in enumerate(files)))
    made = {key: array.astype(np.float64) for key, array in model.adapters.made.items()}
    numbers = {**Meaning.of(path, len(VECTOR_IDS)).numbers, **made, SCALES: np.array(ADAPTED_SCALES)}
    found, expected = Interpreter(model.graph, numbers, VECTOR_IDS).run()[-1], VECTORS[name].astype(np.float64)
    assert nmse(found, expected) < 1e-6
    base = Meaning.of(path, len(VECTOR_IDS)).logits(VECTOR_IDS)
    assert nmse(base, expected) > 0.1
