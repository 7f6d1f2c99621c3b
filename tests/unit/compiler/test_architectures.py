"""Each architecture: what its graph means, before and after the passes, and that its logits hang on what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.errors import GgufError, UsageError
from rocmforge.compiler.architectures import ARCHITECTURES, REFUSED, build_graph
from rocmforge.compiler.ggml_types import GgmlType
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_tensors import unused_tensors, weight_tensors, weights_by_role
from rocmforge.compiler.models import decoder_rows, hrm, hybrid_rows, mixture_rows
from rocmforge.compiler.passes import run_passes
from rocmforge.compiler.position_tables import RopeScaling, RopeTable
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.read_config import read_config
from rocmforge.tests.oracles.graph_interpreter import Interpreter
from rocmforge.tools.generate.architecture_cases import CASES, write_case
from rocmforge.tools.generate.architecture_models import WINDOW, write_architecture
from rocmforge.tools.generate.architecture_oracle.changes import changed
from rocmforge.tools.generate.architecture_oracle.judge import nmse
from rocmforge.tools.generate.architecture_oracle.logits import VECTOR_IDS
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning

with np.load(Path(__file__).parents[2] / "data/architecture_logits.npz") as _vectors:
    VECTORS = dict(_vectors)
ROWS = tuple(row for family in (decoder_rows, mixture_rows, hybrid_rows, hrm) for row in family.ARCHITECTURES)
IDS = [int(one) for one in np.random.default_rng(3).integers(0, 96, 2 * WINDOW + 3)]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["plain", "whole"])
@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_an_architecture(name: str, whole: bool, tmp_path: Path) -> None:
    path = write_architecture(tmp_path / "model.gguf", name, whole)
    source, meaning = read_gguf(path), Meaning.of(path, len(IDS))
    logits = meaning.logits(IDS)
    assert np.isfinite(logits).all()
    assert unused_tensors(source, read_config(source)) == ()
    # Products that a pass puts together are the sums of before in another order, of float64.
    passed = Interpreter(run_passes(meaning.graph), dict(meaning.numbers), IDS).run()[-1]
    np.testing.assert_allclose(passed, logits, rtol=0, atol=1e-9 * np.abs(logits).max())
    for change, other in changed(source, meaning, len(IDS)):
        assert nmse(other.logits(IDS), logits) > 1e-4, change  # the error up to which logits are said to agree


@pytest.mark.parametrize("name", VECTORS)
def test_llama_cpp_agrees(name: str, tmp_path: Path) -> None:
    """On files of our own generator, of rows and of what oracle files of llama.cpp's do not exercise."""
    write = write_case if name in CASES else write_architecture
    meaning = Meaning.of(write(tmp_path / "model.gguf", name), len(VECTOR_IDS))
    found, expected = meaning.logits(VECTOR_IDS), VECTORS[name].astype(np.float64)
    # llama.cpp sums in float32, and takes GELU from a table of float16.
    assert nmse(found, expected) < 1e-6


def test_rows_of_a_fused_tensor(tmp_path: Path) -> None:
    """Each weight is what it is where the tensors are apart."""
    path = write_architecture(tmp_path / "whole.gguf", "phi3", whole=True)
    source = read_gguf(path)
    found = weight_tensors(source, read_config(source))
    qkv = source.read_tensor("blk.1.attn_qkv.weight").view(np.float32).reshape(-1, 64)
    bias = source.read_tensor("blk.1.ffn_up.bias").view(np.float32)
    for role, rows in (("q", slice(0, 64)), ("k", slice(64, 96)), ("v", slice(96, 128))):
        weight = found[f"layers.1.attention_{role}"]
        assert weight.name == "blk.1.attn_qkv.weight"
        assert np.array_equal(weight.read(source).view(np.float32), qkv[rows])
        assert found[f"layers.1.attention_{role}_scale"].name == "blk.1.attn_qkv.scale"
    for role, elements in (("gate", bias[:96]), ("up", bias[96:])):
        assert np.array_equal(found[f"layers.1.ffn_{role}_bias"].read(source).view(np.float32), elements)


def test_what_heads_share_stands_for_each_element(tmp_path: Path) -> None:
    source = read_gguf(write_architecture(tmp_path / "model.gguf", "spark2_5"))
    weight = weight_tensors(source, read_config(source))["layers.0.attention_gate"]
    rows = weight.read(source).view(np.float32)
    assert (weight.tensor.shape, rows.shape) == ((4, 64), (64, 64))
    assert np.array_equal(rows[::16], source.read_tensor(weight.name).view(np.float32).reshape(4, 64))
    assert np.array_equal(rows[16], rows[31])


