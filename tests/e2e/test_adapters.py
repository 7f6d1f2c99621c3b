"""Adapters from the command line to the server: the examples of docs/adapters.md, `rfc run` and `rfc inspect`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.support.adapters import DOWN, Q, pairs, write_gguf_adapter
from rocmforge.tests.support.doc_examples import DOCS, check_answer, read_examples, run_example
from rocmforge.tests.support.killed import forked, one_of_many
from rocmforge.tests.support.process import digest_of, refused, rfc, serving
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="module")
def adapted(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with two adapters, as the page compiles it."""
    folder = tmp_path_factory.mktemp("adapted")
    write_model(folder / "small.gguf")
    write_gguf_adapter(folder / "sql.gguf", pairs(1, size=1.0))
    write_gguf_adapter(folder / "style.gguf", pairs(2, (DOWN, Q)))
    kept = "--adapter", f"sql={folder / 'sql.gguf'}", "--adapter", f"style={folder / 'style.gguf'}:0.8"
    digest_of(forked(folder, "compile", folder / "small.gguf", *kept, "--cache-dir", build_cache.root, portable=True))
    return folder / "small.rfb"


def test_the_examples_of_the_page(adapted: Path) -> None:
    with serving(adapted) as server:
        for example in read_examples(DOCS / "adapters.md"):
            status, text = run_example(example, server.url)
            assert status == example.status, f"{example.command}\n{text}"
            check_answer(example, text)


def test_run_and_inspect(adapted: Path) -> None:
    texts = []
    for chosen in ((), ("--adapter", "sql"), ("--adapter", "sql:0.5", "--adapter", "style:-1"), ("--adapter", "sql:0")):
        done = rfc("run", adapted, "SELECT", "-n", 8, "--temperature", 0, *chosen)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3
    facts = rfc("inspect", adapted).stdout
    assert "sql (rank 4, sha256 " in facts
    assert "style (rank 4, sha256 " in facts
    assert " times 0.8)" in facts


def test_what_is_refused(adapted: Path, tmp_path: Path) -> None:
    model = adapted.with_name("small.gguf")
    run = "run", adapted, "SELECT"
    refused(one_of_many(*run, "--adapter", "other"), 1, "adapter: expected one of sql, style, found other")
    refused(one_of_many(*run, "--adapter", "sql:x"), 2, "--adapter: expected NAME or NAME:SCALE, found sql:x")
    goal = "-o", tmp_path / "new.rfb"
    refused(one_of_many("compile", model, *goal, "--adapter", "sql"), 2, "--adapter: expected NAME=FILE[:SCALE]")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((adapted.parent / "sql.gguf").read_bytes()[:-100])
    refused(
        one_of_many("compile", model, *goal, "--adapter", f"x={broken}"),
        3,
        "broken.gguf: blk.1.ffn_down.weight.lora_b: expected",
    )
    assert not (tmp_path / "new.rfb").exists()
