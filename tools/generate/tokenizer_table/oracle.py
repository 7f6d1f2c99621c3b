"""llama.cpp's answers, by `ids.cpp` built against its sources."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answers:
    """What llama.cpp says of a vocabulary and of texts.

    Attributes:
        named: special tokens and flags by name; -1 where there is none.
        ends: ids that end a generation.
        pieces: bytes of each token, and whether it is a control token.
        wrapped: ids of "a" with what the model adds.
        ids: of each text, without control tokens and with them.
    """

    named: dict[str, int]
    ends: list[int]
    pieces: list[tuple[bytes, bool]]
    wrapped: list[int]
    ids: list[tuple[list[int], list[int]]]


def build_oracle(source: Path, build: Path, program: Path) -> None:
    """Compile `ids.cpp` against llama.cpp's sources and the static libraries of a build of them."""
    parts = [build / "ggml" / "src" / f"libggml{part}.a" for part in ("", "-cpu", "-base")]
    libraries = [build / "src" / "libllama.a", *parts]
    include = [f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}"]
    flags = ["-O2", "-std=c++17", "-fopenmp", "-lpthread", "-ldl", "-lm"]
    command = ["g++", str(Path(__file__).with_name("ids.cpp")), *include, *map(str, libraries), *flags]
    subprocess.run([*command, "-o", str(program)], check=True)


def ask(program: Path, vocabulary: Path, texts: Sequence[str]) -> Answers:
    """Tokenize texts as llama.cpp does.

    Raises:
        subprocess.CalledProcessError: it does not take the vocabulary.
    """
    given = b"".join(struct.pack("<I", len(raw)) + raw for raw in (text.encode() for text in texts))
    done = subprocess.run([program, vocabulary], input=given, capture_output=True, check=True)
    named, ends, pieces, wrapped, *lines = (line.split() for line in done.stdout.decode().split("\n"))
    rows = [list(map(int, line)) for line in lines[: 2 * len(texts)]]
    return Answers(
        {name: int(value) for name, value in (item.split("=") for item in named)},
        list(map(int, ends)),
        [(bytes.fromhex(piece[1:]), piece[0] == "!") for piece in pieces],
        list(map(int, wrapped)),
        list(zip(rows[::2], rows[1::2], strict=True)),
    )