@pytest.mark.parametrize(
    "key, value, problem",
    [
        ("block_count", 8, "expected 6, as often as its cycles run a layer, found 8"),
        ("hrm.h_cycles", 1, "expected 3, as often as its cycles run a layer, found 6"),
        ("hrm.l_cycles", 0, "expected 1 to 1024, found 0"),
        ("attention.head_count_kv", np.array([2, 1, 2, 1, 2, 1], np.uint32), "expected layers alike, found some"),
    ],
)
def test_cycles_that_do_not_fit(key: str, value: object, problem: str, tmp_path: Path) -> None:
    source = read_gguf(write_architecture(tmp_path / "model.gguf", "hrm_text"))
    with pytest.raises(GgufError) as caught:
        read_config(replace(source, metadata={**source.metadata, f"hrm_text.{key}": value}))
    assert problem in str(caught.value)


def test_latent_attention(tmp_path: Path) -> None:
    """The tail of keys is the end of the latent's tensor, and of queries the end of each head; what makes keys of the
    latent is turned round for queries, and what makes values stands behind it, head by head."""
    source = read_gguf(write_architecture(tmp_path / "model.gguf", "minicpm3"))
    config = read_config(source)
    found = {role: one.read(source).view(np.float32) for role, one in weight_tensors(source, config).items()}
    whole = source.read_tensor("blk.1.attn_kv_a_mqa.weight").view(np.float32).reshape(-1, 64)
    assert np.array_equal(found["layers.1.attention_key_tail"], whole[24:])
    queries = source.read_tensor("blk.1.attn_q_b.weight").view(np.float32).reshape(4, 16, 40)
    assert np.array_equal(found["layers.1.attention_q_own"], queries[:, :10].reshape(-1, 40))
    assert np.array_equal(found["layers.1.attention_q_tail"], queries[:, 10:].reshape(-1, 40))
    both = source.read_tensor("blk.1.attn_kv_b.weight").view(np.float32).reshape(4, 22, 24)
    assert np.array_equal(found["layers.1.attention_k_b"], both[:, :10].swapaxes(1, 2).reshape(-1, 10))
    assert np.array_equal(found["layers.1.attention_v_b"], both[:, 10:].reshape(-1, 24))
    assert (config.num_kv_heads, config.head_dim, config.value_dim, config.rope_dim) == (1, 16, 12, 6)
    part = weight_tensors(source, config)["layers.1.attention_k_b"]
    assert np.array_equal(part.read_rows(source, 31, 20).view(np.float32), found["layers.1.attention_k_b"][31:51])


@pytest.mark.parametrize("kind, expected", [("F32", "F32"), ("BF16", "F32"), ("F16", "F16"), ("Q8_0", "F16")])
def test_what_is_turned_round_becomes_floats(kind: str, expected: str, tmp_path: Path) -> None:
    source = read_gguf(write_architecture(tmp_path / "model.gguf", "minicpm3"))
    part = weight_tensors(source, read_config(source))["layers.1.attention_k_b"]
    stored = replace(part, tensor=replace(part.tensor, ggml_type=GgmlType[kind]))
    assert stored.ggml_type.name == expected


def test_gates_of_modern_bert(tmp_path: Path) -> None:
    """Its files name activations as llama.cpp reads them, or none."""
    source = read_gguf(write_architecture(tmp_path / "model.gguf", "modern-bert"))

    def read(**said: object) -> ModelConfig:
        keys = {f"modern-bert.{name.replace('__', '.')}": value for name, value in said.items()}
        return read_config(replace(source, metadata={**source.metadata, **keys}))

    for said, expected in {"gelu": "gelu", "geglu": "gelu", "silu": "silu", "swish": "silu", "reglu": "relu"}.items():
        config = read(hidden_activation=said)
        graph = build_graph(config, weights_by_role(source, config))
        assert {node.word("activation") for node in graph.nodes if node.op == "gate"} == {expected}
    with pytest.raises(GgufError, match=r"activation: expected gelu, geglu, silu, swish, swiglu, reglu, found relu$"):
        read(hidden_activation="relu")
    with pytest.raises(GgufError, match=r"decision\.block_count: expected an encoder alone, found 2 blocks"):
        read(decision__block_count=2)


@pytest.mark.parametrize("name, keys, most", [("deepseek32", {}, 12), ("minimax-m3", {"block_size": 4}, 48)])
def test_an_indexer_bounds_the_context(name: str, keys: dict[str, int], most: int, tmp_path: Path) -> None:
    """Up to what it may choose it chooses all, so that it need not be computed."""
    source = read_gguf(write_architecture(tmp_path / "model.gguf", name))
    said = {f"{name}.attention.indexer.{key}": value for key, value in {"top_k": 12, **keys}.items()}
    assert read_config(source).max_seq_len == 64
    assert read_config(replace(source, metadata={**source.metadata, **said})).max_seq_len == most


def said_by(name: str, folder: Path, values: Mapping[str, object]) -> ModelConfig:
    """Return the configuration of a model whose file has other keys, None taking one away."""
    source = read_gguf(write_architecture(folder / f"{name}.gguf", name))
    keys = {f"{name}.{key}": value for key, value in values.items()}
    metadata = {key: value for key, value in {**source.metadata, **keys}.items() if value is not None}
    return read_config(replace(source, metadata=metadata))


