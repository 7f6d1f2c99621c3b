"""Products of panels of tokens by AMX's tiles, which have the bits of all other products: those of pairs of tiles.

Few machines have tiles: everywhere they are emulated (`emulated_tiles.h`), at the best level and the last, and where
the processor has them they are the processor's.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.host import cpu_features
from rocmforge.compiler.build import build_variants, find_toolchain
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.packing import interleave_pairs, pack_rows
from rocmforge.compiler.plan import KernelSpec
from rocmforge.compiler.render import Source, render_kernel, render_program
from rocmforge.compiler.target import TARGETS
from rocmforge.runtime.device.panels import PROBLEMS, panels_problem
from rocmforge.tests.kernels.kernel_harness import (
    FLOAT_TYPES,
    LEVELS,
    LIKE_ANOTHER,
    Q8_BLOCK,
    WEIGHT_TYPES,
    Array,
    Kernels,
    Step,
    assert_guards_whole,
    guarded,
    int8_rows,
    product_parameters,
    random_rows,
    spec,
)

EMULATION = Path(__file__).with_name("emulated_tiles.h").read_text("utf-8")
pytestmark = pytest.mark.skipif("portable" not in LEVELS, reason="tiles are x86-64's")

ROWS, STRIDE, OFFSET = 41, 60, 5
TOKENS = (15, 16, 29, 56, 150, 275)  # none, one, one and others, three and others, eight and more, twice eight
KINDS = tuple(kind for kind in WEIGHT_TYPES if kind not in (*FLOAT_TYPES, *LIKE_ANOTHER))
GATED = ("Q8_0", "Q4_K", "Q6_K")


def columns(kind: str, x_super: bool = False) -> int:
    """A span of blocks, and where blocks are of 32 columns a rest of one; of superblocks two."""
    return 288 if not x_super and kind in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4") else 512


def matmul(kind: str, x_super: bool = False) -> KernelSpec:
    return spec(
        "matmul",
        **{"rows": ROWS, "out_stride": STRIDE, "out_offset": OFFSET, "has_bias": True, "accumulate": True},
        at_logits_rows=False,
        **product_parameters(kind, columns(kind, x_super), x_super),
    )


def gate_up(kind: str) -> KernelSpec:
    return spec("gate_up", rows=96, out_q8=True, activation="silu", **product_parameters(kind, 256))


def of_outputs(kernel: KernelSpec) -> KernelSpec:
    """The same kernel, of tokens of which outputs are read."""
    return spec(kernel.template, **dict(kernel.parameters), at_output_rows=True)


OF_SUPERBLOCKS = ("Q8_0", "Q4_1", "NVFP4")
"""Types that are multiplied with blocks or with superblocks, which are tried with both."""
OF_OUTPUTS = tuple(of_outputs(kernel) for kernel in (matmul("Q8_0"), matmul("Q4_K"), gate_up("Q4_K")))
SPECS = (*map(matmul, KINDS), *(matmul(kind, True) for kind in OF_SUPERBLOCKS), *map(gate_up, GATED), *OF_OUTPUTS)
EMULATED = tuple(dict.fromkeys((LEVELS[0], LEVELS[-1])))
FEW = (*map(matmul, GATED), gate_up("Q4_K"), *OF_OUTPUTS)
"""At another level than the best."""


def compiled(sources: tuple[Source, ...], level: str, path: Path, cache: BuildCache) -> Path:
    """A shared object of sources at a level, with less optimization than the product's: it may change no bit."""
    host = TARGETS["host"]
    variant = next(one for one in host.variants if one.level == level)
    target = replace(host, variants=(replace(variant, flags=(*variant.flags, "-O1"), plain_flags=None),))
    toolchain = find_toolchain("auto", target)
    (code,) = build_variants(sources, target, toolchain, cache, lambda _done, _total: None, 2)
    path.write_bytes(code.data)
    return path


