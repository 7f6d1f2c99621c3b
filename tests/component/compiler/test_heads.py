"""Models that were made to embed or to rank: compiled, loaded and asked, against NumPy and llama.cpp's own number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import rocmforge
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import InputError, RequestError
from rocmforge.artifacts.head import Head, HeadLayer
from rocmforge.compiler.architectures import ARCHITECTURES
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.read_config import read_config
from rocmforge.runtime.engine.embeddings import EmbeddingRequest
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.engine_harness import SECONDS
from rocmforge.tests.support.programs import compiled, relative_tolerance
from rocmforge.tests.support.workers import start_of, working
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.fixtures import write_model

IDS = (5, 77, 91, 200, 3, 19, 260, 44, 45, 46, 7)
HIDDEN = 64
Shapes = Mapping[str, tuple[int, ...]]


def model(folder: Path, architecture: str, pooling: int, further: Shapes) -> Path:
    return write_model(folder / "model.gguf", architecture, "F32", pooling=pooling, further=further)


def matrix(path: Path, name: str) -> npt.NDArray[np.float64]:
    found = ReferenceModel(path).weight(name)
    assert found is not None
    return found.astype(np.float64)


@pytest.mark.parametrize(
    ("architecture", "pooling", "further"),
    [
        ("qwen3", 3, {}),
        ("llama", 2, {}),
        ("qwen3", 1, {"dense_2.weight": (96, HIDDEN), "dense_3.weight": (32, 96)}),
    ],
    ids=["last", "cls", "mean-dense"],
)
def test_vectors(architecture: str, pooling: int, further: Shapes, tmp_path: Path, build_cache: BuildCache) -> None:
    path = model(tmp_path, architecture, pooling, further)
    hidden = ReferenceModel(path).hidden(IDS).astype(np.float64)
    wanted = {1: hidden.mean(0), 2: hidden[0], 3: hidden[-1]}[pooling]
    for name in further:
        wanted = matrix(path, name) @ wanted
    wanted /= np.linalg.norm(wanted)
    with compiled(path, build_cache) as bundle, rocmforge.load(bundle.path, device="host") as loaded:
        assert np.linalg.norm(loaded.embed(IDS) - wanted) < 4 * relative_tolerance("F32")
        with pytest.raises(RequestError, match="not made to rank"):
            loaded.rank("a", ["b"])


@pytest.mark.parametrize(
    ("pooling", "further"),
    [
        (2, {}),
        (1, {"dense_2.weight": (96, HIDDEN), "dense_3.weight": (32, 96)}),
        (4, {"cls.output.weight": (2, HIDDEN)}),
    ],
    ids=["cls", "mean-dense", "rank"],
)
def test_a_worker_has_it_too(pooling: int, further: Shapes, tmp_path: Path, build_cache: BuildCache) -> None:
    path = model(tmp_path, "qwen3", pooling, further)
    asked = [EmbeddingRequest(IDS, None, rank=pooling == 4)]
    with compiled(path, build_cache) as bundle, rocmforge.load(bundle.path, device="host") as loaded:
        with working(start_of(bundle)) as remote:
            found = remote.embed(asked)[0].result(SECONDS)
        assert found is not None
        assert found.tobytes() == loaded._vectors(asked)[0].tobytes()


def test_a_score_is_llama_cpps(tmp_path: Path, build_cache: BuildCache) -> None:
    """0.83146673 is what llama.cpp 11434 gives for this file and these tokens, with keys and values in float32.

    Scores of two labels differ by a sigmoid, whose slope is at most 1/4, of logits that are sums of 64 products.
    """
    path = model(tmp_path, "qwen3", 4, {"cls.output.weight": (2, HIDDEN)})
    with compiled(path, build_cache) as bundle:
        head = bundle.layout.head
        assert head == Head("last", (HeadLayer("head.output@f32"),), "softmax", float(np.float32(1e-5)))
        with rocmforge.load(bundle.path, device="host") as loaded:
            text = loaded.decode(IDS[:3])
            assert loaded.rank(text, [text, "b"]) == loaded.rank(text, [text]) + loaded.rank(text, ["b"])
            score = _score(loaded)
    hidden = ReferenceModel(path).hidden(IDS)[-1].astype(np.float64)
    weights = matrix(path, "cls.output.weight")
    logits = weights @ hidden
    most = 0.25 * relative_tolerance("F32") * np.linalg.norm(weights[0] - weights[1]) * np.linalg.norm(hidden)
    assert abs(score - 1 / (1 + np.exp(logits[1] - logits[0]))) < most
    assert abs(score - 0.83146673) < most < 0.02


def _score(loaded: rocmforge.Model) -> float:
    return float(loaded._vectors([EmbeddingRequest(IDS, None, rank=True)])[0][0])


@pytest.mark.parametrize(
    ("architecture", "said", "pooling"),
    [
        ("llama", None, "cls"),
        ("llama", 1, "mean"),
        ("modern-bert", None, "mean"),
        ("modern-bert", 1, "mean"),
        ("modern-bert", 2, "cls"),
        ("modern-bert", 0xFFFFFFFF, "mean"),
    ],
)
def test_what_a_classifier_reads(architecture: str, said: int | None, pooling: str, tmp_path: Path) -> None:
    """The mean where the file says so, as rerankers of ModernBERT's kind do without a word; else the first token."""
    source = read_gguf(write_architecture(tmp_path / "model.gguf", architecture))
    classifier = {"cls.output.weight": source.tensors[ARCHITECTURES[architecture].tensor_name("output_norm")]}
    keys = {"pooling_type": 4, **({} if said is None else {"classifier.pooling_type": said})}
    metadata = {**source.metadata, **{f"{architecture}.{name}": value for name, value in keys.items()}}
    head = read_config(replace(source, metadata=metadata, tensors={**source.tensors, **classifier})).head
    assert head is not None
    assert (head.pooling, head.scores) == (pooling, "raw")


