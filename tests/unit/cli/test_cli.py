"""What the command line decides by itself; commands as users type them are in e2e/test_cli.py."""

from __future__ import annotations

import errno
import importlib.metadata
import itertools
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rocmforge.artifacts import hip
from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.manifest import MANIFEST_NAME
from rocmforge.cli import main
from rocmforge.cli.emulator import make_emulator
from rocmforge.compiler.doctor import Finding
from rocmforge.library.compilation import default_archs
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.transport.auth import Security
from rocmforge.runtime.telemetry.logs import LogOptions
from rocmforge.tools.emulator import HipEmulator


@pytest.mark.parametrize(
    ("asked", "versions", "archs"),
    [
        ("gfx942 host", (110000,), ("gfx942", "host")),
        ("", (), ("host",)),
        ("", (110000,), ("gfx1100",)),
        ("", (90402, 110000, 90402), ("gfx942", "gfx1100")),
        ("", (100303,), ("gfx10-3-generic",)),  # no code of its own, but its family's
        ("", (80003,), ("host",)),
        ("", (80003, 110000), ("gfx1100",)),
        (" ", (110000,), ("gfx1100",)),
    ],
)
def test_archs_where_none_is_named(
    asked: str, versions: tuple[int, ...], archs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$ROCm_ARCH, else those of the GPUs in the topology, else the host."""
    for index, version in enumerate((0, *versions)):  # the first node is the processor
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "properties").write_text(f"simd_count 4\ngfx_target_version {version}\n")
    monkeypatch.setenv("ROCm_ARCH", asked)
    installed = hip.installed_arches
    monkeypatch.setattr(hip, "installed_arches", lambda: installed(tmp_path))
    assert default_archs() == archs


@pytest.mark.parametrize("command", ["compile", "serve", "run", "verify"])
def test_no_model_is_read_where_there_is_no_room_for_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is opened: that the file is no model is not."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"no model")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 20, resource.RLIM_INFINITY))
    done = CliRunner().invoke(main, [command, str(model)])
    expected = "rfc: memory is limited (ulimit -v): expected 320 MiB or more beside the model, found 1\n"
    assert (done.output, done.exit_code) == (expected, 1)


@pytest.mark.parametrize("found", list(itertools.product([False, True], repeat=3)))
def test_the_doctors_exit_code(found: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """4 where something is missing that is needed, whatever else is there."""
    first, second, optional = found
    findings = [
        Finding("a", first, "found at /a", needed=True),
        Finding("b", second, "found at /b", needed=True),
        Finding("c", optional, "nowhere"),
    ]
    monkeypatch.setattr("rocmforge.compiler.doctor.examine", lambda: findings)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == (0 if first and second else 4)
    lines = [f"{'ok' if one.ok else '--'}  {one.what:<22} {one.text}\n" for one in findings]
    assert done.output == "".join(lines)


def test_the_emulator_is_that_of_the_arch() -> None:
    emulator = make_emulator("gfx942")
    assert isinstance(emulator, HipEmulator)
    assert emulator.arch == "gfx942"


def test_an_emulator_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    with pytest.raises(DeviceError, match=r"^the emulator is not installed: pip install 'rocmforge\[emulator\]'$"):
        make_emulator("gfx942")
    point = importlib.metadata.EntryPoint("emulated", "no_such_package.device:Device", "rocmforge.devices")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (point,))
    with pytest.raises(DeviceError, match=r"^the emulator needs no_such_package: pip install 'rocmforge\[emulator\]'$"):
        make_emulator("gfx942")


def test_help_says_what_holds_where_nothing_is_given() -> None:
    text = " ".join(CliRunner().invoke(main, ["serve", "--help"]).output.split())
    for default in (
        "--addr TEXT HOST:PORT. [default: 127.0.0.1:8080]",
        "emulated or emulated:ARCH; auto: a GPU that the bundle has code for, else host. [default: auto]",
        "--max-body INTEGER RANGE Largest request, bytes. [default: 4 MiB; 48 where a model sees]",
        "--threads INTEGER RANGE Threads of the host target. [default: (cores, or faster hyperthreads); 1<=x<=1024]",
    ):
        assert default in text
    for command in ("run", "generate"):
        text = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
        assert "--top-k INTEGER RANGE 0: off. [default: 50; x>=0]" in text


def described(command: click.Command) -> dict[str, object]:
    """What a command takes: of each option and argument its names, what values there may be, and what holds without."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        inner = {name: command.get_command(context, name) for name in command.list_commands(context)}
        return {name: described(one) for name, one in inner.items() if one is not None}
    table: dict[str, object] = {}
    for parameter in command.params:
        info = parameter.to_info_dict()
        facts = {key: info.get(key) for key in ("nargs", "required", "multiple", "envvar", "is_flag")}
        kind = {key: value for key, value in info["type"].items() if key not in ("param_type", "name")}
        facts |= kind | {"names": [*parameter.opts, *parameter.secondary_opts]}
        facts |= {"shown": getattr(parameter, "show_default", None), "path": None}
        if isinstance(parameter.type, click.Path):
            facts["path"] = getattr(parameter.type.type, "__name__", None)
        if isinstance(parameter.default, (str, int, float)) and parameter.default is not False:
            facts["default"] = parameter.default
        table[str(parameter.name)] = {
            key: value for key, value in facts.items() if value is not None and value is not False
        }
    return table


def test_what_commands_take() -> None:
    """The command line is an interface: scripts and services name its options, count on its defaults and its limits."""
    expected = json.loads((Path(__file__).parents[2] / "data" / "command_line.json").read_text("utf-8"))
    assert json.loads(json.dumps(described(main))) == expected


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `rfc serve` was to serve, and how its log was set up: nothing is opened, and no process begun."""
    caught: list[Any] = []
    monkeypatch.setattr("rocmforge.runtime.serve.serve_bundles", caught.append)
    monkeypatch.setattr("rocmforge.runtime.telemetry.logs.configure", caught.append)
    monkeypatch.setattr("rocmforge.runtime.engine.worker.spawn.WorkerProcess", lambda: "worker")
    monkeypatch.setattr("rocmforge.runtime.engine.worker.spawn.give_way", lambda: None)
    monkeypatch.setattr(hip, "installed_arches", lambda: ())
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for name in ("RUST_LOG", "ROCMFORGE_API_KEY", "ROCMFORGE_API_KEYS", "ROCMFORGE_ADDR", "ROCMFORGE_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return caught


def serve(served: list[Any], *arguments: str) -> Any:
    served.clear()
    result = CliRunner().invoke(main, ["serve", *arguments], catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, ""), result.output
    return served[-1]


def test_what_is_served_as_it_was_given(served: list[Any], tmp_path: Path) -> None:
    folder = str(tmp_path)
    options = serve(
        served, folder, "--addr", "[::1]:99", "--alias", "a=m", "--alias", "b=m", "--alias", "a=m", "--kv-tokens", "64",
        *("--max-body", "2048", "--max-header", "4096", "--max-prompt-tokens", "7", "--max-connections", "8"),
        *("--max-streams", "9", "--rate-limit", "11", "--cors-origin", "http://x", "--cors-origin", "http://y"),
        *("--allowed-host", "one", "--trusted-proxy", "1.2.3.4", "--shared-prefix-cache", "--max-queue", "12"),
        *("--queue-seconds", "13", "--step-seconds", "14", "--prefill-tokens", "15", "--speculate", "16"),
        *("--idle-seconds", "17", "--max-loaded", "18", "--integration", "ollama", "--max-context", "19"),
        *("--device", "host", "--gpu-graphs", "off", "--threads", "3", "--no-worker"),
        *("--gpu-layers", "21", "--cpu-experts", "22", "--state-slots", "23"),
        *("--log-level", "debug", "--log-format", "json", "--log-file", "log", "--max-traces", "20"),
        *("--trace-sample-rate", "0.25"),
    )  # fmt: skip
    assert served[0] == LogOptions("debug", "", True, Path("log"))
    assert (options.bundles, options.host, options.port, options.aliases) == (
        (tmp_path,),
        "::1",
        99,
        {"a": "m", "b": "m"},
    )
    assert (options.max_context, options.kv_tokens, options.idle_seconds, options.max_loaded) == (19, 64, 17.0, 18)
    assert (options.integrations, options.worker, options.early) == (("ollama",), False, None)
    limits = options.limits
    assert (limits.max_body_bytes, limits.max_header_bytes, limits.max_prompt_tokens) == (2048, 4096, 7)
    assert (limits.image_body_bytes, limits.max_connections, limits.max_streams) == (2048, 8, 9)
    security = options.security
    assert (security.rate_per_minute, security.cors_origins, security.trusted_proxy) == (
        11,
        ("http://x", "http://y"),
        "1.2.3.4",
    )
    assert (security.shared_prefix_cache, security.allowed_hosts) == (True, ("one",))
    assert (options.traces.sampling.ratio, options.traces.max_traces) == (0.25, 20)
    engine = options.engine_limits
    assert (engine.max_queue, engine.queue_seconds, engine.step_seconds) == (12, 13.0, 14.0)
    assert (engine.prefill_tokens, engine.draft_tokens) == (15, 16)
    on = options.device
    assert (on.device, on.threads, on.graphs, on.emulator) == ("host", 3, "off", make_emulator)
    assert (on.places.gpu_layers, on.places.cpu_experts, on.state_slots) == (21, 22, 23)


def test_what_is_served_where_nothing_is_said(served: list[Any], tmp_path: Path) -> None:
    options = serve(served, str(tmp_path))
    assert served[0] == LogOptions(None, "", False, None)
    assert (options.host, options.port, options.aliases, options.integrations) == ("127.0.0.1", 8080, {}, ())
    assert (options.limits, options.engine_limits) == (HttpLimits(), EngineLimits())
    assert (options.security, options.traces.sampling.ratio) == (Security(), 0.1)
    assert (options.worker, options.early, options.device.device, options.device.graphs) == (None, None, "auto", "auto")
    assert not options.device.places.asked


def test_of_a_folder_of_bundles_each_is_served_by_name(served: list[Any], tmp_path: Path) -> None:
    for name in ("b.rfb", "a.rfb", "none", "c.rfb"):
        (tmp_path / name).mkdir()
        if name != "none":
            (tmp_path / name / MANIFEST_NAME).write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    left = tmp_path / ".a.rfb.0123456789abcdef.partial"  # by a compile that was killed
    left.mkdir()
    (left / MANIFEST_NAME).write_bytes(b"")
    bundles = tuple(tmp_path / name for name in ("a.rfb", "b.rfb", "c.rfb"))
    assert serve(served, str(tmp_path)).bundles == bundles
    (tmp_path / MANIFEST_NAME).write_bytes(b"")
    assert serve(served, str(bundles[2]), str(tmp_path)).bundles == (bundles[2], tmp_path)


def test_a_folder_that_may_not_be_looked_into_is_no_bundle(
    served: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the `lost+found` of a volume."""
    for name in ("a.rfb", "lost+found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST_NAME).write_bytes(b"")
    real = os.stat

    def stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if "lost+found/" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", stat)
    assert serve(served, str(tmp_path)).bundles == (tmp_path / "a.rfb",)


@pytest.mark.parametrize(
    "address, host, port",
    [
        (":0", "127.0.0.1", 0),
        ("8081", "127.0.0.1", 8081),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("[::]:00080", "::", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("llm.example:1", "llm.example", 1),
    ],
)
def test_where_is_listened(served: list[Any], tmp_path: Path, address: str, host: str, port: int) -> None:
    options = serve(served, str(tmp_path), "--addr", address)
    assert (options.host, options.port) == (host, port)


@pytest.mark.parametrize(
    "address", ["", "localhost", "a:", "a:65536", "a:000080", "a:-1", "a:x", "a:\u0663", "[::1]8080", "[::1]"]
)
def test_where_nothing_can_listen(served: list[Any], tmp_path: Path, address: str) -> None:
    result = CliRunner().invoke(main, ["serve", str(tmp_path), "--addr", address])
    assert result.exit_code == 2
    assert result.output.startswith("rfc: --addr: expected HOST:PORT, found ")


@pytest.mark.parametrize(
    "address",
    [
        "[::1:8080",
        "::1]:80",
        "::1:80",
        "[]:80",
        "[[::1]]:80",
        "[::1]x:80",
        "[::1]]:80",
        "[a]:80",
        "[1.2.3.4]:80",
        "a]:1",
    ],
)
def test_an_ipv6_address_stands_in_brackets(served: list[Any], tmp_path: Path, address: str) -> None:
    result = CliRunner().invoke(main, ["serve", str(tmp_path), "--addr", address])
    expected = f"expected HOST:PORT, or an IPv6 address as [ADDRESS]:PORT, found {address}"
    assert (result.exit_code, result.output) == (2, f"rfc: --addr: {expected}\n")


@pytest.mark.parametrize(
    "arguments, arches, early",
    [
        ((), (), None),
        ((), ("gfx1100",), "worker"),
        (("--device", "host"), ("gfx1100",), None),
        (("--device", "hip"), (), "worker"),
        (("--device", "emulated"), (), "worker"),
        (("--no-worker",), ("gfx1100",), None),
        (("--no-worker", "--device", "hip"), (), None),
        (("--worker", "--device", "host"), (), "worker"),
    ],
)
def test_a_worker_is_begun_at_once_where_one_will_be_needed(
    served: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    arches: tuple[str, ...],
    early: str | None,
) -> None:
    monkeypatch.setattr(hip, "installed_arches", lambda: arches)
    assert serve(served, str(tmp_path), *arguments).early == early


@pytest.mark.parametrize(
    "alias, problem",
    [
        (("a",), "--alias: expected NAME=MODEL, found a"),
        (("=m",), "--alias: expected NAME=MODEL, found =m"),
        (("a=",), "--alias: expected NAME=MODEL, found a="),
        (("a=m", "a=n"), "--alias: expected one model of the name a, found two"),
    ],
)
def test_aliases_that_are_none(served: list[Any], tmp_path: Path, alias: tuple[str, ...], problem: str) -> None:
    given = [word for text in alias for word in ("--alias", text)]
    result = CliRunner().invoke(main, ["serve", str(tmp_path), *given])
    assert (result.exit_code, result.output) == (2, f"rfc: {problem}\n")


def test_the_server_is_asked_as_it_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Server:
        def __init__(self, url: str) -> None:
            asked.append(url)

        def generate(self, body: dict[str, Any]) -> dict[str, Any]:
            asked.append(body)
            return {"text": "all of it", "finish_reason": "stop", "request_id": 3}

        def generate_stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
            asked.append(body)
            yield {"text": "one ", "finish_reason": None, "request_id": 3}
            yield {"text": "two", "finish_reason": "stop" if "seed" in body else "failed", "request_id": 3}

    monkeypatch.setattr("rocmforge.runtime.client.Client", Server)
    monkeypatch.delenv("ROCMFORGE_URL", raising=False)
    defaults = {"prompt": "p", "max_tokens": 100, "temperature": 1.0, "top_k": 50, "top_p": 0.9}
    run = CliRunner().invoke(main, ["generate", "p", "--seed", "4"])
    assert (run.exit_code, run.output, asked) == (0, "one two\n", ["http://127.0.0.1:8080", defaults | {"seed": 4}])
    run = CliRunner().invoke(main, ["generate", "p"])
    assert (run.exit_code, run.output) == (1, "one tworfc: generation 3 failed: ?\n")
    run = CliRunner().invoke(main, ["generate", "p", "--no-stream", "--url", "http://x"])
    assert (run.exit_code, run.output, asked[-2:]) == (0, "all of it\n", ["http://x", defaults])
    run = CliRunner().invoke(main, ["generate", "p", "--no-stream", "--json"])
    assert json.loads(run.output) == {"text": "all of it", "finish_reason": "stop", "request_id": 3}
