"""A folder of safetensors against the GGUF file of the same weights: the same model to the byte, or one line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from rocmforge.artifacts.errors import InputError
from rocmforge.cli import main
from rocmforge.compiler.bundle_cache import _identity
from rocmforge.compiler.describe import digest_of
from rocmforge.compiler.hugging_face.folder import HuggingFaceFolder, open_folder
from rocmforge.compiler.inspect import inspect_gguf
from rocmforge.compiler.model import CompileOptions, Model, read_model
from rocmforge.compiler.models.hugging_face import FOLDER_ROWS
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.sources import open_source
from rocmforge.library.compilation import CompiledBundle, bundle_path
from rocmforge.runtime.inspect import find_models
from rocmforge.tests.support.hugging_face import (
    folder_config,
    stored_tensors,
    write_folder,
    write_weights,
)
from rocmforge.tools.generate.fixtures import write_model

FAMILIES = ("llama", "qwen2", "qwen3")


def model_of(path: Path) -> Model:
    return read_model(CompileOptions(path, path), Silent())


def same_model(folder: Path, file: Path) -> None:
    """Compare all that a bundle is made of."""
    found, expected = model_of(folder), model_of(file)
    assert {k: getattr(found.config, k) for k in type(found.config).__slots__ if k != "name"} == {
        k: getattr(expected.config, k) for k in type(expected.config).__slots__ if k != "name"
    }
    assert found.graph.text() == expected.graph.text()
    assert found.weights == expected.weights
    assert found.tokenizer == expected.tokenizer
    assert found.max_seq_len == expected.max_seq_len
    for name, tensor in expected.gguf.tensors.items():
        assert found.gguf.tensors[name].shape == tensor.shape
        assert found.gguf.tensors[name].ggml_type is tensor.ggml_type
        assert np.array_equal(found.gguf.read_tensor(name), expected.gguf.read_tensor(name)), name


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_folder_is_the_model_of_its_file(tmp_path: Path, architecture: str, quantization: str, files: int) -> None:
    model = write_model(tmp_path / "m.gguf", architecture, quantization, head_dim=32, tie=files == 1)
    same_model(write_folder(tmp_path / "m", model, files), model)


def test_a_file_that_the_package_wrote(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", quantization="F32")
    folder = write_folder(tmp_path / "m", model)
    kinds = {"F32": np.float32, "F16": np.float16}
    arrays = {
        name: np.frombuffer(data, kinds[dtype]).reshape(shape)
        for name, (dtype, shape, data) in stored_tensors(model).items()
    }
    save_file(arrays, folder / "model.safetensors", {"format": "np"})
    same_model(folder, model)


def test_biases_of_queries_and_keys_are_turned_too(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", "llama", "F32", bias=True)
    same_model(write_folder(tmp_path / "m", model), model)


def test_any_rows_of_a_turned_matrix(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", "llama", "F16", head_dim=32)
    folder, file = open_folder(write_folder(tmp_path / "m", model)), open_source(model)
    whole = file.read_tensor("blk.1.attn_q.weight").reshape(128, -1)
    for first, count in ((0, 1), (5, 40), (31, 2), (64, 64), (127, 1)):
        assert np.array_equal(folder.read_rows("blk.1.attn_q.weight", first, count), whole[first : first + count])


def test_what_inspect_says(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", "qwen3", "BF16")
    facts = inspect_gguf(write_folder(tmp_path / "Tiny-0.1", model, 2))
    expected = inspect_gguf(model)
    del expected["gguf_version"]
    assert facts == expected | {
        "file": str(tmp_path / "Tiny-0.1"),
        "name": "Tiny-0.1",
        "format": "a folder of 2 safetensors",
    }


def test_what_lists_of_models_say(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", quantization="F16")
    folder = write_folder(tmp_path / "a" / "Tiny-0.1", model, 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{}")  # of something else
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    rows = [(row["kind"], row["path"], row["size_bytes"], row["about"]) for row in find_models(tmp_path)]
    assert rows == [
        ("folder", str(folder), size, "2 safetensors"),
        ("gguf", str(model), model.stat().st_size, ""),
    ]


def test_the_bundle_is_named_after_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "Tiny-0.6B", write_model(tmp_path / "m.gguf", quantization="F16"))
    asked: list[Path] = []

    def compile_bundle(model: Path, output: Path | None, **_: object) -> CompiledBundle:
        asked.append(model)
        return CompiledBundle(bundle_path(model) if output is None else output, "sha256:0")

    monkeypatch.setattr("rocmforge.cli.compile.compile_bundle", compile_bundle)
    monkeypatch.chdir(folder)
    for given in (str(folder), f"{folder}/", "."):
        result = CliRunner().invoke(main, ["compile", given], catch_exceptions=False)
        assert result.output == f"{tmp_path}/Tiny-0.6B.rfb  sha256:0\n"
    assert asked == [folder, folder, Path()]
    assert bundle_path(tmp_path / "m.gguf") == tmp_path / "m.rfb"


def test_the_digest_is_that_of_all_files_that_are_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", write_model(tmp_path / "m.gguf", quantization="F32"), 2)
    (folder / "README.md").write_text("not read")
    names = (
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    expected = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
    assert digest_of(open_folder(folder).files()) == expected
    before = _identity(folder)
    os.utime(folder / "model-00002-of-00002.safetensors", (1, 1))
    assert _identity(folder) != before


def folder_with(tmp_path: Path, **changes: object) -> Path:
    """A folder whose config.json has other values; None: not that key."""
    model = write_model(tmp_path / "m.gguf", "llama", "F32")
    folder = write_folder(tmp_path / "m", model)
    config = {k: v for k, v in {**folder_config(model), **changes}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def metadata_with(tmp_path: Path, **changes: object) -> dict[str, object]:
    return dict(open_folder(folder_with(tmp_path, **changes)).metadata)


def test_what_is_absent_is_as_transformers_has_it(tmp_path: Path) -> None:
    found = metadata_with(tmp_path, rms_norm_eps=None, rope_theta=None, head_dim=None, hidden_act=None)
    assert found["llama.attention.layer_norm_rms_epsilon"] == 1e-6
    assert found["llama.rope.freq_base"] == 10000.0
    assert found["llama.rope.dimension_count"] == 16
    assert "llama.attention.key_length" not in found
    assert FOLDER_ROWS["qwen3"].defaults["head_dim"] == 128


def test_newer_folders_keep_all_of_rope_in_one_place(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}
    found = metadata_with(tmp_path, rope_theta=None, rope_parameters=rope)
    assert found["llama.rope.freq_base"] == 500000.0
    assert (found["llama.rope.scaling.type"], found["llama.rope.scaling.factor"]) == ("linear", 4.0)
    assert not [key for key in metadata_with(tmp_path, rope_scaling={"type": "default"}) if "scaling" in key]


def test_yarn(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "attention_factor": 1.0}
    found = metadata_with(tmp_path, rope_scaling=rope)
    assert found["llama.rope.scaling.original_context_length"] == 256
    assert found["llama.rope.scaling.yarn_beta_fast"] == 16.0
    assert found["llama.rope.scaling.attn_factor"] == pytest.approx(1 / (0.1 * np.log(4) + 1), rel=1e-12)


def test_llama_3_divides_slow_frequencies(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    folder = open_folder(folder_with(tmp_path, rope_scaling=rope, rope_theta=1000.0))
    found = folder.read_tensor("rope_freqs.weight").view(np.float32)
    expected = []
    for i in range(8):
        wave = 2 * np.pi * 1000.0 ** (2 * i / 16)
        if wave < 64 / 4:
            expected.append(1.0)
        elif wave > 64 / 1:
            expected.append(8.0)
        else:
            smooth = (64 / wave - 1) / (4 - 1)
            expected.append(1 / ((1 - smooth) / 8 + smooth))
    assert 1.0 in expected
    assert 8.0 in expected
    assert any(1 < value < 8 for value in expected)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_window_that_the_graph_lacks_limits_the_context(tmp_path: Path) -> None:
    assert metadata_with(tmp_path, sliding_window=100)["llama.context_length"] == 100
    assert metadata_with(tmp_path, sliding_window=1000)["llama.context_length"] == 256
    assert metadata_with(tmp_path, sliding_window=100, use_sliding_window=False)["llama.context_length"] == 256


def test_a_tied_head_is_not_read(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", quantization="F32", tie=False)
    folder = write_folder(tmp_path / "m", model)
    assert "output.weight" in open_folder(folder).tensors
    (folder / "config.json").write_text(json.dumps(folder_config(model) | {"tie_word_embeddings": True}))
    assert "output.weight" not in open_folder(folder).tensors


TOKENIZER_CASES: dict[str, Callable[[Path, Any], object]] = {
    "template of its own": lambda folder, _: (folder / "chat_template.jinja").write_text("own"),
    "template of a list": lambda folder, known: (folder / "tokenizer_config.json").write_text(
        json.dumps(
            known | {"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "own"}]}
        )
    ),
}


@pytest.mark.parametrize("case", TOKENIZER_CASES)
def test_where_the_chat_template_is(tmp_path: Path, case: str) -> None:
    folder = folder_with(tmp_path)
    TOKENIZER_CASES[case](folder, json.loads((folder / "tokenizer_config.json").read_text()))
    assert model_of(folder).tokenizer.chat_template == "own"


def test_special_tokens_and_ends(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    plain = model_of(folder).tokenizer.config
    names = {"bos_token": None, "eos_token": {"content": "<|endoftext|>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 300]}))
    found = model_of(folder).tokenizer.config
    assert (plain.bos_token, plain.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (found.bos_token_id, found.eos_token, found.eos_token_ids) == (None, "<|endoftext|>", (0, 2, 300))
    (folder / "tokenizer_config.json").unlink()
    config = json.loads((folder / "config.json").read_text()) | {"bos_token_id": 1, "eos_token_id": [0, 2]}
    (folder / "config.json").write_text(json.dumps(config))
    found = model_of(folder).tokenizer.config
    assert (found.bos_token_id, found.eos_token_id) == (1, 0)
    (folder / "generation_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [0, 5, 99999]}))
    assert model_of(folder).tokenizer.config.eos_token_ids == (0, 2, 5)  # <|im_end|>, 2, ends by its name


CONFIG_CASES: dict[str, tuple[dict[str, object], str]] = {
    "kind": ({"model_type": "mamba"}, "config.json: model_type: expected one of llama, mistral"),
    "no kind": ({"model_type": None}, "config.json: model_type: expected a string, found nothing"),
    "kind of a kind": ({"model_type": 3}, "config.json: model_type: expected a string, found 3"),
    "activation": ({"hidden_act": "gelu"}, "config.json: hidden_act: expected silu or swish in a llama, found gelu"),
    "heads": ({"num_attention_heads": "4"}, "config.json: num_attention_heads: expected an integer"),
    "key heads": ({"num_key_value_heads": 3}, "config.json: num_key_value_heads: expected a divisor of the 4 heads"),
    "no layers": ({"num_hidden_layers": None}, "config.json: num_hidden_layers: expected an integer from 1 to 1024"),
    "layers": ({"num_hidden_layers": 1 << 40}, "config.json: num_hidden_layers: expected an integer from 1 to 1024"),
    "more layers": ({"num_hidden_layers": 3}, "blk.2.attn_norm.weight: expected this tensor, found none of that name"),
    "fewer layers": ({"num_hidden_layers": 1}, "model.layers.1."),
    "epsilon": ({"rms_norm_eps": "x"}, "config.json: rms_norm_eps: expected a finite number, found str 'x'"),
    "nan": ({"rope_theta": float("nan")}, "config.json: rope_theta: expected a number from 1 to"),
    "boolean": ({"tie_word_embeddings": "no"}, "config.json: tie_word_embeddings: expected true or false"),
    "wide": (
        {"intermediate_size": 64},
        ".mlp.gate_proj.weight: expected shape [64, 64], found [128, 64]",
    ),
    "untied": (
        {"tie_word_embeddings": False},
        "lm_head.weight: expected this tensor, found none: the head is",
    ),
    "rope kind": ({"rope_scaling": {"type": "ntk", "factor": 2}}, "rope_scaling.rope_type: expected default, linear"),
    "rope object": ({"rope_scaling": "linear"}, "config.json: rope_scaling: expected an object, found 'linear'"),
    "rope factor": ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: expected a number from 1 to"),
    "half a head": (
        {"head_dim": 24},
        ".self_attn.q_proj.weight: expected whole heads of 24 rows, found 64",
    ),
}


@pytest.mark.parametrize("case", CONFIG_CASES)
def test_a_configuration_that_does_not_fit_is_refused_in_a_line(tmp_path: Path, case: str) -> None:
    changes, problem = CONFIG_CASES[case]
    folder = folder_with(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        model_of(folder)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILE_CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "folder: expected model.safetensors or model.safetensors.index.json, found neither",
    ),
    "not JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json: file: expected JSON, found: Expecting property name",
    ),
    "deep JSON": (
        lambda folder: (folder / "config.json").write_text("[" * 200_000),
        "config.json: file: expected JSON, found: ",
    ),
    "an array": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json: file: expected a JSON object, found list",
    ),
    "not UTF-8": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff{}"),
        "config.json: file: expected UTF-8",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "tokenizer.json: file: expected a file of JSON, found: No such file",
    ),
    "a broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "tokenizer.json: tokenizer.json: the tokenizers library refuses it",
    ),
    "lone surrogate": (
        lambda folder: (folder / "tokenizer_config.json").write_text('{"chat_template": "\\ud800"}'),
        "chat_template: expected text that UTF-8 can hold",
    ),
    "no default template": (
        lambda folder: (folder / "tokenizer_config.json").write_text(
            '{"chat_template": [{"name": "a", "template": ""}]}'
        ),
        "chat_template: expected one with the name default, found none",
    ),
    "end beyond the vocabulary": (
        lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": [1, 99999]}'),
        "generation_config.json: eos_token_id: expected ids below 320, found 99999",
    ),
    "a folder of that name": (
        lambda folder: replaced_by_a_folder(folder / "model.safetensors"),
        "model.safetensors: file: expected a regular file, found a directory",
    ),
}


@pytest.mark.parametrize("case", FILE_CASES)
def test_files_that_are_wrong_are_refused_in_a_line(tmp_path: Path, case: str) -> None:
    change, problem = FILE_CASES[case]
    folder = folder_with(tmp_path)
    change(folder)
    with pytest.raises(InputError) as caught:
        model_of(folder)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a GGUF file, or a folder with config\.json, found neither"):
        open_source(tmp_path)


TENSOR_CASES: dict[str, tuple[dict[str, tuple[str, tuple[int, ...], bytes]], str]] = {
    "unknown": (
        {"model.layers.0.self_attn.sinks": ("F32", (1,), bytes(4))},
        "model.layers.0.self_attn.sinks: expected a tensor of a llama model, found one that it does not have",
    ),
    "integers": (
        {"model.norm.weight": ("I32", (64,), bytes(256))},
        "model.norm.weight: expected a type of F32, F16, BF16, found I32",
    ),
    "a scalar": ({"model.norm.weight": ("F32", (), bytes(4))}, "expected 1 to 4 dimensions of at least 1, found []"),
    "nothing": ({"model.norm.weight": ("F32", (0,), b"")}, "expected 1 to 4 dimensions of at least 1, found [0]"),
    "another shape": ({"model.norm.weight": ("F32", (2, 64), bytes(512))}, "expected shape [64], found [2, 64]"),
    "twice": (
        {"norm.weight": ("F32", (64,), bytes(256))},
        "expected one tensor for output_norm.weight, found",
    ),
}


@pytest.mark.parametrize("case", TENSOR_CASES)
def test_tensors_that_do_not_fit_are_refused_in_a_line(tmp_path: Path, case: str) -> None:
    changes, problem = TENSOR_CASES[case]
    folder = folder_with(tmp_path)
    write_weights(folder, stored_tensors(tmp_path / "m.gguf") | changes)
    with pytest.raises(InputError) as caught:
        model_of(folder)
    assert problem in str(caught.value)


def test_frequencies_that_older_folders_keep_are_passed_over(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    derived = {"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (8,), bytes(32))}
    write_weights(folder, stored_tensors(tmp_path / "m.gguf") | derived)
    same_model(folder, tmp_path / "m.gguf")


INDEX_CASES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "outside": (
        lambda placed: placed.update({"lm_head.weight": "../model-00001-of-00002.safetensors"}),
        "weight_map.: expected names of safetensors files beside it, found '../model-00001-of-00002.safetensors'",
    ),
    "pickled": (
        lambda placed: placed.update({"model.norm.weight": "model.bin"}),
        "expected names of safetensors files beside it, found 'model.bin'",
    ),
    "missing file": (
        lambda placed: placed.update({"model.norm.weight": "other.safetensors"}),
        "other.safetensors: file: expected a readable file, found: No such file",
    ),
    "missing tensor": (
        lambda placed: placed.update({"extra": "model-00001-of-00002.safetensors"}),
        "weight_map.extra: expected it in model-00001-of-00002.safetensors, found no such tensor there",
    ),
    "unlisted tensor": (
        lambda placed: placed.pop("model.norm.weight"),
        "model.norm.weight: expected it in model.safetensors.index.json for this file, found it not",
    ),
    "no text": (
        lambda placed: placed.update({"model.norm.weight": 5}),
        "norm.weight: expected a string, found 5",
    ),
}


@pytest.mark.parametrize("case", INDEX_CASES)
def test_an_index_that_does_not_fit_is_refused_in_a_line(tmp_path: Path, case: str) -> None:
    change, problem = INDEX_CASES[case]
    folder = write_folder(tmp_path / "m", write_model(tmp_path / "m.gguf", quantization="F32"), 2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    with pytest.raises(InputError) as caught:
        open_folder(folder)
    assert problem in str(caught.value)


def test_a_file_that_is_cut_or_grows_after_it_was_opened(tmp_path: Path) -> None:
    folder = open_folder(folder_with(tmp_path))
    assert isinstance(folder, HuggingFaceFolder)
    path = folder.path / "model.safetensors"
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(InputError, match=r"model\.safetensors: file: expected \d+ bytes as at first, found \d+"):
        folder.read_tensor("output_norm.weight")
