"""Whole models whose layers have unlike caches, none, or another's, and models that see both ways: on the host and on
emulated GPUs, against NumPy; the same bits however a text is cut where it may be, and whatever else a step holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import rocmforge.compiler.model as model_module
from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import RequestError
from rocmforge.artifacts.layout import KvCache
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.graph import LOGITS, Attribute, Graph, Node, Weight
from rocmforge.compiler.graph_builder import GraphBuilder
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_tensors import weight_tensors
from rocmforge.compiler.progress import PlainProgress, Silent
from rocmforge.compiler.verify import verify
from rocmforge.compiler.weights import read_floats
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Program
from rocmforge.runtime.device.golden import compare_golden, record_golden
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.engine.embeddings import EmbeddingRequest
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.tests.oracles.graph_interpreter import Interpreter
from rocmforge.tests.support.emulated_programs import load as load_gpu
from rocmforge.tests.support.engine_harness import ended, serving
from rocmforge.tests.support.programs import LEVELS, building_levels, run
from rocmforge.tools.generate.fixtures import write_model

PLACES = (LEVELS[-1], "gfx1100", "gfx942")
Drawn = Callable[[ModelConfig, Mapping[str, Weight]], Graph]

WIDE: dict[str, Attribute] = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
NARROW: dict[str, Attribute] = {"num_heads": 8, "num_kv_heads": 4, "head_dim": 16}
TURNS: dict[str, Attribute] = {"rope_dim": 32, "interleaved": True, "epsilon": 1e-5}
STILL: dict[str, Attribute] = {**TURNS, "rope_dim": 0}


def drawn(weights: Mapping[str, Weight], attend: Callable[[GraphBuilder, int, str], str], layers: int) -> Graph:
    """A llama, but for its attention."""
    g = GraphBuilder(weights)
    hidden = g.embed("embedded", "token_embedding")
    for number in range(layers):
        layer = g.layer(number)
        attended = attend(layer, number, layer.norm("attention_normed", hidden, "attention_norm", 1e-5))
        hidden = layer.add("attention_residual", hidden, layer.linear("attention_out", attended, "attention_output"))
        gated = layer.linear("gate_up", layer.norm("ffn_normed", hidden, "ffn_norm", 1e-5), "ffn_gate", "ffn_up")
        hidden = layer.add("residual", hidden, layer.linear("out", layer.gate("gated", gated, "silu"), "ffn_down"))
    normed = g.norm("final_normed", hidden, "output_norm", 1e-5, LOGITS)
    g.sample("sampled", g.linear("logits", normed, "token_embedding"))
    return verify(g.graph())


def unlike(_config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """Wide heads in a window; narrow ones that nothing turns, capped; queries alone with ALiBi, over the first layer's
    keys; wide ones in chunks."""
    forms: tuple[dict[str, Attribute], ...] = ({"window": 9}, {"softcap": 3.0}, {"max_bias": 8.0}, {"chunk": 16})
    rotated: dict[int, str] = {}

    def attend(g: GraphBuilder, number: int, normed: str) -> str:
        heads = NARROW if number == 1 else WIDE
        names = ("attention_q",) if number == 2 else ("attention_q", "attention_k", "attention_v")
        qkv = g.linear("qkv", normed, *names)
        own = {**heads, "num_kv_heads": 0} if number == 2 else heads
        rope = STILL if number == 1 else TURNS
        rotated[number] = g.rope_kv("rotated", qkv, (), "rope_table", "", layer=number, **rope, **own)
        shared, layer = (rotated[0], 0) if number == 2 else ("", number)
        form: dict[str, Attribute] = {**heads, **forms[number]}
        return g.attention("attended", rotated[number], 128, shared, "", layer=layer, scale=0.4, **form)

    return drawn(weights, attend, 4)


def both_ways(_config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """All layers use one cache, in turn; two of them see a window of 10."""

    def attend(g: GraphBuilder, number: int, normed: str) -> str:
        qkv = g.linear("qkv", normed, "attention_q", "attention_k", "attention_v")
        rotated = g.rope_kv("rotated", qkv, (), "rope_table", "", layer=0, **TURNS, **WIDE)
        window: dict[str, Attribute] = {"window": 10} if number % 2 else {}
        return g.attention("attended", rotated, 128, "", "", layer=0, scale=0.4, both_ways=True, **window, **WIDE)

    return drawn(weights, attend, 4)


class Rounding(Interpreter):
    """With keys and values rounded to float16, as the cache has them."""

    def write(self, node: Node, result: np.ndarray) -> None:
        if node.op == "rope_kv":
            queries = node.integer("num_heads") * node.integer("head_dim")
            result[:, queries:] = result[:, queries:].astype(np.float16)
        super().write(node, result)


class Made:
    """A bundle, and what its graph means."""

    def __init__(self, draw: Drawn, archs: tuple[str, ...], folder: Path, cache: BuildCache) -> None:
        path, goal = folder / "model.gguf", folder / "model.rfb"
        write_model(path, quantization="F32", head_dim=32, num_layers=4, context_length=96)
        options = CompileOptions(path, goal, ("host", *archs), toolchain="zig")
        with pytest.MonkeyPatch.context() as patch, PlainProgress() as progress, building_levels(("portable",)):
            patch.setattr(model_module, "build_graph", draw)
            compile_model(options, cache, progress, make_golden)
            model = read_model(options, Silent())
        self.graph = model.graph
        infos = weight_tensors(model.gguf, model.config)
        self.numbers = {
            role: read_floats(model.gguf, info).reshape(info.shape).astype(np.float64) for role, info in infos.items()
        }
        for role, table in model.config.tables().items():
            self.numbers[role] = table.numbers(None, 96).astype(np.float64)
        self.bundle: Bundle = open_bundle(goal)

    def logits(self, ids: list[int]) -> np.ndarray:
        return Rounding(self.graph, self.numbers, ids).run()


@pytest.fixture(scope="module")
def layers_unlike(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = Made(unlike, PLACES[1:], tmp_path_factory.mktemp("unlike"), build_cache)
    with made.bundle:
        yield made


@pytest.fixture(scope="module")
def seen_both_ways(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = Made(both_ways, PLACES[1:2], tmp_path_factory.mktemp("both_ways"), build_cache)
    with made.bundle:
        yield made


def load(bundle: Bundle, place: str) -> Program:
    return load_host_program(bundle, 64, 1, place) if place in LEVELS else load_gpu(bundle, place)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference over the standard deviation.

    Float32 sums, 2^-24 x sqrt(128) of a term, in 4 layers of which each may amplify that ten times: far below 0.0005;
    as is what a rounding to float16 may differ by, 2^-11 of an element in a thousand.
    """
    return float(np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected))


