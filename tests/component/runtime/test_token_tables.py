"""Models whose tokenizer is a table: compiled, run, streamed and served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon.testing
import pytest

import rocmforge
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.tokenizer import build_tokenizer
from rocmforge.runtime.http.app import HttpLimits, create_app
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.text.chat import ChatTemplate
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine
from rocmforge.tests.support.programs import compiled
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.tokenizer_table.vocabularies import merged, scored

GEMMA4 = merged("") | {"tokenizer.ggml.model": "gemma4"}


@pytest.mark.parametrize("metadata", [scored("llama"), GEMMA4], ids=["llama", "gemma4"])
def test_a_model_says_the_same_in_a_stream_and_at_once(
    metadata: dict[str, Any], tmp_path: Path, build_cache: BuildCache
) -> None:
    """Its words come of bytes, spaces and control tokens by chance: the weights are random."""
    path = tmp_path / "model.gguf"
    write_model(path, "llama", "F32", vocab_size=len(metadata["tokenizer.ggml.tokens"]), tokenizer=metadata)
    params = rocmforge.GenerationParams(max_tokens=40, temperature=1.5, seed=3)
    with compiled(path, build_cache) as bundle, rocmforge.load(bundle.path, device="host") as model:
        whole = model.generate("the quick fox", params)
        assert len(whole.token_ids) > 5
        assert whole.text == model.decode(whole.token_ids)
        assert "".join(piece.text for piece in model.stream("the quick fox", params)) == whole.text
        digits = rocmforge.GenerationParams(max_tokens=20, seed=3, regex="[0-9]{5}", temperature=1.5)
        assert model.generate("12", digits).text.isdigit()


def client_of(metadata: dict[str, Any]) -> falcon.testing.TestClient:
    artifact = build_tokenizer(metadata, Path("model.gguf"))
    tokenizer = Tokenizer(artifact.json, artifact.config)
    template = ChatTemplate("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}", "", "")
    service = Service(FakeEngine(vocab_size=tokenizer.config.vocab_size), tokenizer, template, MODEL)
    return falcon.testing.TestClient(create_app(OneModel(service), Metrics(), HttpLimits(poll_seconds=0.02)))


def test_texts_over_http() -> None:
    client = client_of(scored("llama"))
    tokens = client.simulate_post("/tokenize", json={"content": "the字", "with_pieces": True}).json["tokens"]
    # A space is put first, as llama.cpp's server has it too, and bytes stand for what is no token.
    assert [token["piece"] for token in tokens] == [" ", "the", [0xE5], [0xAD], [0x97]]
    ids = [token["id"] for token in tokens]
    assert client.simulate_post("/detokenize", json={"tokens": ids}).json["content"] == " the字"
    asked = {"messages": [{"role": "user", "content": "ab</s>"}]}
    assert client.simulate_post("/apply-template", json=asked).json["prompt"] == "<|user|>ab</s>"
    text = client.simulate_post("/tokenize", json={"content": "<|user|>ab", "add_special": True}).json["tokens"]
    assert text[:2] == [1, 3]
