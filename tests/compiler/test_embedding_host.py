"""The host's kernel that looks tokens up in weights of every type, against the `gguf` package, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.packing import pack_rows
from rocmforge.compiler.plan import KernelSpec
from rocmforge.tests.kernel_harness import (
    LEVELS,
    WEIGHT_TYPES,
    Kernels,
    Step,
    assert_guards_whole,
    build,
    dequantize,
    guarded,
    random_rows,
    spec,
    weight_parameters,
)

Built = Callable[[str], Kernels]
ROWS, COLUMNS = 41, 512
TOKENS = [40, 0, 15, 16, 31, 32, 7, 40]  # of the last tile, which is short, and around where tiles meet


def embedding(kind: str) -> KernelSpec:
    return spec("embedding", **weight_parameters(kind, COLUMNS))


@pytest.fixture(scope="module")
def built(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("kernels")
    return build([embedding(kind) for kind in WEIGHT_TYPES], build_cache, folder, LEVELS).__getitem__


@pytest.mark.parametrize("by_item", [False, True])
@pytest.mark.parametrize("kind", WEIGHT_TYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_rows_are_those_of_the_tokens(built: Built, level: str, kind: str, by_item: bool) -> None:
    raw = random_rows(np.random.default_rng(2), kind, ROWS, COLUMNS)
    out, memory = guarded((len(TOKENS), COLUMNS), np.float32)
    step = Step(len(TOKENS), token_ids=TOKENS)
    built(level).run(embedding(kind), step, pack_rows(raw, kind, COLUMNS), out, by_item=by_item)
    assert np.array_equal(out, dequantize(raw, kind)[TOKENS])
    assert_guards_whole(memory)
