"""Which chat template a bundle gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.artifacts.tokenizer_config import TokenizerConfig
from rocmforge.compiler.chat_template import MAX_FILE_BYTES, choose_template
from rocmforge.compiler.tokenizer import TokenizerArtifact
from rocmforge.runtime.text.chat import check_template

MODEL = Path("m.gguf")
GOOD = "{% for message in messages %}{{ message.content }}{% endfor %}"
BAD = "{% for message in %}"


def artifact(template: str | None) -> TokenizerArtifact:
    return TokenizerArtifact("{}", TokenizerConfig(None, (), False, False, "", "", 1, None), template)


@pytest.mark.parametrize("template", [None, GOOD])
def test_the_models_own_is_taken(template: str | None) -> None:
    assert choose_template(artifact(template), MODEL, None, check_template) == artifact(template)


def test_one_that_does_not_parse_is_refused_and_the_way_out_named() -> None:
    with pytest.raises(InputError, match=r"^m\.gguf: tokenizer\.chat_template: line 1: .*--chat-template FILE$"):
        choose_template(artifact(BAD), MODEL, None, check_template)
    assert choose_template(artifact(BAD), MODEL, None, None) == artifact(BAD)


@pytest.mark.parametrize("own", [None, GOOD, BAD])
def test_a_file_takes_the_place_of_the_models(tmp_path: Path, own: str | None) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("é " + GOOD, encoding="utf-8")
    assert choose_template(artifact(own), MODEL, file, check_template) == artifact("é " + GOOD)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    bad, latin, large, fifo = (tmp_path / name for name in ("bad", "latin", "large", "fifo"))
    bad.write_text(BAD)
    latin.write_bytes("é".encode("latin-1"))
    large.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    os.mkfifo(fifo)
    for file, problem in (
        (bad, "line 1: "),
        (latin, "expected UTF-8, found "),
        (large, f"expected at most {MAX_FILE_BYTES} bytes, found {MAX_FILE_BYTES + 1}"),
        (fifo, "expected a file of Jinja source"),
        (tmp_path, "expected a file of Jinja source"),
        (tmp_path / "none", "expected a file of Jinja source"),
    ):
        with pytest.raises(InputError) as caught:
            choose_template(artifact(GOOD), MODEL, file, check_template)
        assert str(caught.value).startswith(f"{file}: chat template: {problem}")