def test_groks_scale_of_scores_and_its_ramp(tmp_path: Path) -> None:
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 16.0}
    usual = said_by("grok", tmp_path, yarn)
    assert (usual.attention_scale, usual.rope_scaling.beta_fast) == (0.08838834764831845, 8.0)
    keys = {**yarn, "attention.output_scale": 0.125, "rope.scaling.yarn_beta_fast": 16.0}
    said = said_by("grok", tmp_path, keys)
    assert (said.attention_scale, said.rope_scaling.beta_fast) == (0.125, 16.0)


def test_windows_of_mimo2_rotate_by_a_base_of_their_own(tmp_path: Path) -> None:
    """As llama.cpp has it, whatever the base and the scaling of layers that see all."""
    keys = {"rope.freq_base": 5e6, "rope.freq_base_swa": None, "rope.scaling.factor": 4.0}
    tables = said_by("mimo2", tmp_path, keys).tables()
    assert tables["rope_table_windowed"] == RopeTable(10000.0, 16)
    assert tables["rope_table"] == RopeTable(5e6, 16, RopeScaling("linear", 4.0))


def test_one_expert_is_none_of_a_mixture(tmp_path: Path) -> None:
    """Dense Hunyuan's files may count one, as llama.cpp takes them."""
    assert said_by("hunyuan-dense", tmp_path, {"expert_count": 1}) == said_by("hunyuan-dense", tmp_path, {})
    with pytest.raises(GgufError, match=r"hunyuan-dense\.expert_count: expected a dense model, found a mixture of 2"):
        said_by("hunyuan-dense", tmp_path, {"expert_count": 2})


def test_an_arctic_has_experts(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=r"arctic\.expert_count: expected experts, found none"):
        said_by("arctic", tmp_path, {"expert_count": 0})


@pytest.mark.parametrize("name, scoring", [("glm-dsa", "sigmoid"), ("deepseek2", "softmax"), ("glm4moe", "sigmoid")])
def test_how_experts_are_scored_where_the_file_does_not_say(name: str, scoring: str, tmp_path: Path) -> None:
    experts = said_by(name, tmp_path, {"expert_gating_func": None}).experts
    assert experts is not None
    assert experts.scoring == scoring


@pytest.mark.parametrize("name", ["gpt2", "mpt", "bert", "deepseek32"])
def test_a_context_beyond_what_can_be_computed_is_refused(name: str, tmp_path: Path) -> None:
    """Positions that are learned end where they end, and an indexer chooses from there on."""
    path = write_architecture(tmp_path / "model.gguf", name)
    trained = read_config(read_gguf(path)).max_seq_len
    assert read_model(CompileOptions(path, tmp_path, max_context=trained), Silent()).max_seq_len == trained
    with pytest.raises(UsageError, match=f"--max-context: expected 1 to {trained}, found {trained + 1}"):
        read_model(CompileOptions(path, tmp_path, max_context=trained + 1), Silent())


def test_no_architecture_is_refused_that_compiles() -> None:
    assert not set(REFUSED) & set(ARCHITECTURES)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said_by_name(name: str, tmp_path: Path) -> None:
    source = read_gguf(write_architecture(tmp_path / "model.gguf", "llama"))
    with pytest.raises(GgufError) as caught:
        read_config(replace(source, metadata={**source.metadata, "general.architecture": name}))
    expected = f"general.architecture: {name} has {REFUSED[name]}, which is not supported"
    assert str(caught.value).endswith(expected)


def test_layers_that_are_run_again(tmp_path: Path) -> None:
    source = read_gguf(write_architecture(tmp_path / "model.gguf", "nanbeige"))
    once = replace(source, metadata={**source.metadata, "nanbeige.num_loops": 1})
    assert read_config(once) == read_config(source)
    with pytest.raises(GgufError, match=r"nanbeige\.num_loops: expected a model that runs its layers once, found 2"):
        read_config(replace(source, metadata={**source.metadata, "nanbeige.num_loops": 2}))


def test_blocks_that_draft_are_left_out(tmp_path: Path) -> None:
    """Files count them among their blocks; without them it is the model that it is."""
    drafting = write_architecture(
        tmp_path / "drafting.gguf", "glm4moe", num_layers=5, keys={"nextn_predict_layers": 1}, whole=True
    )
    source, plain = read_gguf(drafting), write_architecture(tmp_path / "plain.gguf", "glm4moe", whole=True)
    config = read_config(source)
    assert (config.num_layers, config.draft_layers) == (4, 1)
    unused = unused_tensors(source, config)
    assert "blk.4.exp_probs_b.bias" in unused
    assert {name.split(".")[1] for name in unused} == {"4"}
    assert np.array_equal(Meaning.of(drafting, len(IDS)).logits(IDS), Meaning.of(plain, len(IDS)).logits(IDS))
    with pytest.raises(GgufError, match=r"glm4moe\.nextn_predict_layers: expected 0 to 4, found 5"):
        read_config(replace(source, metadata={**source.metadata, "glm4moe.nextn_predict_layers": 5}))
