"""Attention in every form that a model may have: on the host and on emulated GPUs, against NumPy, alike to the bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Node, Value, Weight
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.ops.attention import SPLIT_TOKENS, host_record_floats
from rocmforge.compiler.plan import KernelSpec, Parameter, float_literal
from rocmforge.tests.kernels.hip_harness import CONFIG, Gpu, Launches, fitting, lower
from rocmforge.tests.kernels.kernel_harness import (
    LEVELS,
    Array,
    Float64,
    Kernels,
    assert_guards_whole,
    attention_records,
    build,
    guarded,
    spec,
)
from rocmforge.tests.oracles import attention as oracle
from rocmforge.tests.oracles.attention import Form, Scene, attend, scene

Built = Callable[[str], Kernels]

FORMS: dict[str, Form] = {
    "window": Form(window=24),
    "window-of-one": Form(heads=1, kv_heads=1, window=1),
    "window-of-two-spans": Form(heads=9, kv_heads=3, head_dim=64, value_dim=64, window=270),
    "chunk": Form(chunk=32),
    "softcap": Form(softcap=2.5),
    "softcap-and-window": Form(head_dim=48, value_dim=48, softcap=50.0, window=100),
    "alibi": Form(heads=4, kv_heads=4, max_bias=8.0),
    "alibi-of-6-heads": Form(heads=6, kv_heads=2, max_bias=8.0),
    "sinks": Form(sinks=True),
    "sinks-and-window": Form(heads=8, kv_heads=1, head_dim=64, value_dim=64, sinks=True, window=128),
    "both-ways": Form(both_ways=True),
    "both-ways-window": Form(both_ways=True, window=31, heads=3, kv_heads=3),
    "both-ways-alibi": Form(both_ways=True, max_bias=8.0),
    "small-values": Form(head_dim=64, value_dim=32),
    "queries-alone": Form(queries_alone=True, window=40),
    "odd-head": Form(head_dim=20, value_dim=20),
    "odd-values": Form(head_dim=36, value_dim=7),
    "smallest-head": Form(head_dim=2, value_dim=2),
    "8-bits": Form(kv_dtype="q8_0", window=24, softcap=30.0, sinks=True),
    "8-bits-small-values": Form(kv_dtype="q8_0", head_dim=96, value_dim=32),
    "large-head": Form(heads=2, kv_heads=1, head_dim=288, value_dim=272),
    "largest-head": Form(heads=2, kv_heads=1, head_dim=576, value_dim=512),
    "latent": Form(heads=4, kv_heads=1, head_dim=576, value_dim=512, values_in_keys=True),
    "latent-odd": Form(heads=3, kv_heads=1, head_dim=30, value_dim=21, values_in_keys=True, window=40, softcap=3.0),
    "latent-of-8-bits": Form(heads=5, kv_heads=1, head_dim=288, value_dim=256, values_in_keys=True, kv_dtype="q8_0"),
    "latent-in-lds": Form(heads=6, kv_heads=1, head_dim=96, value_dim=64, values_in_keys=True, kv_dtype="q8_0"),
    "large-head-of-8-bits": Form(heads=1, kv_heads=1, head_dim=512, value_dim=512, kv_dtype="q8_0"),
}


ELSEWHERE = ("softcap-and-window", "alibi-of-6-heads", "sinks-and-window", "odd-values")  # at other levels of the host
ON_WAVES_OF_64 = (
    "window",
    "chunk",
    "both-ways-window",
    "sinks-and-window",
    "odd-values",
    "8-bits",
    "largest-head",
    "latent",
)


def host_spec(form: Form, out_q8: bool = False) -> KernelSpec:
    """As `ops/attention.py` says it."""
    parameters: dict[str, Parameter] = {
        name: float_literal(value) if isinstance(value, float) else value for name, value in form.attributes.items()
    }
    parameters |= {"sinks": True} if form.sinks else {}
    parameters |= {"query_stride": form.stride} if form.queries_alone else {}
    shape = {"num_heads": form.heads, "num_kv_heads": form.kv_heads, "head_dim": form.head_dim}
    scale = float_literal(form.head_dim**-0.5)
    return spec("attention", scale=scale, out_q8=out_q8, kv_q8_0=form.kv_dtype == "q8_0", **shape, **parameters)


def hip_launches(arch: str, form: Form) -> Launches:
    """As `ops/attention.py` lowers a node."""
    heads = {"layer": 0, "num_heads": form.heads, "num_kv_heads": form.kv_heads, "head_dim": form.head_dim}
    attributes = {**heads, "scale": form.head_dim**-0.5, **form.attributes}
    values = (
        Value("x", "T", form.stride),
        Value("y", "T", form.heads * form.value_dim),
        Value("z", "T", form.kv_columns),
    )
    weights = (Weight("sinks", (form.heads,), "F32"),) if form.sinks else ()
    inputs = ("x", "z") if form.queries_alone else ("x",)
    node = Node("attention", inputs, "y", tuple(weight.name for weight in weights), attributes)
    return lower(arch, node, values, weights, CONFIG, form.kv_dtype)


@pytest.fixture(scope="module")
def built(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder, loaded = tmp_path_factory.mktemp("kernels"), {}
    for level in LEVELS:
        names = FORMS if level == LEVELS[0] else ELSEWHERE
        specs = [host_spec(FORMS[name]) for name in names]
        loaded[level] = build(specs, build_cache, folder, [level])[level]
    return loaded.__getitem__


def on_host(kernels: Kernels, s: Scene, by_item: bool = False) -> Array:
    form = s.form
    out, memory = guarded((s.step.num_tokens, form.heads, form.value_dim), np.float32)
    sinks = s.sinks if form.sinks else None
    records = attention_records(form.heads, form.value_dim, 16 * len(s.blocks[0]))
    kernels.run(host_spec(form), s.step, s.rows, *s.pages(), out, records, sinks, by_item=by_item)
    assert not records[: host_record_floats(form.heads, form.value_dim, 0)].any()  # for the next step
    assert_guards_whole(memory)
    return out


@cache
def judged(name: str, multiple: int) -> tuple[Scene, Float64, Float64]:
    """A scene of that form, with what is expected and how far it may be off."""
    s = scene(FORMS[name], multiple)
    expected, tolerance = attend(s)
    assert tolerance.max() < 0.01
    return s, expected, tolerance


@pytest.mark.parametrize(
    "level, name", [(level, n) for level in LEVELS for n in FORMS if level == LEVELS[0] or n in ELSEWHERE]
)
def test_attention_on_the_host(built: Built, level: str, name: str) -> None:
    s, expected, tolerance = judged(name, 16)
    found = on_host(built(level), s.unseen_blocks_spoilt(), by_item=True)
    assert (np.abs(found - expected) <= tolerance).all()
    if level == LEVELS[0]:
        assert on_host(built(level), s).tobytes() == found.tobytes()
        for tokens in s.few_together():
            part = s.some(tokens).unseen_blocks_spoilt()
            assert on_host(built(level), part).tobytes() == found[tokens].tobytes()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["odd-values", "sinks-and-window"])
def test_threads_share_spans_of_few_tokens(
    built: Built, monkeypatch: pytest.MonkeyPatch, level: str, name: str
) -> None:
    monkeypatch.setattr(oracle, "LENGTH", 1104)
    monkeypatch.setattr(oracle, "CAUSAL", ((0, 1020, 20), (1, 512, 8), (2, 3, 1), (3, 1099, 1)))
    s = scene(FORMS[name], 16)
    expected, tolerance = attend(s)
    found = on_host(built(level), s.unseen_blocks_spoilt())
    assert (np.abs(found - expected) <= tolerance).all()
    for tokens in (slice(19, 20), slice(3, 11), slice(17, 24), slice(27, 30)):
        part = s.some(tokens).unseen_blocks_spoilt()
        for by_item in (False, True):
            assert on_host(built(level), part, by_item).tobytes() == found[tokens].tobytes()


def on_gpu(gpu: Gpu, launches: Launches, s: Scene) -> Array:
    """With what the runtime launches for so many tokens."""
    form, count = s.form, s.step.num_tokens
    out = np.full((count, form.heads, form.value_dim), np.nan, np.float32)
    splits = int(dict(launches[0][0].parameters)["max_splits"])
    records = np.full((SPLIT_TOKENS, form.heads, splits, -(-form.value_dim // 8) * 8 + 4), np.nan, np.float32)
    padded = np.full((256, form.stride), np.nan, np.float32)  # the arena has rows behind the last token's
    padded[:count] = s.rows
    pages, sinks = s.pages(lanes=True), s.sinks if form.sinks else None
    for kernel, grid in fitting(launches, count):
        arguments = {
            "attention_split": (padded, *pages, records),
            "attention_merge": (records, out, sinks),
            "attention_tiled": (padded, *pages, out, sinks),
        }[kernel.template]
        gpu.run(kernel, grid, s.step, *arguments)
    return out


@pytest.mark.parametrize(
    "arch, name", [*(("gfx1100", name) for name in FORMS), *(("gfx942", name) for name in ON_WAVES_OF_64)]
)
def test_attention_on_a_gpu(build_cache: BuildCache, arch: str, name: str) -> None:
    s, expected, tolerance = judged(name, 8)
    launches = hip_launches(arch, s.form)
    gpu = Gpu(arch, [kernel for kernel, _ in launches], build_cache)
    found = on_gpu(gpu, launches, s.unseen_blocks_spoilt())
    assert s.step.num_tokens > SPLIT_TOKENS
    assert (np.abs(found - expected) <= tolerance).all()
    for tokens in s.few_together():
        part = s.some(tokens).unseen_blocks_spoilt()
        assert on_gpu(gpu, launches, part).tobytes() == found[tokens].tobytes()


@pytest.mark.parametrize("name", FORMS)
def test_what_the_operation_means(name: str) -> None:
    """Of a sequence from its first token on, keys and values in its rows; head by head, key by key."""
    form, random, count = FORMS[name], np.random.default_rng(3), 40
    keys = random.normal(0, 1, (count, form.kv_heads, form.head_dim))
    values = random.normal(0, 1, (count, form.kv_heads, form.value_dim))
    values = keys[..., : form.value_dim] if form.values_in_keys else values
    queries, sinks = random.normal(0, 1, (count, form.heads, form.head_dim)), random.normal(1, 1, form.heads)
    heads = {"layer": 0, "num_heads": form.heads, "num_kv_heads": form.kv_heads, "head_dim": form.head_dim}
    node = Node("attention", ("x",), "y", (), {**heads, "scale": 0.3, **form.attributes})
    query, *kv = (part.reshape(count, -1) for part in (queries, keys, values)[: 2 if form.values_in_keys else 3])
    rows = np.concatenate(kv, axis=1)
    inputs = [query, rows] if form.queries_alone else [np.concatenate([query, rows], axis=1)]
    found = OPERATIONS["attention"].compute(node, inputs, [sinks] if form.sinks else [])
    for t, head in itertools.product((0, 7, 33, 39), range(form.heads)):
        own, total, wanted = head * form.kv_heads // form.heads, 0.0, np.zeros(form.value_dim)
        for key in (k for k in range(count) if form.sees(t, k, count)):
            score = 0.3 * float(queries[t, head] @ keys[key, own])
            score = form.softcap * math.tanh(score / form.softcap) if form.softcap else score
            weight = math.exp(score - form.slope(head) * abs(t - key) * bool(form.max_bias))
            total, wanted = total + weight, wanted + weight * values[key, own]
        total += math.exp(sinks[head]) * form.sinks
        np.testing.assert_allclose(found[t].reshape(form.heads, -1)[head], wanted / total, rtol=1e-9, atol=1e-12)
