"""Runs llama.cpp for the comparisons: one JSON request a line on standard input, one JSON answer a line.

Alone in its process and its own virtual environment (see `tools/bench/build_peer`): it imports nothing of rocmforge.
Requests: {"do": "decode", "count"}, {"do": "prefill", "count"}, {"do": "logits", "token_ids", "save"}.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from llama_cpp import Llama


def answer(model: Llama, request: dict[str, Any]) -> dict[str, object]:
    """Seconds that it took, or where the logits lie."""
    model.reset()
    if request["do"] == "logits":
        model.eval(request["token_ids"])
        np.save(request["save"], np.array(model.scores[: len(request["token_ids"])], np.float32))
        return {"saved": request["save"]}
    count = request["count"]
    token_ids = [(7919 * index) % model.n_vocab() for index in range(count)]
    if request["do"] == "prefill":
        began = time.perf_counter()
        model.eval(token_ids)
        return {"seconds": time.perf_counter() - began}
    model.eval([1, 2, 3, 4])
    began = time.perf_counter()
    for token in token_ids:  # given tokens: what sampling costs there is not charged to llama.cpp
        model.eval([token])
    return {"seconds": time.perf_counter() - began}


def main() -> None:
    """Serve requests until the end of input. Arguments: the GGUF, threads, the context, which logits are kept."""
    path, threads, context, logits_all = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "all"
    model = Llama(
        path,
        n_ctx=context,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
        logits_all=logits_all,
    )
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(model, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