@pytest.mark.parametrize("key", ["pooling_type", "classifier.pooling_type"])
def test_a_kind_of_pooling_that_is_no_number(key: str, tmp_path: Path) -> None:
    source = read_gguf(model(tmp_path, "llama", 4, {"cls.output.weight": (2, HIDDEN)}))
    with pytest.raises(InputError, match=rf"llama\.{key}: expected an integer, found"):
        read_config(replace(source, metadata={**source.metadata, f"llama.{key}": np.array([1, 2])}))


@pytest.mark.parametrize(
    ("architecture", "pooling", "further", "problem"),
    [
        ("llama", 5, {}, "llama.pooling_type: expected 0 to 4, found 5"),
        ("qwen3", 4, {}, "qwen3.pooling_type: expected a classifier (cls.weight or cls.output.weight)"),
        ("qwen3", 4, {"cls.output.weight": (2, 32)}, "cls.output.weight: expected 64 columns, found shape [2, 32]"),
        ("llama", 4, {"cls.weight": (8, HIDDEN), "cls.bias": (9,)}, "cls.bias: expected 8 elements, found shape [9]"),
        ("llama", 1, {"dense_2.weight": (HIDDEN,), "dense_3.weight": (4, 2)}, "dense_3.weight: expected 1 columns"),
        ("llama", 1, {"cls.bias": (4,)}, "cls.bias: expected no such tensor in a llama model, found it"),
    ],
)
def test_refused(architecture: str, pooling: int, further: Shapes, problem: str, tmp_path: Path) -> None:
    path = model(tmp_path, architecture, pooling, further)
    with pytest.raises(InputError) as caught:
        read_model(CompileOptions(path, tmp_path), Silent())
    assert problem in str(caught.value)


def test_a_bundle_without_one(smollm2_path: Path) -> None:
    with open_bundle(smollm2_path) as bundle:
        assert bundle.layout.head is None
