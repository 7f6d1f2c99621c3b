"""The commands of `rfc`, and how each refuses what it cannot use: one line, the promised exit code, nothing written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import struct
import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path

import gguf
import msgpack
import pytest

from rocmforge import __version__
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.manifest import decode_manifest, encode_manifest
from rocmforge.artifacts.manifest_entries import FileEntry
from rocmforge.artifacts.merge_table import MERGES_NAME
from rocmforge.tests.support.killed import one_of_many
from rocmforge.tests.support.process import COMMAND, digest_of, environment, files_of, refused, rfc, serving
from rocmforge.tools.generate.fixtures import write_model

# As sitecustomize: Python then finds no ziglang package, as where it was never installed.
NO_ZIG = 'import sys\nsys.modules["ziglang"] = None\n'


def test_version_and_help() -> None:
    assert rfc("--version").stdout == f"rfc, version {__version__}\n"
    text = rfc("--help").stdout
    for command in ("compile", "serve", "run", "inspect", "verify", "models", "doctor"):
        assert f"\n  {command} " in text
    without = rfc()
    assert (without.returncode, without.stdout) == (2, "")
    assert "Usage: rfc" in without.stderr


def test_inspect_gguf(small_gguf: Path) -> None:
    facts = json.loads(rfc("inspect", small_gguf, "--json").stdout)
    assert (facts["architecture"], facts["layers"], facts["vocabulary"], facts["context"]) == ("llama", 2, 320, 256)
    assert facts["weight_bytes"] == sum(int(t.n_bytes) for t in gguf.GGUFReader(small_gguf).tensors)
    # Keys and values, float16, 2 layers of 2 heads of 16 elements.
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 2 * 16
    text = rfc("inspect", small_gguf).stdout
    assert "llama" in text
    assert len(text.splitlines()) == len(facts)


def test_inspect_bundle(small_bundle: Path) -> None:
    facts = json.loads(rfc("inspect", small_bundle, "--kernels", "--json").stdout)
    assert facts["digest"] == json.loads((small_bundle / "manifest.json").read_bytes())["bundle_digest"]
    assert facts["weights_bytes"] <= (small_bundle / "weights.bin").stat().st_size
    symbols = {row["symbol"] for row in facts["kernels"]}
    assert sum(row["launches_per_step"] for row in facts["kernels"]) == facts["kernel_launches_per_token"]
    assert json.loads((small_bundle / "manifest.json").read_bytes())["options"]["archs"] == ["host"]
    lines = rfc("inspect", small_bundle, "--kernels").stdout.splitlines()
    assert symbols == {line.split(" x ")[1] for line in lines if " x " in line}


def test_inspect_into_a_closed_pipe(small_bundle: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [*COMMAND, "inspect", str(small_bundle)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment(), check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_verify_replays_the_golden_records(small_bundle: Path) -> None:
    done = rfc("verify", small_bundle)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("digests: ")
    assert any(line.startswith("host portable: 2 golden records replayed, equal to the bit") for line in lines)


def test_a_short_context_compiles_and_verifies(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    """Golden records must stay within it: positions past it have no row in the rotary table."""
    goal = tmp_path / "goal.rfb"
    digest_of(rfc("compile", small_gguf, "-o", goal, "--max-context", 8, "--cache-dir", small_cache))
    assert rfc("verify", goal).returncode == 0
    refused(rfc("run", goal, "a" * 8), 2, "8 tokens")


def test_a_context_longer_than_the_model_was_trained_on(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    """It compiles where it is asked for, with a note; positions past the training are computed as any other."""
    goal = tmp_path / "goal.rfb"
    done = rfc("compile", small_gguf, "-o", goal, "--max-context", 400, "--cache-dir", small_cache)
    assert "note: trained on 256 tokens" in done.stderr
    digest_of(done)
    assert rfc("verify", goal).returncode == 0
    assert rfc("run", goal, "a" * 300, "-n", 4, "--temperature", 0).returncode == 0


def copy_of(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "copy.rfb"))


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_verify_finds_a_flipped_byte_in_the_weights(small_bundle: Path, tmp_path: Path) -> None:
    bundle = copy_of(small_bundle, tmp_path)
    flip(bundle / "weights.bin", 5000)
    refused(rfc("verify", bundle), 3, "weights.bin", "sha256")


@pytest.mark.parametrize("command", ["verify", "run", "serve"])
def test_F27_flipped_byte_in_code(command: str, small_bundle: Path, tmp_path: Path) -> None:
    """Refused before anything is loaded: a constructor in the code would otherwise have run."""
    bundle = copy_of(small_bundle, tmp_path)
    for code in (bundle / "code").iterdir():
        flip(code, code.stat().st_size // 2)
    refused(one_of_many(command, bundle, *(["hello"] if command == "run" else [])), 3, "code/host-", "sha256")


@pytest.mark.parametrize("command", ["verify", "run", "serve", "inspect"])
def test_F40_future_format_version(command: str, small_bundle: Path, tmp_path: Path) -> None:
    bundle = copy_of(small_bundle, tmp_path)
    manifest = bundle / "manifest.json"
    document = json.loads(manifest.read_bytes())
    document["format_version"] = "99.0"
    manifest.write_text(json.dumps(document))
    refused(one_of_many(command, bundle, *(["hello"] if command == "run" else [])), 3, "format_version", "99.0")


BAD_PROMPTS: tuple[object, ...] = ([10**6], [-1], [], [0] * 5000, ["a"], [True], None)


@pytest.mark.parametrize("prompt", BAD_PROMPTS, ids=lambda prompt: str(prompt)[:10])
def test_verify_refuses_golden_records_that_are_not_safe_to_run(
    prompt: object, small_bundle: Path, tmp_path: Path
) -> None:
    bundle = copy_of(small_bundle, tmp_path)
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    golden = ({**manifest.golden[0], "prompt": prompt}, *manifest.golden[1:])
    (bundle / "manifest.json").write_bytes(encode_manifest(dataclasses.replace(manifest, golden=golden)))
    refused(one_of_many("verify", bundle), 3, "golden.prompt")


@pytest.mark.parametrize("field, value", [("texts", 5), ("rules", "{}"), ("order", None)])
def test_run_refuses_tables_of_merges_that_are_none(
    field: str, value: object, small_bundle: Path, tmp_path: Path
) -> None:
    """The manifest has their digest. That tokens are in another order than their texts is seen at the first word."""
    bundle = copy_of(small_bundle, tmp_path)
    table = msgpack.unpackb((bundle / MERGES_NAME).read_bytes())
    data = msgpack.packb(table | {field: value or array("I", reversed(array("I", table[field]))).tobytes()})
    (bundle / MERGES_NAME).write_bytes(data)
    manifest = decode_manifest(bundle, (bundle / "manifest.json").read_bytes())
    files = {**manifest.files, MERGES_NAME: FileEntry(len(data), hashlib.sha256(data).hexdigest())}
    (bundle / "manifest.json").write_bytes(encode_manifest(dataclasses.replace(manifest, files=files)))
    refused(one_of_many("run", bundle, "hello"), 3, f"{bundle}/{MERGES_NAME}: {field}: expected ")


def test_run_continues_a_prompt_the_same_way_again(small_bundle: Path) -> None:
    def text(seed: int) -> str:
        done = rfc("run", small_bundle, "hello", "-n", 16, "--temperature", 1.5, "--seed", seed)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert text(1) == text(1) != text(2)
    assert rfc("run", small_bundle, "hello", "-n", 2, "--top-k", 0).returncode == 0


def test_run_and_chat_say_what_the_server_says(smollm2_path: Path) -> None:
    """The second answer of a chat depends on the first question and answer, which only the conversation holds."""
    questions = ("What is the capital of France?", "And of Italy?")
    options = ("-n", 20, "--temperature", 0)
    prompted = rfc("run", smollm2_path, "The capital of France is", *options)
    chat = rfc("run", smollm2_path, *options, text=f"{questions[0]}\n\n{questions[1]}")
    with serving(smollm2_path) as server:
        body = {"prompt": "The capital of France is", "max_tokens": 20, "temperature": 0}
        assert prompted.stdout == server.post("/generate", body).json()["text"] + "\n"
        messages: list[dict[str, str]] = []
        for question in questions:
            messages.append({"role": "user", "content": question})
            body = {"messages": messages, "max_tokens": 20, "temperature": 0}
            answer = server.post("/v1/chat/completions", body).json()["choices"][0]["message"]
            messages.append({"role": "assistant", "content": answer["content"]})
    assert chat.stdout == "".join(message["content"] + "\n" for message in messages[1::2])
    assert chat.stderr == ""


def test_chat_forgets_its_oldest_exchange_when_too_long(small_bundle: Path) -> None:
    done = rfc("run", small_bundle, "-n", 4, text=f"{'a' * 150}\n{'b' * 150}\n")  # a context of 256 tokens
    assert done.returncode == 0, done.stderr
    assert "forgotten" in done.stderr
    refused(rfc("run", small_bundle, "-n", 4, text="a" * 300), 2, "256")


def test_models_lists_what_is_there(small_gguf: Path, small_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(small_gguf, tmp_path / "a.gguf")
    shutil.copytree(small_bundle, tmp_path / "b.rfb")
    shutil.copytree(small_bundle, tmp_path / ".c.rfb.0123456789abcdef.partial")
    shutil.copytree(small_bundle, tmp_path / "d.rfb")
    (tmp_path / "d.rfb" / "layout.msgpack").write_bytes(b"")
    rows = json.loads(rfc("models", "--json", ROCMFORGE_MODELS=str(tmp_path)).stdout)
    assert [(row["kind"], Path(row["path"]).name) for row in rows] == [
        ("gguf", "a.gguf"),
        ("bundle", "b.rfb"),
        ("bundle", "d.rfb"),
    ]
    assert rows[0]["size_bytes"] == small_gguf.stat().st_size
    files = json.loads((small_bundle / "manifest.json").read_bytes())["files"]
    assert [row["size_bytes"] for row in rows[1:]] == [sum(entry["n_bytes"] for entry in files.values()), 0]
    assert rows[1]["about"] == "fixture (Q4_1)"
    assert "layout.msgpack" in rows[2]["about"]
    assert len(rfc("models", tmp_path).stdout.splitlines()) == 3
    refused(rfc("models", tmp_path / "nothing"), 3, "nothing")


def test_doctor_finds_the_toolchain(tmp_path: Path) -> None:
    done = rfc("doctor", "--json", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert findings["zig toolchain"]["ok"]
    assert findings["host portable"]["ok"]
    assert findings["build cache"]["text"] == str(tmp_path / "rocmforge")
    assert len(rfc("doctor").stdout.splitlines()) == len(findings)


def test_F67_compiler_missing(tmp_path: Path, small_gguf: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_ZIG)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = rfc("doctor", "--json", PYTHONPATH=path)
    assert done.returncode == 4
    finding = next(finding for finding in json.loads(done.stdout) if finding["what"] == "zig toolchain")
    assert not finding["ok"]
    assert "pip install ziglang" in finding["text"]
    goal = tmp_path / "model.rfb"
    refused(rfc("compile", small_gguf, "-o", goal, PYTHONPATH=path), 4, "pip install ziglang")
    refused(rfc("compile", small_gguf, "-o", goal, "--toolchain", "no-such-cc"), 4, "no-such-cc")
    assert not goal.exists()


def test_F67_compiler_failing(tmp_path: Path, small_gguf: Path) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken-cc 1.0 && exit\necho error: "\x1b[31mno" >&2\nexit 3\n'
    )
    compiler.chmod(0o755)
    goal = tmp_path / "model.rfb"
    done = rfc("compile", small_gguf, "-o", goal, "--toolchain", compiler, "--cache-dir", tmp_path / "cache")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == r"rfc: broken-cc failed (3): error: \x1b[31mno"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken-cc", "cache"]


def start(gguf_path: Path, cache: Path) -> tuple[str, int]:
    """Serve a GGUF; what it said of its bundle, and the status of one request."""
    with serving(gguf_path, XDG_CACHE_HOME=str(cache)) as server:
        status = server.post("/generate", {"prompt": "hello", "max_tokens": 1}).status_code
        return "".join(server.log), status


def test_serve_compiles_a_gguf_once(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(small_cache, tmp_path / "rocmforge")  # the objects; not a bundle
    log, status = start(small_gguf, tmp_path)
    assert (status, "is not a bundle: compiling it to" in log) == (200, True)
    log, status = start(small_gguf, tmp_path)
    assert (status, "using its bundle" in log, "compiling" in log) == (200, True, False)
    (bundle,) = (tmp_path / "rocmforge" / "bundles").iterdir()
    whole = files_of(bundle)
    for damage in ("weights.bin", "code/host-portable.so", "manifest.json"):
        os.truncate(bundle / damage, 100)
        log, status = start(small_gguf, tmp_path)
        assert (status, "damaged" in log, damage in log) == (200, True, True)
        assert files_of(bundle) == whole
    (bundle / "manifest.json").unlink()
    (bundle / "notes.txt").write_text("precious")
    log, status = start(small_gguf, tmp_path)
    assert (status, "damaged" in log, "moved aside" in log) == (200, True, True)
    assert files_of(bundle) == whole
    notes = (bundle.parent).glob("*.damaged/notes.txt")
    assert [note.read_text() for note in notes] == ["precious"]


def test_serve_notices_that_a_gguf_has_changed(small_gguf: Path, small_cache: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    for seed in (1, 2):
        write_model(model, seed=seed)
        done = rfc("run", model, "hello", "-n", 1, "--cache-dir", small_cache)
        assert done.returncode == 0, done.stderr
        assert "compiling it to" in done.stderr


def test_a_cache_that_cannot_be_written(small_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = rfc("serve", small_gguf, "--cache-dir", tmp_path / "file" / "cache")
    assert done.returncode == 1
    assert "--cache-dir" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def cut(data: bytes) -> bytes:
    return data[:-1]


def with_type(ggml_type: int) -> Callable[[bytes], bytes]:
    """Change the type of the tensor blk.0.attn_q.weight."""

    def change(data: bytes) -> bytes:
        at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
        return data[:at] + struct.pack("<I", ggml_type) + data[at + 4 :]

    return change


BAD_GGUF: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "F1-empty": (lambda _: b"", "magic"),
    "F1-magic alone": (lambda data: data[:4], "version"),
    "F2-wrong magic": (lambda data: b"PK\3\4" + data[4:], "magic"),
    "F3-future version": (lambda data: data[:4] + b"\x63" + data[5:], "version"),
    "F4-tensor count": (lambda data: data[:8] + b"\xff" * 8 + data[16:], "tensor"),
    "F5-key count": (lambda data: data[:16] + b"\xff" * 8 + data[24:], "key"),
    "F10-unknown quantization": (with_type(999), "blk.0.attn_q.weight"),
    "F10-quantization without a kernel": (with_type(int(gguf.GGMLQuantizationType.TQ1_0)), "blk.0.attn_q.weight"),
    "F19-one byte short": (cut, "output_norm.weight"),
}


@pytest.mark.parametrize(("damage", "named"), BAD_GGUF.values(), ids=BAD_GGUF.keys())
def test_bad_gguf(damage: Callable[[bytes], bytes], named: str, small_gguf: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(damage(small_gguf.read_bytes()))
    refused(one_of_many("compile", model), 3, str(model), named)
    assert list(tmp_path.iterdir()) == [model]
    refused(one_of_many("inspect", model), 3, str(model), named)


def test_unknown_architecture(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", architecture="xlstm")
    refused(rfc("compile", model), 3, "general.architecture", "xlstm", "docs/architectures.md")
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("kind", ["missing", "folder", "FIFO", "device", "overlong", "broken link"])
@pytest.mark.parametrize("command", ["compile", "serve", "inspect"])
def test_F26_no_file_at_all(command: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "overlong":
        path = tmp_path / ("a" * 300)
    elif kind == "broken link":
        path.symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    goal = ["-o", tmp_path / "goal.rfb"] if command == "compile" else []
    refused(one_of_many(command, path, *goal), 3)
    assert sorted(tmp_path.iterdir()) == before


def test_F24_escape_codes_in_names(tmp_path: Path, small_gguf: Path) -> None:
    name = "model\n\x1b[31mrfc: done\r\u202e.gguf"
    for command in ("compile", "inspect", "serve"):
        refused(one_of_many(command, tmp_path / name), 3, r"model\n\x1b[31mrfc: done\r\u202e.gguf")
    (tmp_path / name).write_bytes(b"GGUF")
    refused(one_of_many("compile", tmp_path / name), 3, r"model\n\x1b[31m")
    model = tmp_path / "key.gguf"
    model.write_bytes(small_gguf.read_bytes().replace(b"blk.0.attn_q.weight", b"blk.0.\n\x1b[31m.weight"))
    assert refused(one_of_many("compile", model), 3).isascii()


def test_a_chat_template_that_does_not_parse_and_another_in_its_place(
    tmp_path: Path, small_gguf: Path, small_cache: Path
) -> None:
    model, goal, file = tmp_path / "m.gguf", tmp_path / "m.rfb", tmp_path / "chat.jinja"
    data = small_gguf.read_bytes()
    model.write_bytes(data.replace(b"{% for ", b"{% fro ", 1))
    assert model.read_bytes() != data
    compile_it = ("compile", model, "-o", goal, "--cache-dir", small_cache)
    refused(rfc(*compile_it), 3, "m.gguf: tokenizer.chat_template: line 1: ", "--chat-template")
    served = rfc("serve", model, "--cache-dir", tmp_path / "cache")
    assert (served.returncode, "tokenizer.chat_template: line 1: " in served.stderr.splitlines()[-1]) == (3, True)
    assert not goal.exists()
    file.write_text("{{ messages[-1].content }}!")
    digest_of(rfc(*compile_it, "--chat-template", file))
    assert open_bundle(goal).read("chat_template.jinja") == file.read_bytes()


WRONG_USAGE: dict[str, list[str]] = {
    "command": ["frobnicate"],
    "option": ["--frobnicate"],
    "no model": ["compile"],
    "model": ["compile", ""],
    "arch": ["compile", "{model}", "-o", "{goal}", "--arch", "gfx9999"],
    "max-context zero": ["compile", "{model}", "-o", "{goal}", "--max-context", "0"],
    "max-context large": ["compile", "{model}", "-o", "{goal}", "--max-context", str(2**20 + 1)],
    "jobs": ["compile", "{model}", "-o", "{goal}", "--jobs", "0"],
    "goal": ["compile", "{model}", "-o", "{model}"],
    "addr without port": ["serve", "{bundle}", "--addr", "localhost"],
    "addr port": ["serve", "{bundle}", "--addr", "127.0.0.1:65536"],
    "addr digits": ["serve", "{bundle}", "--addr", "127.0.0.1:²"],
    "addr digits overlong": ["serve", "{bundle}", "--addr", "127.0.0.1:" + "1" * 5000],
    "threads": ["serve", "{bundle}", "--threads", "0"],
    "threads text": ["run", "{bundle}", "hello", "--threads", "many"],
    "context": ["serve", "{bundle}", "--max-context", "257"],
    "kv-tokens": ["serve", "{bundle}", "--kv-tokens", "0"],
    "prompt empty": ["run", "{bundle}", ""],
    "prompt long": ["run", "{bundle}", "a" * 300],
    "temperature": ["run", "{bundle}", "hello", "--temperature", "-1"],
}


@pytest.mark.parametrize("arguments", WRONG_USAGE.values(), ids=WRONG_USAGE.keys())
def test_wrong_usage(arguments: list[str], small_gguf: Path, small_bundle: Path, tmp_path: Path) -> None:
    places = {"{model}": str(small_gguf), "{bundle}": str(small_bundle), "{goal}": str(tmp_path / "goal.rfb")}
    refused(one_of_many(*(places.get(argument, argument) for argument in arguments)), 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 100_000])
def test_bad_tokenizer_file(content: bytes | None, small_gguf: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    if content is not None:
        tokenizer.write_bytes(content)
    before = list(tmp_path.iterdir())
    refused(
        one_of_many("compile", small_gguf, "-o", tmp_path / "goal.rfb", "--tokenizer", tokenizer), 3, str(tokenizer)
    )
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kv_tokens", [10**12, 10**30])
def test_more_memory_than_there_is(kv_tokens: int, small_bundle: Path) -> None:
    refused(one_of_many("serve", small_bundle, "--kv-tokens", kv_tokens), 4, str(kv_tokens), "available", "--kv-tokens")


def test_arch_by_environment(small_gguf: Path, tmp_path: Path, small_cache: Path) -> None:
    refused(rfc("compile", small_gguf, "-o", tmp_path / "goal.rfb", ROCm_ARCH="gfx9999"), 2, "gfx9999")
    done = rfc("run", small_gguf, "hello", "--cache-dir", tmp_path, ROCm_ARCH="host gfx9999")  # which compiles it
    assert (done.returncode, done.stderr.splitlines()[-1][:19]) == (2, "rfc: --arch gfx9999")
    done = rfc("compile", "-o", tmp_path / "goal.rfb", "--cache-dir", small_cache, ROCMFORGE_GGUF=str(small_gguf))
    assert digest_of(done).startswith("sha256:")
