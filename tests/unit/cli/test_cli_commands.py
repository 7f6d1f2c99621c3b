"""What commands hand on, as it was given: nothing is compiled, loaded or run."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rocmforge.artifacts import hip
from rocmforge.artifacts.processors import usable_cpus
from rocmforge.cli import main
from rocmforge.cli.emulator import make_emulator
from rocmforge.cli.main import START_THRESHOLD
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.tuning import read_tuning
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.engine.generation import SamplingParams
from rocmforge.runtime.text.chat import check_template

VARIABLES = ("ROCm_ARCH", "ROCMFORGE_TOKENIZER", "ROCMFORGE_THREADS", "ROCMFORGE_MODELS", "RUST_LOG")


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Any]]:
    """Signals and what they were to do; no GPU, no variable, and the collector as it was."""
    caught: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", caught.__setitem__)
    monkeypatch.setattr(hip, "installed_arches", lambda: ())
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    thresholds = gc.get_threshold()
    yield caught
    gc.set_threshold(*thresholds)


def rfc(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def caught(monkeypatch: pytest.MonkeyPatch, name: str, answer: object = None) -> list[Any]:
    """The arguments of a function's calls, in whose place nothing is done."""
    calls: list[Any] = []

    def take(*arguments: object) -> object:
        calls.append(arguments)
        return answer

    monkeypatch.setattr(f"rocmforge.{name}", take)
    return calls


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return caught(monkeypatch, "compiler.compile.compile_model", SimpleNamespace(bundle_digest="sha256:0f"))


def test_what_is_compiled_as_it_was_given(compiled: list[Any], tmp_path: Path) -> None:
    arguments = (
        *("-o", "out.rfb", "--arch", "gfx942", "--arch", "host", "--tokenizer", "t.json", "--chat-template", "c.jinja"),
        *("--toolchain", "cc", "--jobs", "3", "--kv-type", "q8_0", "--max-context", "99", "--cache-dir", tmp_path),
    )
    result = rfc("compile", "m.gguf", *arguments)
    ((options, cache, _, golden, check),) = compiled
    assert options == CompileOptions(
        model=Path("m.gguf"),
        goal=Path("out.rfb"),
        archs=("gfx942", "host"),
        tokenizer=Path("t.json"),
        max_context=99,
        toolchain="cc",
        jobs=3,
        tuning=read_tuning((), os.environ),
        kv_dtype="q8_0",
        chat_template=Path("c.jinja"),
    )
    assert str(tmp_path) in str(vars(cache))
    assert (golden, check) == (make_golden, check_template)
    assert result.stdout == "out.rfb  sha256:0f\n"


@pytest.mark.parametrize("cpus, jobs", [(3, 3), (384, 256)])
def test_what_is_compiled_where_nothing_is_said(
    compiled: list[Any], monkeypatch: pytest.MonkeyPatch, cpus: int, jobs: int
) -> None:
    caught(monkeypatch, "cli.compile.usable_cpus", cpus)
    result = rfc("compile", "a/m.q4.gguf", "--json")
    options = compiled[0][0]
    assert (options.goal, options.archs, options.toolchain) == (Path("a/m.q4.rfb"), ("host",), "auto")
    assert (options.jobs, options.kv_dtype, options.max_context) == (jobs, "f16", None)
    assert json.loads(result.stdout.splitlines()[-1]) == {"bundle": "a/m.q4.rfb", "digest": "sha256:0f"}


@pytest.mark.parametrize("model", ["", ".", "/"])
def test_what_has_no_name_is_no_model(compiled: list[Any], model: str) -> None:
    result = CliRunner().invoke(main, ["compile", model])
    assert (result.exit_code, compiled) == (2, [])
    assert result.output.startswith("rfc: MODEL: expected a GGUF file, found ")


