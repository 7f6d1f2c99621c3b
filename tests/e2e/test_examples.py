"""Each program of examples/, as a user starts it, on SmolLM2."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rocmforge.tests.support.process import PATIENCE_SECONDS, environment

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "generate": r"\S.*\n\d+ tokens, ended by (eos|length); the same again: True\n",
    "stream": r"[^.]+\..?\n",
    "batch": r"The capital of France is Paris.*\nThe capital of Italy is Rome.*\nTwo and two are.*\nA cat is.*\n",
    "chat": r"> What is the capital of France\?\n.*Paris.*\n> And of Italy\?\n.*Rome.*\n",
    "chat_with_a_tool": r'weather\(\{"city": "Paris"\}\) -> In Paris it is sunny, 24 degrees\.\n.*\S.*\n',
    "json_output": r".* is \d+\.\n",
    "embeddings": r"0\.\d{3} Cats sleep for most of the day\.\n0\.\d{3} .*\n0\.\d{3} .*\n",
    "score": r" +-0\.\d{3} The capital of France is Paris\.\n( +-\d+\.\d{3} .*\n){2}perplexity \d+\.\d\d of: .*\n",
}


def run(name: str, *arguments: object, **changes: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment(**changes),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_an_example_does_what_it_says(name: str, smollm2_path: Path) -> None:
    said = run(name, smollm2_path)
    assert re.fullmatch(SAYS[name], said, re.DOTALL), said


def test_a_model_is_compiled(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "rocmforge").symlink_to(small_cache)  # where it looks for a cache
    said = run("compile_model", small_gguf, tmp_path / "small.rfb", XDG_CACHE_HOME=str(tmp_path))
    assert re.fullmatch(rf"{re.escape(str(tmp_path))}/small\.rfb sha256:[0-9a-f]{{64}}\n", said)


def test_all_are_listed_and_run() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*SAYS, "compile_model"}
    assert names == set(re.findall(r"^\| `(\w+)\.py`", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