GREEDY = SamplingParams(temperature=0.0)
IDS = np.random.default_rng(5).integers(0, 320, 40).tolist()


@pytest.mark.parametrize("place", PLACES)
def test_layers_with_unlike_caches(layers_unlike: Made, place: str) -> None:
    bundle = layers_unlike.bundle
    kv = bundle.layout_of(next(t for t in bundle.manifest.targets if t.arch in (place, "host"))).kv
    assert kv.caches == (KvCache(2, 32, 32), KvCache(4, 16, 16), KvCache(2, 32, 32))
    assert kv.bytes_per_block == 3 * 16 * 2 * 64 * 2
    program = load(bundle, place)
    whole = run(program, [(0, 0, IDS)])
    assert error(whole, layers_unlike.logits(IDS)) < 0.0005
    chunks = [run(program, [(1, start, IDS[start : start + size])]) for start, size in ((0, 7), (7, 20), (27, 9))]
    decoded = [run(program, [(1, position, IDS[position : position + 1])]) for position in range(36, 40)]
    assert np.array_equal(np.concatenate([*chunks, *decoded]), whole)
    run(program, [(2, 0, IDS[:10]), (3, 0, IDS[:25])])
    batch = run(program, [(2, 10, IDS[10:20]), (4, 0, IDS[:16]), (3, 25, IDS[25:26])])
    assert np.array_equal(batch, np.concatenate([whole[10:20], whole[:16], whole[25:26]]))
    program.close()


