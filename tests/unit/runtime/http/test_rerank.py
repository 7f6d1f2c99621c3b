"""Ranking documents: prompts, scores and the forms of Jina, Cohere and Text Embeddings Inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import falcon.testing
import pytest

from rocmforge.artifacts.manifest import RERANK_TEMPLATE
from rocmforge.tests.support.fake_engine import BOS, BOS_ID, MODEL, FakeEngine, FakeTokenizer, make_app

EOS_ID, SEP_ID = 257, 258
DOCUMENTS = ["b", "d", "a", "c"]  # the fake's score is the last token of the prompt
NAMES = ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking", "/v2/rerank"]


class Served:
    """A model that ranks, by this template if it has one."""

    def __init__(self, template: str | None = None, ranks: bool = True, **config: object) -> None:
        self.engine = FakeEngine(ranks=ranks)
        tokenizer = FakeTokenizer()
        for name, value in config.items():
            setattr(tokenizer.config, name, value)
        metadata = MODEL.metadata if template is None else {**MODEL.metadata, RERANK_TEMPLATE: template}
        model = replace(MODEL, metadata=metadata)
        self.client = falcon.testing.TestClient(make_app(self.engine, tokenizer=tokenizer, model=model))

    def post(self, path: str = "/rerank", **body: Any) -> falcon.testing.Result:
        return self.client.simulate_post(path, json={"query": "q", "documents": DOCUMENTS, **body})

    def prompts(self, **body: Any) -> list[tuple[int, ...]]:
        result = self.post(**body)
        assert result.status_code == 200, result.text
        return [one.request.prompt_token_ids for one in self.engine.embeddings]


def ids(*parts: str | int) -> tuple[int, ...]:
    return tuple(i for part in parts for i in ([part] if isinstance(part, int) else part.encode()))


@pytest.mark.parametrize("path", NAMES)
def test_the_best_come_first(path: str) -> None:
    document = Served().post(path, model="org/tiny:q4").json
    assert [(one["index"], one["relevance_score"]) for one in document["results"]] == [
        (1, 100.0),
        (3, 99.0),
        (0, 98.0),
        (2, 97.0),
    ]
    assert document["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    assert (document["model"], document["object"]) == ("org/tiny:q4", "list")
    assert "document" not in document["results"][0]


def test_as_many_as_are_asked_for_and_their_texts() -> None:
    documents = [{"text": "b", "title": "x"}, "d", "d"]
    results = Served().post(documents=documents, top_n=2, return_documents=True).json["results"]
    assert [(one["index"], one["document"]) for one in results] == [(1, {"text": "d"}), (2, {"text": "d"})]


def test_the_form_of_text_embeddings_inference() -> None:
    served = Served()
    bare = served.client.simulate_post("/rerank", json={"query": "q", "texts": ["a", "b"]}).json
    assert bare == [{"index": 1, "score": 98.0}, {"index": 0, "score": 97.0}]
    whole = served.client.simulate_post("/rerank", json={"query": "q", "texts": ["a"], "return_text": True}).json
    assert whole == [{"index": 0, "score": 97.0, "text": "a"}]


def test_texts_stand_between_the_tokens_that_part_them() -> None:
    assert Served().prompts(documents=["ab"]) == [ids(BOS_ID, "q", "ab")]
    served = Served(add_eos=True, sep_token_id=SEP_ID)
    assert served.prompts(documents=["ab"]) == [ids(BOS_ID, "q", EOS_ID, SEP_ID, "ab", EOS_ID)]
    assert Served(add_bos=False).prompts(query=BOS, documents=[BOS]) == [ids(BOS, BOS)]


def test_the_models_own_template() -> None:
    served = Served(f"{BOS}Q: {{query}} D: {{document}}\n")
    assert served.prompts(query="{document}", documents=["{query}"]) == [ids(BOS_ID, "Q: {document} D: {query}\n")]
    served = Served(f"{BOS}{{query}}|{{document}}")
    assert served.prompts(query=BOS, documents=[f"a{BOS}"]) == [ids(BOS_ID, f"{BOS}|a{BOS}")]


def test_a_model_that_does_not_rank() -> None:
    result = Served(ranks=False).post()
    assert (result.status_code, "model: it is not made to rank texts" in result.text) == (400, True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": None}, "query"),
        ({"documents": None}, "documents: expected 1 to 2048 texts, found 0"),
        ({"documents": []}, "documents: expected 1 to 2048 texts, found 0"),
        ({"documents": ["a"] * 2049}, "documents: expected 1 to 2048 texts, found 2049"),
        ({"documents": [3]}, "documents[0]"),
        ({"documents": [{"title": "a"}]}, "documents[0]"),
        ({"texts": []}, "texts: expected 1 to 2048 texts, found 0"),
        ({"top_n": 0}, "top_n"),
        ({"documents": ["a", "b" * 127]}, "documents[1]"),
    ],
)
def test_refused(body: dict[str, Any], words: str) -> None:
    served = Served()
    result = served.post(**body)
    assert (result.status_code, served.engine.embeddings) == (400, [])
    assert words in result.text


def test_a_text_without_tokens() -> None:
    result = Served(add_bos=False).post(query="", documents=[""])
    assert (result.status_code, "documents[0]: expected at least one token" in result.text) == (400, True)
