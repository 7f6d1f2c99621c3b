"""docs/faults.md: which test holds which fault case. Generated from the tests' ids.

python -m rocmforge.tools.generate.faults          writes the table
A test holds case 17 where its name begins with `test_F17_` or its parameters with `F17-`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "faults.md"

GROUPS: Mapping[str, Mapping[int, str]] = {
    "A GGUF file": {
        1: "empty, or nothing but the magic",
        2: "wrong magic",
        3: "version 0, 1, of the future, byte-swapped",
        4: "tensor count of 2^64-1",
        5: "key count of 2^64-1",
        6: "string longer than the file",
        7: "array that ends past the file",
        8: "arrays nested deep",
        9: "empty or duplicate key",
        10: "unknown value or tensor type",
        11: "known key of the wrong type",
        12: "alignment of 0, 13, 2^31",
        13: "0, 5 or 2^32-1 dimensions",
        14: "dimension of 0",
        15: "product of dimensions overflows",
        16: "row that is no whole number of blocks",
        17: "duplicate or overlong tensor name",
        18: "tensor offset misaligned, overlapping, past the end",
        19: "data one byte short",
        20: "absurd layer count, no heads, heads that do not divide",
        21: "bad UTF-8 or a bad byte token in the vocabulary",
        22: "chat template that reaches for attributes",
        23: "chat template that loops or multiplies",
        24: "`../`, NUL, escape codes and newlines in names",
        25: "file cut while it is read",
        26: "FIFO, directory, /dev/zero",
        81: "metadata that takes far more memory than it has bytes",
        90: "chat template that takes a processor or all memory in one operation",
    },
    "A bundle": {
        27: "flipped byte in code",
        28: "file that the manifest does not name",
        29: "file missing",
        30: "wrong signing key",
        31: "unsigned where a signature is demanded",
        32: "`..`, absolute paths, symlinks, hard links, devices",
        33: "sibling folder with the same prefix",
        34: "names equal but for case or Unicode form",
        35: "archive bomb",
        36: "msgpack count of 2^32-1",
        37: "msgpack nesting, extension types, millions of strings",
        38: "layout outside weights.bin, overlapping",
        39: "shapes that contradict bytes",
        40: "future format version",
        41: "code for another arch, truncated ELF",
        42: "file swapped between check and load",
        43: "malformed digest",
        79: "weights cut or written to while they are served",
        80: "weights or code that give another answer than they should, at load",
    },
    "HTTP": {
        44: "invalid JSON, UTF-8, NaN, 1e400",
        45: "JSON nested 10,000 deep",
        46: "negative, huge and wrong-typed parameters",
        47: "oversized body",
        48: "prompt past the context",
        49: "token ids out of range",
        50: "chat templates from the client",
        51: "wrong method or content type",
        52: "duplicate Host or Transfer-Encoding",
        53: "a byte at a time",
        54: "slow reader",
        55: "disconnect in prefill or stream",
        56: "flood",
        57: "CR and LF in logged values",
        58: "no key where one is demanded",
        91: "megabytes of text that make millions of tokens",
        92: "text of control tokens in a message",
        100: "NUL and lone surrogates in any string",
        101: "constraint that meets a limit after its first token",
        102: "status and cancel of another client's generation",
        103: "page of another origin that reads what was answered to others",
        104: "page whose name leads to the loopback (DNS rebinding)",
        105: "prefix cache that tells of another key's prompts",
        106: "server behind this one that answers a page, a redirect or nonsense",
        107: "image cut short, damaged, of another kind, larger than its bytes say, or that would have to be fetched",
    },
    "Process and disk": {
        59: "disk full at every write",
        60: "I/O error, short reads",
        61: "kill -9 at every step",
        62: "second fault during recovery",
        63: "SIGTERM in a stream",
        64: "goal that cannot be written",
        65: "the same compile twice at once",
        66: "corrupt cache entry",
        67: "compiler missing, failing, hanging",
        68: "parent killed",
        69: "out of memory",
        70: "descriptors exhausted, port in use",
        78: "goal that is somebody else's folder, or holds more than a bundle",
        82: "little memory or few threads (`ulimit -v`, `-u`)",
        83: "log or output that cannot be written",
        84: "SIGHUP, SIGUSR1, SIGUSR2",
        85: "key file that others can read",
    },
    "Device": {
        71: "no driver, no device",
        72: "out of memory at load",
        73: "out of memory as the KV cache grows",
        74: "kernel fault",
        75: "hang",
        76: "NaN logits",
        77: "device lost",
        120: "worker that dies: abort, page fault, kill -9 in any moment",
        121: "worker that hangs, with the interpreter's lock or without",
        122: "worker that says nonsense, or half a message",
        123: "worker that does not start again",
        124: "stop while a worker starts, hangs or serves",
        125: "server that ends without its worker",
        126: "bundle torn or replaced below a worker",
        127: "one of several devices lost",
        115: "on AMD's runtime: access to memory that is not mapped",
        116: "on AMD's runtime: kernel without end",
        117: "on AMD's runtime: LDS race, uninitialised LDS",
        118: "on AMD's runtime: memory of another GPU",
        130: "GPU for which there is generic code alone, and a runtime too old for it",
        131: "HIP library that shows no GPU, before one that does",
        132: "HIP library named outright that is not there or none",
        133: "step that scalar loads would read before it has arrived",
        134: "graphs whose replays compute something else, at load",
        135: "graph that replays another step, while it is served",
        136: "memory that graphs take after the KV cache",
        137: "draft model that fails, or computes NaN",
        110: "AMD's libraries for tests that are unavailable",
        111: "profiler missing, failing, writing what it should not",
    },
}
# Cases that must be held: CI fails where no test names one.
_BASIC = frozenset((*range(1, 7), 10, 18, 19, 20, 22, *range(24, 28), 29, 32, 38, 39, 40, *range(44, 59)))
REQUIRED = _BASIC | {61, *range(64, 68), 70, 90, 91, 92, 100, 101}

# F16 and F32 are also types of weights: a parameter id names a case only where a description follows
# that is no architecture and no ISA level.
_CASE = re.compile(r"::test_F(\d+)_|\[F(\d+)-(?!x86|portable|llama|qwen|[A-Z0-9])")


def collect() -> list[str]:
    """Ids of all tests, as pytest collects them.

    Raises:
        RuntimeError: the tests cannot be collected.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "--quiet",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests"),
    ]
    plain = {**os.environ, "PYTEST_ADDOPTS": ""}  # where someone asks for more to be said, ids stand among words
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=plain)
    if run.returncode != 0:
        raise RuntimeError(f"pytest --collect-only failed:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return [line for line in run.stdout.splitlines() if "::" in line]


def holders(test_ids: Iterable[str]) -> dict[int, set[str]]:
    """Of each case, the test functions that hold it."""
    found: dict[int, set[str]] = {}
    for test_id in test_ids:
        match = _CASE.search(test_id)
        if match:
            found.setdefault(int(match[1] or match[2]), set()).add(test_id.partition("[")[0])
    return found


def table(held: Mapping[int, set[str]]) -> str:
    """The page, in Markdown."""
    lines = [
        "# Faults and the tests that hold them",
        "",
        "Generated from the tests' ids by `python -m rocmforge.tools.generate.faults`; a test fails where it",
        "is out of date or where a required case is held by no test. What must happen in each case: one clear line,",
        "the right exit code or status, nothing half-written, and the server goes on.",
    ]
    for group, cases in GROUPS.items():
        lines += ["", f"## {group}", "", "| case | what | held by |", "| --- | --- | --- |"]
        for number, what in cases.items():
            tests = "<br>".join(f"`{name}`" for name in sorted(held.get(number, ())))
            lines.append(f"| F{number} | {what} | {tests or 'not yet'} |")
    return "\n".join(lines) + "\n"


@click.command()
def main() -> None:
    """Write docs/faults.md."""
    TABLE.write_text(table(holders(collect())), "utf-8")
    click.echo(str(TABLE))


if __name__ == "__main__":
    main()
