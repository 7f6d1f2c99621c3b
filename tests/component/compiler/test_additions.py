"""What an addition to the compiler costs: one of each recipe of docs/add.md, written into a copy and run there."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.support.additions import changed, copy_package, edit, keep_portable, python, recipe
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.gguf_writing import finish

Change = Callable[[gguf.ReaderTensor], tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]]
Compile = Callable[..., Path]
PROMPT = "[1, 5, 2, 9]"
# The bundle's own records against the meaning of its graph: what the host's kernels make of the model.
MEANING = f"""
import json, sys
import numpy as np
from pathlib import Path
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.model_tensors import weight_tensors
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.weights import rope_table
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.device.batch import Batch, RowSampling
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.tests.oracles.graph_interpreter import Interpreter
from rocmforge.tests.oracles.reference import ReferenceModel

path, bundle, ids = Path(sys.argv[1]), Path(sys.argv[2]), {PROMPT}
model, oracle = read_model(CompileOptions(path, path), Silent()), ReferenceModel(path)
infos = weight_tensors(model.gguf, model.config)
numbers = {{role: np.asarray(oracle.weight(info.name), np.float64) for role, info in infos.items()}}
numbers["rope_table"] = rope_table(model.config, None, 16).astype(np.float64)
expected = Interpreter(model.graph, numbers, ids).run()[-1]
with open_bundle(bundle) as opened:
    program = load_host_program(opened, 4, 1)
    count = len(ids)
    arrays = [np.array(ids, np.int32), np.arange(count, dtype=np.int32), np.zeros(count, np.int32)]
    program.step(Batch(*arrays, np.zeros((1, 1), np.int32), np.array([count - 1], np.int32), [RowSampling()]))
    found = program.logits(1)[0]
    program.close()
print(json.dumps([float(np.abs(found - expected).max()), float(np.abs(expected).max())]))
"""


ALL = (
    "artifacts",
    "cli",
    "compiler",
    "kernels",
    "library",
    "registry",
    "runtime",
    "templates",
    "tools",
    "tests/oracles",
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of what compiles and verifies, the emulated GPU with it."""
    return copy_package(tmp_path, *ALL)


@pytest.fixture
def compiled(build_cache: BuildCache) -> Compile:
    """Makes a bundle by a copy of the package, and verifies it on each of its targets that can be run here. Kernels
    that a change leaves as they are may lie in the cache: their keys hold all that they are made of."""

    def make(package: Path, model: Path, *archs: str) -> Path:
        keep_portable(package)
        bundle = model.with_suffix(".rfb")
        options = ("--toolchain=zig", f"--cache-dir={build_cache.root}", *(f"--arch={arch}" for arch in archs))
        python(package, "-m", "rocmforge.cli", "compile", model, "-o", bundle, *options)
        for arch in archs:
            if arch != "gfx1251":
                device = "host" if arch == "host" else f"emulated:{arch}"
                python(package, "-m", "rocmforge.cli", "verify", bundle, "--device", device)
        return bundle

    return make


def golden(bundle: Path) -> Any:
    return json.loads((bundle / "manifest.json").read_text())["golden"]


def rewritten(path: Path, goal: Path, architecture: str, change: Change | None = None) -> Path:
    """The same model under another architecture's name, or with other tensors."""
    reader = gguf.GGUFReader(path)
    old = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(goal, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name.replace(f"{old}.", f"{architecture}."), field.contents(), kind, of)
    for tensor in reader.tensors:
        data, quant = (tensor.data, tensor.tensor_type) if change is None else change(tensor)
        writer.add_tensor(tensor.name, data, raw_dtype=quant)
    finish(writer)
    return goal


def test_an_architecture_of_a_known_family(package: Path, compiled: Compile, tmp_path: Path) -> None:
    edit(
        package / "compiler/models/decoder_rows.py",
        (
            "ARCHITECTURES = (\n",
            'ARCHITECTURES = (\n    half("cousin", qk_norm="head"),\n',
        ),
    )
    assert changed(package) == recipe("An architecture of a known family")
    known = write_model(tmp_path / "known.gguf", "qwen3", num_layers=1)
    cousin = rewritten(known, tmp_path / "cousin.gguf", "cousin")
    assert golden(compiled(package, cousin, "host")) == golden(compiled(package, known, "host"))


def test_a_gate_activation(package: Path, compiled: Compile, tmp_path: Path) -> None:
    """The cube of what is positive."""
    edit(
        package / "compiler/models/decoder_rows.py",
        ('half("qwen2")', 'half("qwen2", activation="relu3")'),
    )
    edit(
        package / "compiler/ops/activations.py",
        ('        "sigmoid": sigmoid', '        "relu3": lambda x: np.maximum(x, 0) ** 3,\n        "sigmoid": sigmoid'),
    )
    positive = "vector_select(x > splat(0), x, splat(0))"
    for backend, of in (
        ("host", f"f32x16 activation(f32x16 x) {{ return {positive} * {positive} * {positive}; }}"),
        ("hip", "float activation(float x) { return x > 0 ? x * x * x : 0; }"),
    ):
        branch = f"#elif defined(ACTIVATION_RELU3)\nINLINE {of}\n#else\n#error"
        edit(package / f"kernels/{backend}/activation.h", ("#else\n#error", branch))
    assert changed(package) == recipe("An activation")
    model = write_model(tmp_path / "model.gguf", "qwen2", "F32", num_layers=1)
    bundle = compiled(package, model, "host", "gfx1100")
    error, largest = json.loads(python(package, "-c", MEANING, model, bundle))
    assert error < 2**-11 * largest  # keys and values are rounded to float16
    plain = write_model(tmp_path / "plain.gguf", "qwen2", "F32", num_layers=1)
    assert golden(bundle) != golden(compiled(copy_package(tmp_path / "other", *ALL), plain, "host"))


