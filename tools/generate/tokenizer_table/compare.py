"""Our tokenizers beside llama.cpp's, a row a vocabulary."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocmforge.artifacts.pre_tokenizers import PRE_TOKENIZERS
from rocmforge.artifacts.token_table import CONTROL, UNKNOWN, USER_DEFINED
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.token_rules import CHARACTER_MERGES
from rocmforge.compiler.tokenizer import build_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer

from .oracle import Answers, ask
from .strings import hard_strings
from .vocabularies import pairs, write_vocabulary

DOCS = Path(__file__).resolve().parents[3] / "docs" / "tokenizers.md"
_BEGIN = "<!-- written by `python -m rocmforge.tools.generate.tokenizer_table table` -->"
_COUNT = 1000
# With this vocabulary's tokens names are judged of which the sdist has no vocabulary.
_BORROWED = "gpt-2"


@dataclass(frozen=True, slots=True)
class Row:
    """What was compared, and how much of it differed.

    Attributes:
        name: of the vocabulary.
        vectors: expected ids of the sdist: those that differ, and all.
        texts: hard strings: those that differ without control tokens, with them, and all.
        pieces: bytes of tokens: those that differ, and all.
        rest: of special tokens and flags, what differs; "" where nothing does.
    """

    name: str
    vectors: tuple[int, int]
    texts: tuple[int, int, int]
    pieces: tuple[int, int]
    rest: str


def compare(program: Path, path: Path, name: str, vectors: Path | None = None) -> Row:
    """Compare what we make of a vocabulary with what llama.cpp makes of it; `vectors` of the sdist beside it."""
    metadata = read_gguf(path).metadata
    artifact = build_tokenizer(metadata, path)
    tokenizer = Tokenizer(artifact.json, artifact.config)
    texts = hard_strings(name, _special(metadata), _COUNT)
    answers = ask(program, path, texts)
    differ = [
        sum(tokenizer.encode(text, add_special=False, parse_special=special) != ids[special] for text, ids in both)
        for both in [list(zip(texts, answers.ids, strict=True))]
        for special in (False, True)
    ]
    pieces = sum(
        (tokenizer.token_bytes(i, skip_special=False), not tokenizer.token_bytes(i)) != piece
        for i, piece in enumerate(answers.pieces)
    )
    return Row(
        name,
        _vectors(tokenizer, vectors),
        (differ[0], differ[1], len(texts)),
        (pieces, len(answers.pieces)),
        _rest(tokenizer, answers),
    )


def _special(metadata: Mapping[str, Any]) -> list[str]:
    kinds = metadata.get("tokenizer.ggml.token_type", ())
    tokens = metadata["tokenizer.ggml.tokens"]
    found = [text for text, kind in zip(tokens, kinds, strict=False) if int(kind) in (CONTROL, UNKNOWN, USER_DEFINED)]
    return found[:40]


def _vectors(tokenizer: Tokenizer, path: Path | None) -> tuple[int, int]:
    """Those of the expected ids of the sdist that differ, and how many there are."""
    if path is None or not path.with_name(f"{path.name}.inp").exists():
        return 0, 0
    given = path.with_name(f"{path.name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = path.with_name(f"{path.name}.out").read_text("utf-8").split("\n")
    count = min(len(given), len(expected) - 1)
    rows = zip(given[:count], expected[:count], strict=True)
    wrong = sum(
        tokenizer.encode(text, add_special=False, parse_special=False) != list(map(int, line.split()))
        for text, line in rows
    )
    return wrong, count


def _rest(tokenizer: Tokenizer, answers: Answers) -> str:
    config, named = tokenizer.config, answers.named
    found = []
    if sorted(answers.ends) != list(config.eos_token_ids):
        ours, theirs = set(config.eos_token_ids), set(answers.ends)
        found.append(f"ends: ours alone {sorted(ours - theirs)}, llama.cpp's alone {sorted(theirs - ours)}")
    if tokenizer.encode("a") != answers.wrapped:
        found.append(f"'a' with what is added: ours {tokenizer.encode('a')}, llama.cpp's {answers.wrapped}")
    infill = config.infill
    if infill.prefix is not None:
        fields = (infill.prefix, infill.suffix, infill.middle)
        if fields != tuple(named[f"fim_{part}"] for part in ("pre", "suf", "mid")):
            found.append("tokens for filling in the middle")
    return "; ".join(found)


def rows(source: Path, program: Path) -> Iterator[Row]:
    """Compare all vocabularies of the sdist, then all names of `tokenizer.ggml.pre` with two vocabularies each."""
    logging.getLogger("rocmforge").setLevel(logging.ERROR)
    models = source / "models"
    for path in sorted(models.glob("ggml-vocab-*.gguf")):
        yield compare(program, path, path.stem.removeprefix("ggml-vocab-"), path)
    borrowed = dict(read_gguf(models / f"ggml-vocab-{_BORROWED}.gguf").metadata)
    kept = {key: _plain(value) for key, value in borrowed.items() if key.startswith("tokenizer.ggml.")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        for pre in [*PRE_TOKENIZERS, *CHARACTER_MERGES]:
            for kind, metadata in ((_BORROWED, kept), ("pairs", pairs())):
                write_vocabulary(path, {**metadata, "tokenizer.ggml.pre": pre})
                try:
                    yield compare(program, path, f"{pre} ({kind})")
                except subprocess.CalledProcessError as error:
                    yield Row(f"{pre} ({kind})", (0, 0), (0, 0, 0), (0, 0), f"llama.cpp ends with {error.returncode}")


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int) else list(value) if isinstance(value, tuple) else value.tolist()


def write_table(source: Path, program: Path) -> str:
    """Write the table into the documentation; returns a line about it."""
    lines, alike, texts = [], 0, 0
    differing = []
    for row in rows(source, program):
        texts += row.texts[2]
        differs = any((row.vectors[0], *row.texts[:2], row.pieces[0])) or row.rest != ""
        vectors = f"{row.vectors[0]} of {row.vectors[1]}" if row.vectors[1] else "none"
        ours = f"{row.texts[0]} and {row.texts[1]} of {row.texts[2]}"
        line = f"| {row.name} | {vectors} | {ours} | {row.pieces[0]} of {row.pieces[1]} | {row.rest} |"
        if row.name.endswith(")"):  # a name: those that differ are shown
            alike += not differs
            differing += [line] if differs else []
        else:
            lines.append(line)
        print(line, flush=True)
    head = [
        "| vocabulary | expected ids | hard strings | bytes of tokens | special tokens |",
        "| --- | --- | --- | --- | --- |",
    ]
    count = alike + len(differing)
    said = [
        f"Of the {len(PRE_TOKENIZERS) + len(CHARACTER_MERGES)} names of `tokenizer.ggml.pre`, each with two "
        f"vocabularies, {alike} of {count} rows differ in nothing. The others:",
    ]
    text = DOCS.read_text("utf-8").split(_BEGIN)[0].rstrip()
    body = [text, "", _BEGIN, "", *head, *lines, "", *said, "", *head, *differing]
    DOCS.write_text("\n".join(body) + "\n", encoding="utf-8")
    return f"{DOCS}: {texts} texts, twice each"
