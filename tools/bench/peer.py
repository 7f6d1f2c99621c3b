"""llama.cpp as something to compare with: a worker process in a virtual environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt


class Peer:
    """A running `llama_cpp_worker.py`. A context manager."""

    def __init__(
        self, python: Path, model: Path, threads: int, *, context: int = 1024, logits_all: bool = False
    ) -> None:
        """Start it and wait until it has loaded the model.

        Args:
            python: of the environment that `tools/bench/build_peer` made.
            model: a GGUF file.
            threads: for prompts and for single tokens.
            context: most tokens of a prompt and what follows it.
            logits_all: keep every token's logits, which `logits` needs and timings must not have.
        Raises:
            RuntimeError: it did not start.
        """
        worker = Path(__file__).with_name("llama_cpp_worker.py")
        kept = "all" if logits_all else "last"
        self._process = subprocess.Popen(
            [str(python), str(worker), str(model), str(threads), str(context), kept],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)

    def _read(self) -> dict[str, float]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError("llama.cpp's worker ended early: is it built? see tools/bench/build_peer")
        answer: dict[str, float] = json.loads(line)
        return answer

    def _ask(self, **request: object) -> dict[str, float]:
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._read()

    def decode(self, count: int) -> float:
        """Tokens a second over `count` single tokens at positions from 4 on."""
        return count / self._ask(do="decode", count=count)["seconds"]

    def prefill(self, count: int) -> float:
        """Tokens a second of a prompt of `count` tokens."""
        return count / self._ask(do="prefill", count=count)["seconds"]

    def logits(self, token_ids: list[int], scratch: Path) -> npt.NDArray[np.float32]:
        """float32[tokens, vocab_size] at every token of a prompt; `scratch` is a folder."""
        path = scratch / "llama_cpp_logits.npy"
        self._ask(do="logits", token_ids=token_ids, save=str(path))
        found: npt.NDArray[np.float32] = np.load(path)
        return found