@pytest.fixture(scope="module", params=[*(f"emulated-{level}" for level in EMULATED), "real"])
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache
) -> tuple[Kernels, Kernels]:
    """The kernels with tiles, and those of the same level without; all at the best level, else `FEW`."""
    folder = tmp_path_factory.mktemp("panels")
    kind, _, level = request.param.partition("-")
    plain = tuple(render_kernel("host", one) for one in (SPECS if level in ("", LEVELS[0]) else FEW))
    if kind == "emulated":
        sources = tuple(replace(source, text=EMULATION + source.text) for source in plain)
        with_tiles = compiled(sources, level, folder / "tiles.so", build_cache)
    else:
        if not {"amx_tile", "amx_int8"} <= cpu_features():
            pytest.skip("the processor has no tiles")
        level = "x86_64_v4"
        with_tiles = compiled((*plain, render_program()), "x86_64_amx", folder / "tiles.so", build_cache)
        if problem := panels_problem(ctypes.CDLL(str(with_tiles))):
            pytest.skip(problem)
    return Kernels(with_tiles), Kernels(compiled(plain, level, folder / "plain.so", build_cache))


def skip_missing(built: tuple[Kernels, Kernels], kernel: KernelSpec) -> None:
    if not built[0].has(kernel):
        pytest.skip("at the best level alone")


def activations(random: np.random.Generator, kind: str, tokens: int, count: int, x_super: bool = False) -> Array:
    """Rows as int8; some are zeros, and of some the largest quants are many."""
    x = random.normal(0, 1, (tokens, count)).astype(np.float32)
    x[::7] = np.sign(x[::7])
    x[3, :40] = 0
    return int8_rows(x, kind, x_super)


@pytest.mark.parametrize(
    ("kind", "x_super"), [*((kind, False) for kind in KINDS), *((kind, True) for kind in OF_SUPERBLOCKS)]
)
def test_products_have_the_bits_of_others(kind: str, x_super: bool, built: tuple[Kernels, Kernels]) -> None:
    kernel = matmul(kind, x_super)
    skip_missing(built, kernel)
    random, count = np.random.default_rng(3), columns(kind, x_super)
    weights = pack_rows(random_rows(random, kind, ROWS, count), kind, count)
    bias = random.normal(0, 1, ROWS).astype(np.float32)
    for tokens in TOKENS:
        x = activations(random, kind, tokens, count, x_super)
        before = random.normal(0, 1, (tokens, STRIDE)).astype(np.float32)
        found = []
        for kernels in built:
            out, memory = guarded((tokens, STRIDE), np.float32)
            out[:] = before
            kernels.run(kernel, Step(tokens), weights, x, out, bias, by_item=True)
            assert_guards_whole(memory)
            found.append(out.tobytes())
        assert found[0] == found[1], tokens
        assert found[0] != before.tobytes()


@pytest.mark.parametrize("kind", GATED)
def test_gates_have_the_bits_of_others(kind: str, built: tuple[Kernels, Kernels]) -> None:
    skip_missing(built, gate_up(kind))
    random = np.random.default_rng(4)
    gate, up = (random_rows(random, kind, 96, 256) for _ in range(2))
    weights = pack_rows(interleave_pairs(gate, up), kind, 256)
    for tokens in TOKENS:
        x, found = activations(random, kind, tokens, 256), []
        for kernels in built:
            out, memory = guarded((tokens, 3), Q8_BLOCK)
            kernels.run(gate_up(kind), Step(tokens), weights, x, out)
            assert_guards_whole(memory)
            found.append(out.tobytes())
        assert found[0] == found[1], tokens


@pytest.mark.parametrize("kernel", OF_OUTPUTS, ids=lambda kernel: kernel.symbol)
def test_chosen_tokens_have_the_bits_of_others(kernel: KernelSpec, built: tuple[Kernels, Kernels]) -> None:
    """Panels are of neighbours: of more than two panels, of one, and of none."""
    skip_missing(built, kernel)
    random, parameters = np.random.default_rng(6), dict(kernel.parameters)
    kind, count, gated = str(parameters["weight_type"]), int(parameters["columns"]), kernel.template == "gate_up"
    rows = 192 if gated else ROWS
    weights = pack_rows(random_rows(random, kind, rows, count), kind, count)
    bias = None if gated else random.normal(0, 1, ROWS).astype(np.float32)
    x = activations(random, kind, 90, count)
    found = []
    for kernels in built:
        for chosen in ((0, *range(3, 40), 44, *range(60, 76)), ()):
            out, memory = guarded((90, 3), Q8_BLOCK) if gated else guarded((90, STRIDE), np.float32)
            out.view(np.uint8)[:] = 1
            kernels.run(kernel, Step(90, output_rows=chosen), weights, x, out, bias)
            assert_guards_whole(memory)
            found.append(out.tobytes())
    assert found[:2] == found[2:]
    assert found[0] != found[1]


