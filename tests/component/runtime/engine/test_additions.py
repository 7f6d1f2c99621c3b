"""What a sampling parameter costs: one is written into a copy of the package, and asked for there by every API."""

from __future__ import annotations

import json
from pathlib import Path

from rocmforge.tests.support.additions import changed, copy_package, edit, keep_portable, python, recipe
from rocmforge.tools.generate.fixtures import write_model

# top_a: tokens stay whose probability is at least so many times the square of the likeliest's.
DECLARED = "    typical_p: Annotated[float, Allowed(0.0, 1.0)] = 1.0\n"
IN_RECORD = '    Field("typical_p", "float", "1: off"),\n'
HOST_KEPT = "    double kept = walk(&c, enough, infinity, &at);\n"
HOST = """    if (s->top_a > 0) {
        const float least = (float)(s->top_a / walk(&c, infinity, infinity, &at));
        if (least > c.min_p) c.min_p = least < 1 ? least : 1;
    }
"""
HIP_MIN_P = "    row->min_p = min_p < 1 ? min_p : 1.0f;\n"
HIP = """    if (s->top_a > 0) {
        const double all = (double)total(row, lds, WEIGHTS) / (double)(1ull << WEIGHT_BITS);
        const float least = (float)((double)s->top_a / all);
        if (least > row->min_p) row->min_p = least < 1 ? least : 1.0f;
    }
"""
# What comes of it in each API, and the text on each device: where it leaves one token, that of the likeliest.
ASK = """
import json, sys
from types import SimpleNamespace
import rocmforge
from rocmforge import GenerationParams
from rocmforge.artifacts.errors import RequestError
from rocmforge.cli.emulator import make_emulator
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.worker.wire import decode, encode
from rocmforge.runtime.http.core.body import convert
from rocmforge.runtime.http.core.generation_params import read_params
from rocmforge.runtime.http.llama_cpp.completion import generation_settings
from rocmforge.runtime.http.llama_cpp.requests import read_call
from rocmforge.runtime.http.llama_cpp.schema import LlamaCompletionRequest
from rocmforge.runtime.http.native.schema import GenerateRequest
from rocmforge.runtime.http.ollama.requests import read_chat
from rocmforge.runtime.http.ollama.schema import OllamaChatRequest
from rocmforge.runtime.http.openai.schema import ChatRequest, CompletionRequest

talk, text, found = {"model": "m", "messages": [{"role": "user", "content": "x"}]}, {"model": "m", "prompt": "x"}, []
for kind, body in ((ChatRequest, talk), (CompletionRequest, text), (GenerateRequest, text)):
    found.append(read_params(convert(body | {"top_a": 0.25}, kind), None, 100).sampling.top_a)
    try:
        convert(body | {"top_a": 1001}, kind)
    except RequestError as error:
        found.append(str(error))
asked = read_chat(convert(talk | {"options": {"top_a": 0.25}}, OllamaChatRequest), 100)
found.append(asked.conversation.params.sampling.top_a)
tokenizer = SimpleNamespace(config=SimpleNamespace(eos_token_ids=()))
model = SimpleNamespace(adapters=())
service = SimpleNamespace(engine=SimpleNamespace(vocab_size=100, max_context=10), tokenizer=tokenizer, model=model)
params, limit = read_call(convert(text | {"top_a": 0.25}, LlamaCompletionRequest), service)
found.append(generation_settings(service, params, limit)["top_a"])
found.append(decode(encode(GenerationRequest((1,), 1, params.sampling))).sampling.top_a)
texts = []
for device in ("host", "emulated:gfx1100"):
    with rocmforge.load(sys.argv[1], device=DeviceOptions(device, 1, make_emulator), contexts=1) as model:
        ways = ({"temperature": 0.0}, {"temperature": 2.0, "top_a": 1000.0, "seed": 1}, {"temperature": 2.0, "seed": 1})
        asked = [GenerationParams(max_tokens=4, ignore_eos=True, **way) for way in ways]
        texts.append([model.generate((5, 9, 30), params).token_ids for params in asked])
print(json.dumps([found, texts]))
"""
TOO_LARGE = "top_a: expected float <= 1000.0, found 1001"


def test_a_sampling_parameter(tmp_path: Path) -> None:
    folders = ("artifacts", "cli", "compiler", "kernels", "library", "registry", "runtime", "templates", "tools")
    package = copy_package(tmp_path, *folders)
    field = "    top_a: Annotated[float, Allowed(0.0, 1000.0)] = 0.0\n"
    edit(package / "artifacts/sampling.py", (DECLARED, DECLARED + field))
    edit(
        package / "artifacts/abi.py",
        (IN_RECORD, IN_RECORD + '    Field("top_a", "float", "0: off"),\n'),
        ("\nHOST_ABI_VERSION: Final = 4", "\nHOST_ABI_VERSION: Final = 5"),
        ("OLDEST_HOST_ABI_VERSION: Final = 3", "OLDEST_HOST_ABI_VERSION: Final = 5"),
        ("HIP_ABI_VERSION: Final = 3", "HIP_ABI_VERSION: Final = 4"),
    )
    edit(package / "kernels/host/sample.h", (HOST_KEPT, HOST + HOST_KEPT))
    edit(package / "kernels/hip/sample.h", (HIP_MIN_P, HIP_MIN_P + HIP))
    assert changed(package) == recipe("A sampling parameter")
    keep_portable(package)
    model = write_model(tmp_path / "model.gguf", num_layers=1)
    bundle = model.with_suffix(".rfb")
    options = ("-o", bundle, "--arch=host", "--arch=gfx1100", "--toolchain=zig")
    python(package, "-m", "rocmforge.cli", "compile", model, *options)
    found, (host, gpu) = json.loads(python(package, "-c", ASK, bundle))
    assert found == [0.25, TOO_LARGE] * 3 + [0.25] * 3
    for likeliest, narrowed, drawn in (host, gpu):
        assert narrowed == likeliest != drawn
    assert host == gpu