SCALE = '''"""A constant times each element."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import float_literal


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    return inputs[0] * node.real("factor")


def host(planner: HostPlanner, node: Node) -> None:
    columns, factor = planner.graph.values[node.output].columns, float_literal(node.real("factor"))
    planner.launch("scale", (planner.value(node.inputs[0]), planner.value(node.output)), columns=columns, factor=factor)


def hip(planner: HipPlanner, node: Node) -> None:
    planner.elementwise("scale", node, factor=float_literal(node.real("factor")))


OPERATION = Operation("scale", compute, host, hip, {"factor": float})
'''
SCALE_HOST = """#include "vector.h"

static int32_t scale_items(const struct step *step) { return step->num_tokens; }

static void scale_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const float *x = (const float *)arguments[0];
    float *out = (float *)arguments[1];
    for (int32_t i = begin * COLUMNS; i < end * COLUMNS; i++) out[i] = FACTOR * x[i];
}
EXPORT const struct kernel SYMBOL = { scale_items, scale_run };
"""
SCALE_HIP = """#include "prelude.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const size_t at = (size_t)token * COLUMNS + c;
    ((GLOBAL_MEMORY float *)a1)[at] = FACTOR * ((const GLOBAL_MEMORY float *)a0)[at];
}
"""


def test_an_operation(package: Path, compiled: Compile, tmp_path: Path) -> None:
    """Embeddings that are scaled."""
    (package / "compiler/ops/scale.py").write_text(SCALE)
    (package / "kernels/host/scale.h").write_text(SCALE_HOST)
    (package / "kernels/hip/scale.h").write_text(SCALE_HIP)
    operations = "    sample,\n    scale,\n    scan,\n    short_conv,\n    token_logits,\n    xielu,\n)"
    edit(
        package / "compiler/operations.py",
        ("    sample,\n    scan,\n    short_conv,\n    token_logits,\n    xielu,\n)\n\n", f"{operations}\n\n"),
        (
            "    sample,\n    scan,\n    short_conv,\n    token_logits,\n    xielu,\n)\nOPERATIONS",
            f"{operations}\nOPERATIONS",
        ),
    )
    edit(
        package / "compiler/graph_builder.py",
        (
            "    def sample(self",
            "    def scale(self, output: str, source: str, factor: float) -> str:\n"
            "        value = Value(self.prefix + output, TOKENS, self.columns(source))\n"
            '        return self._add("scale", (source,), value, factor=factor)\n\n'
            "    def sample(self",
        ),
    )
    edit(
        package / "compiler/models/decoder.py",
        (
            'hidden = g.embed("embedded", "token_embedding", config.embedding_scale)\n',
            'hidden = g.scale("scaled", g.embed("embedded", "token_embedding"), 8.0)\n',
        ),
    )
    assert changed(package) == recipe("An operation")
    model = write_model(tmp_path / "model.gguf", "llama", "F32", num_layers=1)
    bundle = compiled(package, model, "host", "gfx1100")
    error, largest = json.loads(python(package, "-c", MEANING, model, bundle))
    assert error < 2**-11 * largest


def as_q8_1(tensor: gguf.ReaderTensor) -> tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]:
    """Blocks of Q8_0 with something of six bytes behind the scale, as the `gguf` package has the size of Q8_1."""
    if tensor.tensor_type != gguf.GGMLQuantizationType.Q8_0:
        return tensor.data, tensor.tensor_type
    blocks = tensor.data.reshape(-1, 34)
    sums = np.full((len(blocks), 6), 7, np.uint8)
    data = np.concatenate([blocks[:, :2], sums, blocks[:, 2:]], axis=1)
    return data.reshape(len(tensor.data), -1), gguf.GGMLQuantizationType.Q8_1


def test_a_weight_format_of_a_known_family(package: Path, compiled: Compile, tmp_path: Path) -> None:
    edit(
        package / "artifacts/formats.py",
        (
            '    WeightFormat("Q8_0", 8, 34',
            '    WeightFormat("Q8_1", 8, 40, scale_bytes=2),\n    WeightFormat("Q8_0", 8, 34',
        ),
    )
    edit(
        package / "compiler/blocks.py",
        (
            '    "Q6_K": _read_q6_k,\n',
            '    "Q6_K": _read_q6_k,\n    "Q8_1": lambda raw, _: Blocks(raw[..., 8:], (raw[..., 0:2],)),\n',
        ),
    )
    assert changed(package) == recipe("A weight format of a known family")
    known = write_model(tmp_path / "known.gguf", "llama", "Q8_0", num_layers=1)
    other = rewritten(known, tmp_path / "other.gguf", "llama", as_q8_1)
    assert golden(compiled(package, other, "host", "gfx1100")) == golden(compiled(package, known, "host"))


def test_a_gpu_of_a_known_family(package: Path, compiled: Compile, tmp_path: Path) -> None:
    edit(
        package / "artifacts/targets.py",
        (
            '    GpuArch("gfx1250", 0x49,',
            '    GpuArch("gfx1251", 0x5A, "gfx1250", _GFX1250),\n    GpuArch("gfx1250", 0x49,',
        ),
    )
    assert changed(package) == recipe("A GPU of a known family")
    bundle = compiled(package, write_model(tmp_path / "model.gguf", num_layers=1), "gfx1251")
    header = (bundle / "code/gfx1251.hsaco").read_bytes()[:64]
    assert struct.unpack_from("<I", header, 48)[0] & 0xFF == 0x5A  # e_flags, as LLVM wrote them
