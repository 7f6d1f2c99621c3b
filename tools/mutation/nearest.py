"""Which tests stand nearest to a file: those of its name, those of the table, those that import it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Final

HTTP: Final = "http/"
GPU: Final = "test_kernels_hip.py::"
PRODUCTS: Final = "test_products_hip.py::"
HOST: Final = "test_kernels_host.py::"
HOST_PRODUCTS: Final = "test_products_host.py::"
OUTPUTS: Final = ("kernels/test_output_rows.py",)
EMULATOR: Final = "emulator/"
RECORDED: Final = (HTTP + "test_recorded_answers.py",)  # whole answers of all APIs, in seconds
# Minutes each: only for what the table gives them.
SLOW: Final = (
    "test_kernels",
    "test_products_hip",
    "test_products_host",
    "test_attention_hip",
    "test_sample_hip",
    "test_emulated",
    "test_gpu_code",
    "test_shapes",
)
MOST: Final = 9
# What no import tells: kernels, and modules that tests reach by HTTP or by a command. The first that fits.
# A test is named by the end of its path.
TABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "kernels/h*/expert_*.h": ("kernels/test_experts.py",),
    "kernels/h*/route.h": ("kernels/test_experts.py",),
    "kernels/h*/s[ch]*.h": ("kernels/test_recurrence.py",),
    "kernels/h*/state.h": ("kernels/test_recurrence.py",),
    "kernels/h*/gated_norm.h": ("kernels/test_gated_norm.py",),
    "kernels/*/columns*.h": ("kernels/test_gated_norm.py", "test_latent_and_streams.py"),
    "kernels/host/sample.h": ("kernels/test_sampling.py", "test_token_masks.py"),
    "kernels/host/program.h": ("test_host_program.py", "test_host_device.py"),
    # Either file alone is minutes: the kernel's own test comes first.
    "kernels/host/attention*.h": (HOST + "test_attention", *OUTPUTS, "test_attention_forms.py", "test_host_program.py"),
    "kernels/host/[kr]*.h": (HOST + "test_rope_kv", HOST + "test_attention", "test_host_program.py"),
    "kernels/host/gate_up.h": (HOST_PRODUCTS + "test_gate_up", *OUTPUTS, "test_host_program.py"),
    "kernels/host/norm.h": (HOST + "test_norm", *OUTPUTS, "test_host_program.py"),
    "kernels/host/gate.h": (HOST + "test_gate", *OUTPUTS, "test_host_program.py"),
    "kernels/host/quantize*.h": (
        HOST + "test_quantize_is_exactly_what_its_header_says",
        HOST + "test_quantizing_to_superblocks_is_exactly_what_its_header_says",
        *OUTPUTS,
        "test_host_program.py",
    ),
    # Pairs of tiles, of 16 tokens and more.
    "kernels/host/weights_pairs.h": (
        HOST_PRODUCTS + "test_matmul_tails",
        HOST_PRODUCTS + "test_a_row_of_a_matmul_has_the_same_bits_in_any_batch",
    ),
    "kernels/host/weights*": (
        "test_packing.py::test_embedding_kernel",
        HOST_PRODUCTS + "test_matmul_of_one_row",
        HOST_PRODUCTS + "test_matmul_tails",
        HOST_PRODUCTS + "test_matmul_of_superblocks",
    ),
    "kernels/host/lora*": ("kernels/test_lora.py",),
    "kernels/host/matmul.h": (HOST_PRODUCTS + "test_matmul_tails", *OUTPUTS, "test_host_program.py"),
    "kernels/host/*": ("test_kernels_host.py", "test_products_host.py", "test_host_program.py"),
    "kernels/hip/sample.h": ("test_sample_hip.py",),
    "kernels/hip/attention*.h": ("test_attention_hip.py",),
    "kernels/hip/matrix.h": (
        PRODUCTS + "test_matrices_of_16_columns_give_the_same_bits",
        PRODUCTS + "test_all_instructions_give_the_same_bits",
        PRODUCTS + "test_matmul",
    ),
    "kernels/hip/kv_blocks.h": (GPU + "test_rope_kv", "test_attention_hip.py"),
    "kernels/hip/rope_kv.h": (GPU + "test_rope_kv", "test_rope_forms.py"),
    "kernels/shared/rope_options.h": ("test_rope_forms.py",),
    "kernels/shared/attention_options.h": ("test_attention_forms.py",),
    "kernels/hip/norm.h": (GPU + "test_norm",),
    "kernels/hip/gate.h": (GPU + "test_gate",),
    "kernels/hip/quantize.h": (GPU + "test_quantize_is_exactly_what_its_header_says",),
    "kernels/hip/embedding.h": (GPU + "test_embedding",),
    "kernels/hip/step_*": ("test_step_hip.py",),
    "kernels/hip/host_memory.h": ("test_step_hip.py", "test_sample_hip.py"),
    **dict.fromkeys(
        (
            f"kernels/hip/{name}.h"
            for name in ("activate", "elementwise", "logits_map", "position_embedding", "token_logits")
        ),
        ("test_dense_operations.py",),
    ),
    **dict.fromkeys(("kernels/shared/lora_segment.h", "kernels/hip/lora_*.h"), ("kernels/test_lora.py",)),
    **dict.fromkeys(
        (
            f"kernels/hip/{name}.h"
            for name in ("altup", "columns", "gaussian_cut", "group_sum", "input_rows", "latent_heads", "magnitude")
        ),
        ("test_latent_and_streams.py",),
    ),
    "kernels/hip/merge_rows.h": ("test_merge_rows.py",),
    "kernels/hip/activation.h": (GPU + "test_gate", PRODUCTS + "test_gate_up"),
    "kernels/hip/weights*": (GPU + "test_embedding", PRODUCTS + "test_gate_up", PRODUCTS + "test_matmul"),
    "kernels/hip/epilogue.h": (PRODUCTS + "test_gate_up", PRODUCTS + "test_matmul"),
    "kernels/hip/gem*": (PRODUCTS + "test_matmul", PRODUCTS + "test_gate_up"),
    "kernels/hip/prelude.h": (
        "test_elementary_hip.py",
        GPU + "test_norm",
        "test_attention_hip.py",
        PRODUCTS + "test_matmul",
    ),
    "kernels/hip/device.h": (GPU + "test_norm", "test_attention_hip.py", PRODUCTS + "test_gate_up"),
    "tools/emulator/native/matrix.c": (EMULATOR + "test_matrix.py",),
    "tools/emulator/native/lds.c": tuple(
        f"{EMULATOR}test_{name}.py" for name in ("lds_checks", "memory_operations", "lane_operations", "lanes")
    ),
    "tools/emulator/native/memory.c": tuple(
        f"{EMULATOR}test_{name}.py" for name in ("memory_operations", "global_memory", "memory", "traps")
    ),
    "tools/emulator/native/cross_lane.c": tuple(
        f"{EMULATOR}test_{name}.py" for name in ("lane_operations", "lanes", "assembly")
    ),
    "tools/emulator/lower_matrix.py": (EMULATOR + "test_matrix.py",),
    "tools/emulator/lower_memory.py": tuple(
        f"{EMULATOR}test_{name}.py" for name in ("memory_operations", "lane_operations", "encodings", "memory", "traps")
    ),
    **{
        f"tools/emulator/{name}.py": tuple(f"{EMULATOR}test_{test}.py" for test in tests.split())
        for name, tests in {
            "api*": "api_stream api_memory api_module api_device api traps code_object launch",
            "device_state": "api_stream api_device api traps",
            "faults": "fault_words traps api_module",
            "dispatch": "launch packets api_device traps code_object_fields api_module memory matrix",
            "code_object": "code_object_fields code_object_notes api_module launch traps",
            "structures": "launch fault_words packets api_device traps memory library",
            "hip_constants": "api_device api_stream api_memory api_module api",
            "counters": "api_device traps",
        }.items()
    },
    "tools/emulator/lower_scalar.py": tuple(
        f"{EMULATOR}test_{name}.py" for name in ("encodings", "global_memory", "scalar_operations", "memory", "traps")
    ),
    "tools/emulator/*vector*.py": tuple(
        f"{EMULATOR}test_{name}.py"
        for name in ("encodings", "lane_operations", "vector_operations", "lanes", "arithmetic")
    ),
    "tools/emulator/decode.py": tuple(
        f"{EMULATOR}test_{name}.py"
        for name in (
            "encodings",
            "lane_operations",
            "global_memory",
            "memory_operations",
            "assembly",
            "scalar_operations",
            "vector_operations",
        )
    ),
    "tools/emulator/families.py": tuple(
        f"{EMULATOR}test_{name}.py"
        for name in ("families", "packets", "encodings", "scalar_operations", "vector_operations")
    ),
    "tools/emulator/translate.py": tuple(
        f"{EMULATOR}test_{name}.py" for name in ("encodings", "traps", "memory", "lanes")
    ),
    "tools/emulator/lower.py": tuple(
        f"{EMULATOR}test_{name}.py"
        for name in ("encodings", "lane_operations", "memory", "lanes", "scalar_operations", "vector_operations")
    ),
    "tools/emulator/memory.py": tuple(
        f"{EMULATOR}test_{name}.py" for name in ("device_memory", "memory", "traps", "global_memory")
    ),
    "tools/emulator/*": tuple(
        f"{EMULATOR}test_{name}.py"
        for name in (
            "scalar_operations",
            "vector_operations",
            "assembly",
            "lanes",
            "memory",
            "traps",
            "matrix",
            "api",
            "arithmetic",
        )
    ),
    "runtime/http/ollama*": tuple(
        f"{HTTP}test_{name}.py" for name in ("ollama", "ollama_models", "broken_streams", "routes")
    ),
    "runtime/http/llama_cpp*": tuple(
        f"{HTTP}test_{name}.py" for name in ("llama_cpp", "embeddings", "broken_streams", "routes")
    ),
    "runtime/http/lm_studio*": (HTTP + "test_lm_studio.py", HTTP + "test_routes.py"),
    "runtime/http/*schema.py": (HTTP + "test_openai.py", HTTP + "test_native.py", HTTP + "test_bad_input.py"),
    "runtime/http/anthropic*": (HTTP + "test_anthropic.py", "clients/test_anthropic_client.py"),
    "runtime/http/openai/messages.py": tuple(
        f"{HTTP}test_{name}.py" for name in ("openai", "bad_input", "client_templates")
    ),
    "runtime/http/core/errors.py": tuple(
        f"{HTTP}test_{name}.py" for name in ("error_shapes", "anthropic", "llama_cpp")
    ),
    # Of all APIs: how a stream ends, and what is seen of requests.
    "runtime/http/core/streaming.py": (HTTP + "test_broken_streams.py", HTTP + "test_stream_writer.py"),
    "runtime/http/transport/observe.py": (
        "test_tracing.py",
        HTTP + "test_native.py",
        HTTP + "test_openai.py",
    ),
    "runtime/http/openai/response*": (
        *(f"{HTTP}test_{name}.py" for name in ("response_tools", "response_store", "tool_streams", "broken_streams")),
        "clients/test_openai_responses.py",
    ),
    "runtime/http/core/service.py": tuple(
        f"{HTTP}test_{name}.py" for name in ("token_cache", "room", "anthropic", "openai")
    ),
    "runtime/http/core/limits.py": (HTTP + "test_room.py",),
    "runtime/http/core/admission.py": (HTTP + "test_auth.py", HTTP + "test_server.py"),
    "runtime/http/*/chat*": (HTTP + "test_openai.py", "clients/test_openai_chat.py"),
    "runtime/http/core/con[dv]*": (
        *(
            f"{HTTP}test_{name}.py"
            for name in ("response_tools", "tool_streams", "openai", "native", "bad_input", "llama_cpp", "ollama")
        ),
        "clients/test_openai_chat.py",
    ),
    "runtime/http/core/timings.py": (HTTP + "test_llama_cpp.py",),
    "runtime/http/core/answer_clock.py": (HTTP + "test_llama_cpp.py", HTTP + "test_ollama.py"),
    "runtime/http/openai/completions.py": (HTTP + "test_prompt_logprobs.py", HTTP + "test_openai.py"),
    "runtime/http/core/body.py": (HTTP + "test_bad_input.py", HTTP + "test_openai.py", HTTP + "test_anthropic.py"),
    "runtime/http/core/open*": (HTTP + "test_openai.py", "e2e/test_openapi.py"),
    "runtime/http/core/re[gs]*": (
        HTTP + "test_room.py",
        HTTP + "test_native.py",
        HTTP + "test_server.py",
        "test_model_pool.py",
    ),
    "runtime/http/*": tuple(
        f"{HTTP}test_{name}.py"
        for name in ("routes", "openai", "native", "bad_input", "server", "stream_writer", "auth", "connections")
    ),
    "runtime/client.py": ("e2e/test_client_commands.py",),
    # Tests of kernels on the emulator take a minute, those on a fake GPU a second or two.
    "runtime/device/hip/[lmps]*": tuple(f"test_{name}.py" for name in ("hip_program", "hip_graphs", "token_masks")),
    "runtime/device/hidden.py": ("test_hip_program.py", "engine/test_embeddings.py"),
    "runtime/device/batch.py": tuple(
        f"test_{name}.py" for name in ("engine", "hip_program", "token_masks", "engine_faults")
    ),
    "runtime/engine/worker/calls.py": ("test_worker_remote.py", "test_worker_ends.py"),
    "runtime/engine/generation.py": tuple(
        f"test_{name}.py"
        for name in ("worker_ledger", "worker_router", "engine", "engine_faults", "worker_remote", "metrics")
    ),
    "runtime/text/token_models/looked_up.py": ("compiler/test_merge_table.py",),
    "runtime/text/token_models/*": ("test_token_models.py", "test_tokenizer_vectors.py"),
    **dict.fromkeys(
        (f"runtime/text/{name}.py" for name in ("literals", "nested_tags", "call_arguments")),
        ("text/test_chat_formats.py", "test_tool_calls.py"),
    ),
    "compiler/grids.py": ("test_packing.py", "test_weight_types.py"),
    "cli/client.py": (
        "cli/test_cli.py",
        "e2e/test_client_commands.py",
    ),
    "cli/serve*.py": (
        "cli/test_cli.py",
        "test_logs.py",
        "e2e/test_http_faults.py::test_F47_limits_of_the_command_line",
        "e2e/test_serve.py",
        "e2e/test_observability.py",
        "test_engine_serving.py",
    ),
    "cli/*": (
        "cli/test_cli.py",
        "test_cli_commands.py",
        "test_cli_errors.py",
        "e2e/test_gpu_cli.py",
        "e2e/test_cli.py",
        "e2e/test_compile_faults.py",
    ),
    "library/*": (
        "unit/library/test_chat.py",
        "unit/library/test_params.py",
        "e2e/test_library.py",
        "unit/runtime/test_terminal.py",
    ),
    "runtime/engine/drafted_program.py": ("test_draft_model.py",),
    "runtime/engine/draft_model.py": ("test_draft_model.py", "test_draft_states.py"),
    "runtime/engine/draft_states.py": ("test_draft_states.py",),
    "runtime/engine/scheduler.py": ("test_engine_speculation.py", "test_state_slots.py"),
    "runtime/engine/state_slots.py": ("test_state_slots.py", "test_recurrent_state.py"),
    "runtime/engine/shared_pool.py": ("test_kv_cache.py", "test_state_slots.py"),
    "runtime/device/solo.py": ("test_state_memory.py", "device/test_golden.py"),
    "runtime/engine/recovery.py": ("test_engine_faults.py", "test_engine_serving.py"),
    "runtime/engine/step.py": ("test_scheduler.py", "test_engine_scores.py"),
    "runtime/engine/request_table.py": ("test_engine.py", "test_engine_scores.py"),
    "runtime/engine/checks.py": ("test_engine.py", "engine/test_embeddings.py"),
    "runtime/serve.py": ("test_engine_serving.py", "e2e/test_serve.py"),
    "runtime/verify.py": ("e2e/test_gpu_cli.py", "e2e/test_cli.py"),
    "runtime/inspect.py": ("e2e/test_cli.py", "e2e/test_gpu_cli.py"),
    "runtime/terminal.py": ("e2e/test_terminal.py",),
    "runtime/engine/lifecycle.py": ("engine/test_embeddings.py", "test_tracing.py"),
    "compiler/build.py": ("test_toolchain_commands.py", "test_toolchain.py"),
    "compiler/h*_toolchain.py": ("test_toolchain_commands.py", "test_toolchain.py"),
    **dict.fromkeys(
        ("compiler/compile.py", "compiler/stages.py", "compiler/model.py"),
        ("test_compile.py", "test_describe.py", "test_weights.py", "e2e/test_cli.py", "e2e/test_gpu_cli.py"),
    ),
    **dict.fromkeys(
        ("compiler/read_config.py", "compiler/model_tensors.py", "compiler/models/*", "compiler/graph_builder.py"),
        ("test_model_config.py", "test_passes.py", "compiler/test_operations.py"),
    ),
    **dict.fromkeys(
        ("compiler/ops/*", "compiler/operation.py", "compiler/verify.py", "compiler/planner.py", "compiler/buffers.py"),
        ("compiler/test_operations.py", "test_passes.py", "test_lower.py", "test_plan.py", "test_templates_hip.py"),
    ),
    "compiler/bundle_cache.py": ("e2e/test_serve.py",),
    "compiler/describe.py": ("e2e/test_cli.py", "e2e/test_gpu_cli.py"),
    "compiler/lower_hip.py": (
        "test_templates_hip.py",
        "test_tuning.py",
        *(GPU + name for name in ("test_norm", "test_gate", "test_embedding")),
        PRODUCTS + "test_matmul",
        "test_attention_hip.py",
    ),
    "compiler/lower*": ("test_plan.py", "test_templates.py"),
    "artifacts/targets.py": (
        *("test_hip.py", "test_occupancy.py", "test_target.py"),
        *("unit/artifacts/test_code_object.py", EMULATOR + "test_api.py"),
    ),
    "artifacts/formats.py": (
        "test_packing_sizes.py",
        "test_packing.py",
        "test_packing_lanes.py",
    ),
    "artifacts/abi.py": ("test_abi.py", "test_hip_step.py"),
    "artifacts/errors.py": ("test_cli_errors.py",),
    "artifacts/layout_checks.py": ("test_layout.py", "test_sampler.py"),
    "artifacts/*": ("test_bundle.py", "test_bundle_weights.py", "test_writer.py"),
}


def nearest_tests(root: Path, path: str) -> list[str]:
    """Test files, or tests of a file, for a source at `path` of the repository at `root`: nearest first, few."""
    module = _dotted(path)
    tests = [test for test in _tests(root) if not _stem(test).startswith(SLOW)]
    unit = [test for test in tests if not test.startswith(("tests/e2e/", "tests/clients/"))]
    names = tuple(f"test_{name}" for name in (Path(path).stem, f"{Path(path).parent.name}_{Path(path).stem}"))
    named = [test for test in tests if _stem(test).startswith(names)]
    if path.startswith("tools/emulator/"):  # whose names are those of parts of the product
        named = [test for test in named if test.startswith(f"tests/{EMULATOR}")]
    direct, helped = ({test: names[i] for test, names in _tests(root).items()} for i in range(2))
    users = [name.rpartition(".")[2] for name in _users(root, module)]
    candidates = (
        *(_ending(root, RECORDED) if path.startswith("runtime/http/") else ()),
        *sorted(named, key=lambda test: (not _mirrors(test, path), test not in unit, len(test))),
        *(test for test in unit if _same_subject(test, path)),
        *(test for test in unit if module in direct[test] and path.startswith("runtime/http/")),
        *_ending(root, next((declared for pattern, declared in TABLE.items() if fnmatch(path, pattern)), ())),
        *(test for test in unit if module in direct[test]),
        *(test for test in unit if _stem(test).removeprefix("test_") in users),
        *(test for test in unit if module in helped[test]),
        *(test for test in unit if direct[test] & _users(root, module)),
    )
    return list(dict.fromkeys(candidates))[:MOST]


def _ending(root: Path, names: Iterable[str]) -> list[str]:
    """The tests that these name by the ends of their files' paths."""
    found = []
    for name in names:
        end, separator, function = name.partition("::")
        found += [f"{test}{separator}{function}" for test in _tests(root) if test.endswith(f"/{end}")]
    return found