@pytest.mark.parametrize("place", PLACES[:2])
def test_a_text_seen_both_ways(seen_both_ways: Made, place: str) -> None:
    assert seen_both_ways.bundle.layout.both_ways
    assert seen_both_ways.bundle.layout.kv.num_layers == 1
    program = load(seen_both_ways.bundle, place)
    whole = run(program, [(0, 0, IDS)])
    assert error(whole, seen_both_ways.logits(IDS)) < 0.0005
    short = run(program, [(1, 0, IDS[:5])])
    assert error(short, seen_both_ways.logits(IDS[:5])) < 0.0005
    assert error(short, whole[:5]) > 0.1  # what comes later is seen
    batch = run(program, [(2, 0, IDS[:5]), (3, 0, IDS), (4, 0, IDS[:5])])
    assert np.array_equal(batch, np.concatenate([short, whole, short]))
    records = record_golden(program, [IDS[:12]])
    answer = list(IDS[:12])
    for token in records[0]["greedy"]:  # type: ignore[attr-defined]
        assert token == int(np.argmax(run(program, [(5, 0, answer)])[-1]))
        answer.append(token)
    program.close()


def test_golden_records_hold_on_a_gpu(seen_both_ways: Made) -> None:
    program = load(seen_both_ways.bundle, "gfx1100")
    expected = seen_both_ways.bundle.manifest.golden
    found = record_golden(program, [list(record["prompt"]) for record in expected])  # type: ignore[call-overload]
    assert compare_golden(expected, found, 0.1) == []
    program.close()


def test_prefixes_are_shared_where_caches_are_unlike(layers_unlike: Made) -> None:
    bundle, tokenizer = layers_unlike.bundle, load_tokenizer(layers_unlike.bundle)
    request = GenerationRequest(tuple(IDS), 8, GREEDY, ignore_eos=True)
    with serving(load(bundle, PLACES[0]), tokenizer, 96) as engine:
        first, again = (ended(engine.submit(request)) for _ in range(2))
        assert engine.stats().prefix_hit_tokens == 32
    assert first.tokens == again.tokens
    with serving(load(bundle, PLACES[0]), tokenizer, 96, limits=EngineLimits(prefill_tokens=3)) as engine:
        beside = engine.submit(GenerationRequest((5,), 20, ignore_eos=True))
        assert ended(engine.submit(request)).tokens == first.tokens
        ended(beside)


def test_the_engine_computes_texts_whole_where_they_are_seen_both_ways(seen_both_ways: Made) -> None:
    bundle, tokenizer = seen_both_ways.bundle, load_tokenizer(seen_both_ways.bundle)
    request = GenerationRequest(tuple(IDS), 6, GREEDY, ignore_eos=True)
    limits = EngineLimits(prefill_tokens=3, draft_tokens=2)
    with serving(load(bundle, PLACES[0]), tokenizer, 96, limits=limits) as engine:
        beside = [engine.submit(GenerationRequest((5,) * n, 12, ignore_eos=True)) for n in (1, 30)]
        embeddings = engine.embed([EmbeddingRequest(tuple(IDS), "mean"), EmbeddingRequest(tuple(IDS), "last")])
        found = [pending.result(60.0) for pending in embeddings]
        generated = [ended(engine.submit(request)).tokens for _ in range(2)]
        for other in beside:
            assert ended(other).error is None
        assert engine.stats().prefix_hit_tokens == 0
    program = load(bundle, PLACES[0])
    answer = list(IDS)
    for token in generated[0]:
        assert token == int(np.argmax(run(program, [(0, 0, answer)])[-1]))
        answer.append(token)
    assert generated[0] == generated[1]
    run(program, [(0, 0, IDS)])
    states = program.hidden(0, len(IDS)).astype(np.float64)
    for vector, sums in zip(found, (states.sum(0), states[-1]), strict=True):
        assert vector is not None
        assert np.allclose(vector, sums / np.linalg.norm(sums), atol=1e-6)
    program.close()


@pytest.mark.parametrize(
    "request_, message",
    [
        (GenerationRequest((5,) * 60, 4, prompt_logprobs=0), "prompt_logprobs: expected none of a model"),
    ],
)
def test_what_cannot_be_asked_where_texts_are_seen_both_ways(
    seen_both_ways: Made, request_: GenerationRequest, message: str
) -> None:
    with (
        serving(load(seen_both_ways.bundle, PLACES[0]), load_tokenizer(seen_both_ways.bundle), 96) as engine,
        pytest.raises(RequestError, match=message),
    ):
        engine.submit(request_)