def test_infinite_and_undefined_activations_too(built: tuple[Kernels, Kernels]) -> None:
    random = np.random.default_rng(5)
    weights = pack_rows(random_rows(random, "Q6_K", ROWS, 512), "Q6_K", 512)
    x = random.normal(0, 1, (16, 512)).astype(np.float32)
    blocks = int8_rows(x, "Q6_K")
    blocks["unit"][3, 1], blocks["unit"][5, 0] = np.inf, np.nan
    found = []
    for kernels in built:
        out = np.zeros((16, STRIDE), np.float32)
        kernels.run(matmul("Q6_K"), Step(16), weights, blocks, out, np.zeros(ROWS, np.float32))
        found.append(out)
    assert np.array_equal(found[0], found[1], equal_nan=True)
    assert np.isnan(found[0][5]).any()
    assert np.isfinite(found[0][4]).all()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"])
def test_the_code_of_the_level_holds_products_of_tiles(kind: str, tmp_path: Path, build_cache: BuildCache) -> None:
    """VEX.128.F2.0F38.W0 5E: tdpbssd of tmm3, tmm0, tmm1 and of tmm4, tmm0, tmm2."""
    source = render_kernel("host", matmul(kind))
    assert source.panels
    levels = {level: compiled((source,), level, tmp_path / "a.so", build_cache).read_bytes() for level in BOTH}
    both = [len(re.findall(rb"\xc4\xe2\x73\x5e\xd8\xc4\xe2\x6b\x5e\xe0", code)) for code in levels.values()]
    assert both[0] > 0
    assert both[1] == 0


BOTH = ("x86_64_amx", "x86_64_v4")


def test_only_sources_with_panels_are_compiled_for_tiles(tmp_path: Path, build_cache: BuildCache) -> None:
    """The others' objects are those of x86_64_v4, from the cache."""
    host = TARGETS["host"]
    amx, v4 = (next(one for one in host.variants if one.level == level) for level in BOTH)
    floats = render_kernel("host", matmul("F16"))
    norm = render_kernel("host", spec("norm", columns=64, epsilon="1e-5f", out_q8=False, at_logits_rows=False))
    assert not floats.panels
    assert not norm.panels
    assert amx.flags == (*v4.flags, "-mamx-tile", "-mamx-int8")
    target = replace(host, variants=(amx, v4))
    with_tiles, without = build_variants(
        (floats, norm), target, find_toolchain("auto", target), build_cache, lambda _done, _total: None, 2
    )
    assert with_tiles.data == without.data


CHECKED = """
EXPORT int32_t differ(void) { return panels_differ(); }
EXPORT int32_t tried(void) { return try_panels(); }
"""


@pytest.mark.parametrize("fault, answer", [("", 0), ("#define TILES_WRONG\n", 5), ("#define TILES_TRAP\n", 5)])
def test_tiles_are_tried_before_they_are_used(fault: str, answer: int, tmp_path: Path, build_cache: BuildCache) -> None:
    """Of one that computes something else, and of one that ends the process that uses it."""
    program = render_program()
    source = replace(program, text=fault + EMULATION + program.text + CHECKED)
    library = ctypes.CDLL(str(compiled((source,), "portable", tmp_path / "program.so", build_cache)))
    assert library.tried() == answer
    if "TRAP" not in fault:
        assert library.differ() == (answer != 0)


@pytest.mark.skipif({"amx_tile", "amx_int8"} <= cpu_features(), reason="the processor has tiles")
def test_a_processor_without_tiles_says_so(tmp_path: Path, build_cache: BuildCache) -> None:
    sources = tuple(replace(one, text=fault + one.text) for one, fault in ((render_program(), EMULATION),))
    library = ctypes.CDLL(str(compiled(sources, "portable", tmp_path / "program.so", build_cache)))
    assert panels_problem(library) == PROBLEMS[1]
    plain = ctypes.CDLL(str(compiled((render_program(),), "portable", tmp_path / "plain.so", build_cache)))
    assert panels_problem(plain) == ""