def _mirrors(test: str, path: str) -> bool:
    """Whether a test stands in the mirrored folder of its level, or in that of a folder around it."""
    return _mirrored(test) in _parents(path)


@cache
def _mirrored(test: str) -> Path:
    folder = (
        test.replace("tests/emulator", "tools/emulator").removeprefix("tests/unit/").removeprefix("tests/component/")
    )
    return Path(folder).parent


@cache
def _parents(path: str) -> frozenset[Path]:
    return frozenset(list(Path(path).parents)[:-1])


@cache
def _stem(path: str) -> str:
    return Path(path).stem


def _same_subject(test: str, path: str) -> bool:
    """Whether a test of the mirrored folder has the first word of the file's name: `test_embeddings`."""
    name = _stem(test).removeprefix("test_").rstrip("s")
    return _mirrors(test, path) and len(name) > 3 and _stem(path).startswith(name)


def _dotted(path: str) -> str:
    return ".".join(Path(path).with_suffix("").parts)


def _users(root: Path, module: str) -> frozenset[str]:
    """Modules of the product that import this one."""
    return frozenset(_all_users(root)[module])


@cache
def _all_users(root: Path) -> Mapping[str, set[str]]:
    users: dict[str, set[str]] = defaultdict(set)
    for folder in ("cli", "library", "compiler", "artifacts", "runtime", "tools"):
        for path in (root / folder).rglob("*.py"):
            for module in _imported(path, root):
                users[module].add(_dotted(path.relative_to(root).as_posix()))
    return users


@cache
def _tests(root: Path) -> Mapping[str, tuple[frozenset[str], frozenset[str]]]:
    """Modules of the package, dotted, that each test file imports by itself, and through the tests' own helpers."""
    paths = sorted((root / "tests").rglob("*.py"))
    direct = {_dotted(path.relative_to(root).as_posix()): _imported(path, root) for path in paths}
    return {
        path.relative_to(root).as_posix(): (
            names := direct[_dotted(path.relative_to(root).as_posix())],
            frozenset().union(*(direct[name] for name in names if name in direct)),
        )
        for path in paths
        if path.name.startswith("test_")
    }


@cache
def _imported(path: Path, root: Path) -> frozenset[str]:
    package = path.relative_to(root).parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            base = (*package[: len(package) - node.level + 1], *module) if node.level else module
            base = base[1:] if base[:1] == ("rocmforge",) else base if node.level else ()
            if base or node.module == "rocmforge":
                found |= {".".join(base)} | {".".join((*base, alias.name)) for alias in node.names}
    return frozenset(found)
