"""Fixtures of the engine's tests: a small model of random weights, whose every request is a fraction of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.tokenizer_config import TokenizerConfig
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import CONTEXT
from rocmforge.tests.support.programs import compiled
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache) -> Iterator[Bundle]:
    """Of a generated model with a context of `CONTEXT`."""
    path = tmp_path_factory.mktemp("engine") / "model.gguf"
    write_model(path, context_length=CONTEXT)
    with compiled(path, build_cache) as opened:
        yield opened


@pytest.fixture(scope="session")
def tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's."""
    config = TokenizerConfig.from_json(bundle.path, bundle.manifest.tokenizer)
    return Tokenizer(bundle.read("tokenizer.json").decode(), config)
