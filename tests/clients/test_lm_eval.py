"""lm-eval, the benchmark harness: what it reports of our tasks is what the engine says of the same strings."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.clients.common import MODEL
from rocmforge.tests.clients.programs import python_program
from rocmforge.tests.support.engine_harness import serving
from rocmforge.tests.support.process import Server

TASKS = Path(__file__).parent / "lm_eval"
SECONDS = 600.0
BOS = "<|im_start|>"

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def tokenizer(smollm2: Bundle) -> Tokenizer:
    return load_tokenizer(smollm2)


@pytest.fixture(scope="module")
def engine(smollm2: Bundle, tokenizer: Tokenizer) -> Iterator[Engine]:
    with serving(load_host_program(smollm2, 256, 2), tokenizer, 2048) as running:
        yield running


def run_lm_eval(server: Server, folder: Path, tasks: str, *options: str, **model: object) -> dict[str, Any]:
    """Results by task; samples are below `folder`."""
    for task in TASKS.glob("*.yaml"):
        (folder / task.name).write_text(task.read_text().replace("DATA", str(TASKS)))
    model |= {"model": MODEL, "base_url": f"{server.url}/v1/completions"}
    arguments = ",".join(f"{name}={value}" for name, value in model.items())
    command = ["run", "--model", "local-completions", "--model_args", arguments, "--include_path", str(folder)]
    done = subprocess.run(
        [
            python_program("lm-eval", "lm-eval[api]==0.4.13") / "lm-eval",
            *command,
            "--tasks",
            tasks,
            "--output_path",
            str(folder),
            "--log_samples",
            *options,
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (found,) = folder.glob(f"{MODEL}/results_*.json")
    return dict(json.loads(found.read_text())["results"])


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (found,) = folder.glob(f"{MODEL}/samples_{task}_*.jsonl")
    return sorted(map(json.loads, found.read_text("utf-8").splitlines()), key=lambda sample: int(sample["doc_id"]))


def score(engine: Engine, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Logarithm of how likely the continuation is, and whether it is what would be generated greedily."""
    generation = engine.submit(GenerationRequest((*context, *continuation), 0, prompt_logprobs=1))
    (event,) = [event for event in generation.events() if event is not None]
    entries = event.prompt_logprobs[len(context) - 1 :]
    assert len(entries) == len(continuation)
    return sum(entry.logprob for entry in entries), all(entry.rank == 1 for entry in entries)


def check_choices(engine: Engine, tokenizer: Tokenizer, folder: Path, task: str, result: dict[str, Any]) -> None:
    """Each sample's scores, to the bit, and the accuracies that follow from them."""
    right = {"acc": 0, "acc_norm": 0}
    found = samples(folder, task)
    assert len(found) == len((TASKS / f"{task}.jsonl").read_text("utf-8").splitlines())
    for sample in found:
        scores, lengths = [], []
        for pair, answer in zip(sample["arguments"].values(), sample["filtered_resps"], strict=True):
            context = tokenizer.encode(pair["arg_0"], add_special=False)
            whole = tokenizer.encode(pair["arg_0"] + pair["arg_1"], add_special=False)
            expected = score(engine, context, whole[len(context) :])
            assert (float(answer[0]), answer[1] == "True") == expected
            scores.append(expected[0])
            lengths.append(len(pair["arg_1"].removeprefix(" ")))
        right["acc"] += int(np.argmax(scores)) == int(sample["target"])
        right["acc_norm"] += int(np.argmax(np.array(scores) / lengths)) == int(sample["target"])
    for metric, count in right.items():
        assert result[f"{metric},none"] == pytest.approx(count / len(found))
        assert count / len(found) > 0.5  # by chance: 0.27


def test_tasks_of_choices_and_of_perplexity(
    server: Server, engine: Engine, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Token ids, several at once, as lm-eval sends them where the server is its tokenizer."""
    options = ("--batch_size", "4")
    results = run_lm_eval(server, tmp_path, "questions,endings,passages", *options, num_concurrent=3)
    for task in ("questions", "endings"):
        check_choices(engine, tokenizer, tmp_path, task, results[task])
    total, words, n_bytes = 0.0, 0, 0
    for sample in samples(tmp_path, "passages"):
        text = sample["doc"]["text"]
        bos = tokenizer.encode(BOS, add_special=False)
        expected, _ = score(engine, bos, tokenizer.encode(text, add_special=False))
        assert float(sample["filtered_resps"][0]) == expected
        total, words, n_bytes = total + expected, words + len(text.split()), n_bytes + len(text.encode())
    assert results["passages"]["word_perplexity,none"] == pytest.approx(math.exp(-total / words))
    assert results["passages"]["bits_per_byte,none"] == pytest.approx(-total / n_bytes / math.log(2))


def test_texts_in_place_of_token_ids(server: Server, engine: Engine, tokenizer: Tokenizer, tmp_path: Path) -> None:
    results = run_lm_eval(server, tmp_path, "questions", tokenized_requests=False)
    check_choices(engine, tokenizer, tmp_path, "questions", results["questions"])
