"""guidellm, the benchmark of servers: chat and completions, several at once, and the tokens that it was told of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rocmforge.tests.clients.common import MODEL
from rocmforge.tests.clients.programs import python_program
from rocmforge.tests.support.process import Server

SECONDS = 600.0
REQUESTS, TOKENS = 6, 16
TOKENIZER = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


@pytest.mark.nightly
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_benchmark_of_a_few_seconds(server: Server, smollm2_path: Path, tmp_path: Path, path: str) -> None:
    shutil.copy(smollm2_path / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    report = tmp_path / "report.json"
    options = {
        "--backend": f"kind=openai_http,target={server.url},model={MODEL},request_format={path}",
        "--profile": "kind=concurrent,streams=2",
        "--constraint": f"kind=max_requests,count={REQUESTS}",
        "--tokenizer": f"kind=huggingface_auto,model={tmp_path}",
        "--data": f"kind=synthetic_text,prompt_tokens=64,output_tokens={TOKENS}",
        "--output": f"kind=json,path={report}",
    }
    guidellm = python_program("guidellm", "guidellm==0.8.1", "torch==2.13.0") / "guidellm"
    done = subprocess.run(
        [guidellm, "run", "--disable-progress", *(word for option in options.items() for word in option)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert [len(requests[kind]) for kind in ("successful", "errored", "incomplete")] == [REQUESTS, 0, 0]
    for request in requests["successful"]:
        assert request["output_tokens"] == TOKENS
        assert request["prompt_tokens"] >= 64
        assert 0 < request["time_to_first_token_ms"] < 1000 * request["request_latency"]