def test_signals_end_a_compile_by_its_own_way_out(
    compiled: list[Any], handlers: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    rfc("compile", "m.gguf")
    assert handlers.keys() == {signal.SIGTERM, signal.SIGHUP}
    for number, handler in handlers.items():
        with pytest.raises(SystemExit) as ended:
            handler(number, None)
        assert ended.value.code == 128 + number
    handlers.clear()
    monkeypatch.setattr(
        signal, "getsignal", lambda number: signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL
    )
    rfc("compile", "m.gguf")
    assert handlers.keys() == {signal.SIGTERM}  # nohup holds


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return caught(monkeypatch, "compiler.bundle_cache.cached_bundle", Path("cached.rfb"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return caught(monkeypatch, "runtime.terminal.run_bundle")


def test_a_gguf_is_compiled_into_the_cache_before_it_runs(
    cached: list[Any], run: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setenv("ROCMFORGE_TOKENIZER", "t.json")
    monkeypatch.setenv("ROCm_ARCH", "gfx942 host")
    rfc("run", "m.gguf", "--cache-dir", tmp_path, "--max-context", "77")
    ((options, folder, say, golden, check),) = cached
    assert (options.model, options.goal, options.archs) == (Path("m.gguf"), Path("m.gguf"), ("gfx942", "host"))
    assert (options.tokenizer, options.max_context) == (Path("t.json"), 77)
    assert options.jobs == usable_cpus()
    assert (folder, golden, check) == (tmp_path, make_golden, check_template)
    say("told")
    assert capsys.readouterr() == ("", "told\n")
    ((asked,),) = run
    assert (asked.bundle, asked.prompt, asked.max_context) == (Path("cached.rfb"), None, 77)
    monkeypatch.delenv("ROCMFORGE_TOKENIZER")
    rfc("run", "m.gguf", "p")
    assert cached[-1][0].tokenizer is None


def test_a_bundle_runs_as_it_was_said(cached: list[Any], run: list[Any], tmp_path: Path) -> None:
    rfc("run", tmp_path, "p")
    options = ("-n", 3, "--temperature", 0.5, "--top-k", 4, "--top-p", 0.25, "--seed", 6, "--max-context", 9)
    rfc("run", tmp_path, "p", *options, "--device", "hip:1", "--gpu-graphs", "off", "--threads", "2")
    (plain,), (given,) = run
    assert cached == []
    assert (plain.bundle, plain.prompt, plain.max_tokens) == (tmp_path, "p", 256)
    assert plain.sampling == SamplingParams(temperature=0.7, top_k=50, top_p=0.9, seed=None)
    assert (given.bundle, given.max_tokens, given.max_context) == (tmp_path, 3, 9)
    assert given.sampling == SamplingParams(temperature=0.5, top_k=4, top_p=0.25, seed=6)
    on = given.device
    assert (on.device, on.threads, on.graphs, on.emulator) == ("hip:1", 2, "off", make_emulator)


def test_a_bundle_is_verified_on_the_device_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    calls = caught(monkeypatch, "runtime.verify.verify")
    rfc("verify", "b.rfb", "--device", "emulated", "--gpu-graphs", "on", "--threads", "5")
    ((bundle, on, say, check),) = calls
    assert (bundle, on.device, on.graphs, on.threads, check) == (Path("b.rfb"), "emulated", "on", 5, None)
    say("told")
    assert capsys.readouterr().out == "told\n"


def test_a_profile_is_of_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = caught(monkeypatch, "runtime.gpu_profile.profile", "profile")
    monkeypatch.setattr("rocmforge.runtime.gpu_profile.format_profile", lambda found: [found, "line"])
    assert rfc("profile", "b.rfb", "p", "-n", "4", "--device", "hip:2").stdout == "profile\nline\n"
    rfc("profile", "b.rfb", "p")
    (given, _), (plain, _) = calls
    assert (given.bundle, given.prompt, given.max_tokens, given.device) == (Path("b.rfb"), "p", 4, "hip:2")
    assert (plain.max_tokens, plain.device) == (32, "hip")


def test_models_of_a_folder_and_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"kind": "bundle", "size_bytes": 3 << 19, "path": "a.rfb", "about": "llama"}
    folders = caught(monkeypatch, "runtime.inspect.find_models", [row])
    assert rfc("models").stdout == "bundle        1.5 MiB  a.rfb  llama\n"
    assert json.loads(rfc("models", "there", "--json").stdout) == [row]
    assert folders == [(Path(),), (Path("there"),)]
    served = [{"path": "/m\n/a.rfb"}, {}]
    made = caught(monkeypatch, "runtime.client.Client", SimpleNamespace(models=lambda: served))
    assert rfc("models", "--url", "http://x").stdout == "/m\\n/a.rfb\nNone\n"
    assert [json.loads(line) for line in rfc("models", "--url", "http://x", "--json").stdout.splitlines()] == served
    assert made == [("http://x",)] * 2


@pytest.mark.parametrize("arguments", [(), ("--arch", "gfx942", "--json")])
def test_what_cannot_be_emulated(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "m.gguf").write_bytes(b"")
    cases = [("inspect", tmp_path, "--emulate", *arguments), ("inspect", tmp_path / "m.gguf", "--emulate", *arguments)]
    for case in [*cases, ("inspect", tmp_path / "m.gguf", "--emulate", "--arch", "gfx942")]:
        result = CliRunner().invoke(main, [str(one) for one in case])
        expected = "rfc: --emulate: expected a bundle and --arch, and not --json\n"
        assert (result.exit_code, result.output) == (2, expected)


def test_what_is_inspected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resources = [{"arch": "gfx942"}, {"arch": "gfx1100"}]

    def facts() -> dict[str, object]:
        return {"name": "tiny", "kernels": [{"launches_per_step": 3, "symbol": "k", "resources": resources}]}

    asked: list[Any] = []

    def inspect_bundle(*given: object) -> dict[str, object]:
        asked.append(given)
        return facts()

    monkeypatch.setattr("rocmforge.runtime.inspect.inspect_bundle", inspect_bundle)
    monkeypatch.setattr("rocmforge.runtime.inspect.format_resources", lambda found: f"of {found['arch']}")
    lines = rfc("inspect", tmp_path, "--kernels").stdout.splitlines()
    assert lines[-3:] == ["    3 x k", "        of gfx942", "        of gfx1100"]
    assert lines[0].split() == ["name", "tiny"]
    assert rfc("inspect", tmp_path, "--arch", "gfx1100").stdout.splitlines()[-2:] == ["    3 x k", "        of gfx1100"]
    assert json.loads(rfc("inspect", tmp_path, "--json").stdout) == facts()
    assert asked == [(tmp_path, True, None), (tmp_path, False, "gfx1100"), (tmp_path, False, None)]
    monkeypatch.setattr("rocmforge.cli.inspect._print_roofline", lambda path, arch: print(f"roofline of {arch}"))
    assert rfc("inspect", tmp_path, "--arch", "gfx1100", "--emulate").stdout.splitlines()[-1] == "roofline of gfx1100"


def test_a_command_collects_less_while_it_starts_and_says_how_it_is_used() -> None:
    result = CliRunner().invoke(main, [])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert gc.get_threshold()[0] == START_THRESHOLD


@pytest.mark.parametrize("event", [{"token": {"text": "a"}}, {"text": 7, "finish_reason": None}, {"text": "a"}])
def test_a_server_of_others_is_none_of_ours(event: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    caught(monkeypatch, "runtime.client.Client.generate_stream", iter([event]))
    result = CliRunner().invoke(main, ["generate", "x", "--url", "http://a"], catch_exceptions=False)
    line = "rfc: http://a: expected text and finish_reason: not a rocmforge server?\n"
    assert (result.exit_code, result.output) == (1, line)


def test_models_of_a_server_in_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    caught(monkeypatch, "runtime.client.Client.models", ["a\nb", {"path": "c"}])
    assert rfc("models", "--url", "http://a").output == "a\\nb\nc\n"


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "words",
    [("serve", "x.rfb", "--idle-seconds"), ("serve", "x.rfb", "--drain-seconds"), ("pull", "h.x/a", "--cache-gib")],
)
def test_numbers_are_finite(words: tuple[str, ...], number: str) -> None:
    result = CliRunner().invoke(main, [*words, number], catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert f"Invalid value for '{words[-1]}': " in result.output


@pytest.mark.parametrize("number", ["nan", "many", "-1"])
def test_a_limit_of_the_environment_is_a_number(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCMFORGE_REGISTRY_GIB", number)
    name = f"oci://h.x/a@sha256:{'0' * 64}"
    result = CliRunner().invoke(main, ["run", name, "hi"], catch_exceptions=False)
    line = f"rfc: ROCMFORGE_REGISTRY_GIB: expected a number of GiB, found {number}\n"
    assert (result.exit_code, result.output) == (2, line)
