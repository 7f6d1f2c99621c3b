"""What a compile decides before anything is built: how long the context is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rocmforge.compiler import model as model_module
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.progress import PlainProgress
from rocmforge.tools.generate.fixtures import write_model


@pytest.mark.parametrize(
    "trained, asked, length, note",
    [
        (100, None, 100, ""),
        (256, None, 256, ""),
        (257, None, 256, "note: context limited to 256 of 257; see --max-context"),
        (257, 257, 257, ""),
        (257, 1, 1, ""),
        (100, 101, 101, "note: trained on 100 tokens: past those it may answer without sense"),
    ],
)
def test_context(
    trained: int,
    asked: int | None,
    length: int,
    note: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As trained, up to a limit (here of 256), or as asked."""
    monkeypatch.setattr(model_module, "DEFAULT_MAX_CONTEXT", 256)
    path = write_model(tmp_path / "model.gguf", context_length=trained)
    model = read_model(CompileOptions(path, tmp_path / "model.rfb", max_context=asked), PlainProgress())
    assert (model.max_seq_len, model.config.max_seq_len) == (length, trained)
    assert capsys.readouterr().err.strip() == note


def test_another_tokenizer_takes_the_place_of_the_models(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    own = read_model(CompileOptions(path, tmp_path / "model.rfb"), PlainProgress()).tokenizer
    other = json.loads(own.json)
    other["pre_tokenizer"] = None
    given = tmp_path / "tokenizer.json"
    given.write_text(json.dumps(other))
    options = CompileOptions(path, tmp_path / "model.rfb", tokenizer=given)
    found = read_model(options, PlainProgress()).tokenizer
    assert json.loads(own.json)["pre_tokenizer"]
    assert json.loads(found.json) == other
