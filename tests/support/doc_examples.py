"""The examples of documents: read, run against a server, and checked."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocmforge.tests.support.process import PATIENCE_SECONDS

DOCS = Path(__file__).parents[2] / "docs"
PRINTED_URL = "http://localhost:8080"
_EXAMPLE = re.compile(r"```bash\n(.*?)```\n\nAnswer(?:, status (\d+))?:\n\n```\w+\n(.*?)```", re.DOTALL)

# Stands in a printed object for fields that are not shown.
MORE = "…"
Operation = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A command, and what it answers, as printed."""

    command: str
    status: int
    answer: str

    def operations(self) -> list[Operation]:
        """Method and path of each request that it makes."""
        found = []
        for words in re.split(r"\bcurl ", self.command)[1:]:
            path = re.search(re.escape(PRINTED_URL) + r"([^\s\"?]*)", words)
            method = re.search(r"-X (\w+)", words)
            assert path, self.command
            found.append(((method[1] if method else "POST" if " -d " in words else "GET").lower(), path[1]))
        return found


def read_examples(page: Path) -> list[Example]:
    """The examples of a page; each block of shell must be one."""
    text = page.read_text()
    found = [Example(command, int(status or 200), answer) for command, status, answer in _EXAMPLE.findall(text)]
    assert len(found) == text.count("```bash\n") > 0, f"{page.name}: an example without its answer"
    return found


def run_example(example: Example, url: str) -> tuple[int, str]:
    """Run it in a shell; returns the status of its last request, and what it printed."""
    tell = "curl() { command curl -sS -w '%{stderr}%{http_code}\\n' \"$@\"; }\n"
    command = tell + example.command.replace(PRINTED_URL, url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    return int(done.stderr.split()[-1]), done.stdout


def check_shape(printed: Any, found: Any, where: str = "answer") -> None:
    """Both have the same keys and kinds of values, where the printed one does not say that it leaves some out."""
    if printed is None or found is None:
        return
    kinds = [
        float if isinstance(value, int) and not isinstance(value, bool) else type(value) for value in (printed, found)
    ]
    assert kinds[0] is kinds[1], f"{where}: printed {kinds[0].__name__}, found {kinds[1].__name__}"
    if isinstance(printed, dict):
        shown = printed.keys() - {MORE}
        assert shown <= found.keys() if MORE in printed else shown == found.keys(), f"{where}: {sorted(found)}"
        for key in shown:
            check_shape(printed[key], found[key], f"{where}.{key}")
    elif isinstance(printed, list) and printed:
        assert found, f"{where}: printed entries, found none"
        check_shape(printed[0], found[0], f"{where}[0]")


def same_line(printed: str, found: str) -> bool:
    """Whether a line of a stream or of text is of the same form: JSON by its shape, anything else but for numbers."""
    try:
        check_shape(json.loads(printed.removeprefix("data: ")), json.loads(found.removeprefix("data: ")))
    except ValueError:
        return re.sub(r"\d+(\.\d+)?", "0", printed) == re.sub(r"\d+(\.\d+)?", "0", found)
    except AssertionError:
        return False
    return True


def check_answer(example: Example, text: str) -> None:
    """What came back has the form of what is printed."""
    try:
        printed = json.loads(example.answer)
    except ValueError:
        lines = [line for line in text.splitlines() if line and line != ": ping"]
        for line in filter(None, example.answer.splitlines()):
            assert any(same_line(line, other) for other in lines), f"no such line in the answer: {line}\n{text[:2000]}"
    else:
        check_shape(printed, json.loads(text))
