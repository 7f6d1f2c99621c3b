"""Bundles through a real registry: what goes there comes back, what a machine needs comes, what is wrong is refused."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from rocmforge.artifacts.bundle import open_bundle, verify_bundle
from rocmforge.artifacts.errors import BundleError, RocmforgeError
from rocmforge.artifacts.pulled import decode_pulled
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.cli import main
from rocmforge.registry import pull as pull_module
from rocmforge.registry.artifact import Artifact, decode_artifact, describe
from rocmforge.registry.cache import Cache
from rocmforge.registry.client import Client
from rocmforge.registry.errors import RegistryError
from rocmforge.registry.pull import cached_bundle, pull_bundle
from rocmforge.registry.push import push_bundle
from rocmforge.registry.reference import Reference, parse_reference
from rocmforge.registry.transfer import has_blob
from rocmforge.signing.envelope import Signing, Trust
from rocmforge.signing.files import write_companion
from rocmforge.signing.model_signature import check_signature, sign_bundle
from rocmforge.tests.support.bundle import LAYOUT_DATA, MANIFEST, TARGET, WEIGHTS, content, write_both
from rocmforge.tests.support.keys import make_key
from rocmforge.tests.support.process import wait_until
from rocmforge.tests.support.registries import RunningRegistry, program, running_registry

from .conftest import make_bundle


def quiet(name: str, n_bytes: int) -> None:
    """No progress."""


def pushed(model: Path, registry: RunningRegistry, cache: Cache, name: str) -> Reference:
    return push_bundle(model, parse_reference(f"{registry.host}/team/{name}:v1"), cache, quiet)


def pulled(reference: Reference, goal: Path | None, cache: Cache, *arches: str) -> Path:
    return pull_bundle(reference, goal, cache, arches or ("all",), quiet)[0]


def artifact_of(reference: Reference) -> Artifact:
    return decode_artifact("", Client(reference).manifest())


def test_what_is_pushed_is_pulled(model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    with verify_bundle(model) as bundle:
        write_companion(model / "model.sig", sign_bundle(bundle, Signing(key.private)))
    name = pushed(model, registry, cache, "whole")
    again = pushed(model, registry, cache, "whole")
    assert name == again
    assert (name.tag, name.digest[:7]) == ("", "sha256:")
    for reference in (name, parse_reference(f"oci://{registry.host}/team/whole:v1")):
        goal, found = pull_bundle(reference, tmp_path / "copy.rfb", cache, ("all",), quiet)
        assert found == name
        files = content(goal)
        origin = decode_pulled("", files.pop("pulled.json"))
        assert (files, origin.reference, origin.left_out) == (content(model), str(name), ())
        with verify_bundle(goal) as bundle:
            check_signature(bundle, Trust(key.public))
    assert not list(cache.root.glob("*/*.json"))
    assert not list(cache.root.glob("downloads/*"))
    (model / "model.sig").unlink()  # a signature changes what the registry has, and no digest of the bundle
    unsigned = pushed(model, registry, cache, "whole")
    assert unsigned != name
    assert artifact_of(unsigned).bundle_digest == artifact_of(name).bundle_digest


def test_others_read_and_write_it(model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path) -> None:
    """Skopeo copies it out, into another repository, and back in from a folder: bytes and digests stay."""
    skopeo, name = program("skopeo"), pushed(model, registry, cache, "outside")
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests")
    there = f"docker://{registry.host}/elsewhere/copy:1"
    steps = ((f"docker://{name}", f"oci:{tmp_path}/layout:x"), (f"oci:{tmp_path}/layout:x", there))
    for source, goal in steps:
        done = subprocess.run([skopeo, "copy", *plain, source, goal], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    copy = pulled(parse_reference(f"{registry.host}/elsewhere/copy@{name.digest}"), tmp_path / "copy.rfb", cache)
    assert {key: data for key, data in content(copy).items() if key != "pulled.json"} == content(model)
    layers = json.loads((tmp_path / f"layout/blobs/sha256/{name.digest[7:]}").read_text())["layers"]
    types = {layer["mediaType"].removeprefix("application/vnd.cncf.model.") for layer in layers}
    assert types == {"weight.v1.raw", "weight.config.v1.tar", "code.v1.tar", "code.v1.raw"}


def test_a_machine_gets_what_it_needs(
    model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = pushed(model, registry, cache, "lean")
    layers = {layer.path: layer.digest for layer in artifact_of(name).layers}
    found: list[str] = []
    monkeypatch.setattr(pull_module, "installed_arches", lambda: tuple(found))
    path, _ = pull_bundle(name, None, cache, (), quiet)
    assert path.name == "lean.rfb"
    with open_bundle(path) as bundle:
        assert [target.arch for target in bundle.manifest.targets] == ["host"]
        assert not (path / "code/gfx942.bin").exists()
    assert cached_bundle(name, cache, ()) == path
    found.append("gfx942")
    assert cached_bundle(name, cache, ()) is None  # there is code for that GPU, and not here
    other, _ = pull_bundle(name, None, cache, (), quiet)
    with open_bundle(other) as bundle:
        assert [target.arch for target in bundle.manifest.targets] == ["gfx942"]
    wait_until(lambda: registry.got("team/lean", layers["code/gfx942.bin"]) == 1, "the log")
    assert [registry.got("team/lean", layers[f"code/{arch}.bin"]) for arch in ("host", "gfx1100")] == [1, 0]
    assert registry.got("team/lean", layers["weights.bin"]) == 1  # the second has those of the first
    assert cached_bundle(name, cache, ()) == other
    assert cached_bundle(name, cache, ("host",)) == path
    assert cached_bundle(name, cache, ("all",)) is None
    with pytest.raises(
        BundleError, match="arch: expected one that the bundle has code for, gfx1100, gfx942, host, fou"
    ):
        pulled(name, tmp_path / "x.rfb", cache, "gfx900")
    with pytest.raises(RocmforgeError, match="code of other machines was left out of this copy: push the whole"):
        push_bundle(path, parse_reference(f"{registry.host}/team/part:v1"), cache, quiet)
    (path / "pulled.json").unlink()  # who does not say that code is missing is damaged
    with pytest.raises(BundleError, match=r"code/gfx1100\.bin: expected a file, found none"):
        open_bundle(path)


def test_a_machine_gets_its_weights_alone(registry: RunningRegistry, cache: Cache, tmp_path: Path) -> None:
    """Where the host and GPUs have weights of their own; those of another bundle here are taken, where it has them."""
    model = write_both(tmp_path / "both.rfb")
    name = pushed(model, registry, cache, "both")
    layers = {layer.path: layer.digest for layer in artifact_of(name).layers}
    for arch, here, other in (("gfx942", "weights-hip.bin", "weights.bin"), ("host", "weights.bin", "weights-hip.bin")):
        path = pulled(name, None, cache, arch)
        assert (path / here).read_bytes() == (model / here).read_bytes()
        assert not (path / other).exists()
        verify_bundle(path).close()
        assert cached_bundle(name, cache, (arch,)) == path
        wait_until(lambda here=here: registry.got("team/both", layers[here]) == 1, "the log")  # type: ignore[misc]
    whole = pulled(name, None, cache, "all")
    assert {key: data for key, data in content(whole).items() if key != "pulled.json"} == content(model)
    mark = describe("", os.urandom(32))  # which is in the log behind all that went before
    assert not has_blob(Client(name), mark)
    wait_until(lambda: ("HEAD", f"/v2/team/both/blobs/{mark.digest}") in registry.requests, "the log")
    assert [registry.got("team/both", layers[file]) for file in ("weights.bin", "weights-hip.bin")] == [1, 1]


def test_what_is_there_is_not_pulled_again(
    model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a folder, by digest: unless it is damaged, lacks code that is asked for, or is of another digest."""
    name, goal = pushed(model, registry, cache, "there"), tmp_path / "there.rfb"
    monkeypatch.setenv("ROCMFORGE_REGISTRY_CACHE", str(cache.root))

    def asks(*arches: str, of: Reference = name) -> bool:
        before = len(registry.requests)
        options = [word for arch in arches for word in ("--arch", arch)]
        result = CliRunner().invoke(main, ["pull", str(of), "-o", str(goal), *options], catch_exceptions=False)
        assert (result.exit_code, result.stdout) == (0, f"{goal}  {of}\n")
        verify_bundle(goal).close()
        mark = describe("", os.urandom(32))  # which is in the log behind all that went before
        assert not has_blob(Client(name), mark)
        line = ("HEAD", f"/v2/team/there/blobs/{mark.digest}")
        wait_until(lambda: line in registry.requests, "the log")
        return registry.requests.index(line) - before > 1  # the greeting of our own

    assert asks("host")
    assert not asks("host")
    assert asks("host", "gfx942")
    assert not asks("gfx942")
    data = bytearray((goal / "weights.bin").read_bytes())
    data[7] ^= 1
    (goal / "weights.bin").write_bytes(data)
    assert asks("gfx942")
    other = pushed(make_bundle(tmp_path / "other.rfb", WEIGHTS[::-1]), registry, cache, "there")
    assert asks("gfx942", of=other)
    assert not asks("gfx942", of=other)


def test_weights_of_another_bundle_are_compared_too(
    model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path
) -> None:
    name = pushed(model, registry, cache, "damaged")
    first = pulled(name, None, cache, "host")
    data = bytearray((first / "weights.bin").read_bytes())
    data[7] ^= 1
    (first / "weights.bin").write_bytes(data)
    verify_bundle(pulled(name, None, cache, "gfx942")).close()


@pytest.mark.parametrize("count", [6, pytest.param(50, marks=pytest.mark.nightly)])
def test_any_changed_byte_is_refused_by_name(
    count: int, model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path
) -> None:
    """Bytes of each layer, of the config and of the manifest, one at a time, in the registry's own files."""
    with verify_bundle(model) as bundle:
        write_companion(model / "model.sig", sign_bundle(bundle, Signing(make_key(tmp_path).private)))
    name = pushed(model, registry, cache, "tampered")
    artifact, chosen = artifact_of(name), random.Random(15)
    blobs = {layer.digest: {".": "files", "src": "sources"}.get(layer.path, layer.path) for layer in artifact.layers}
    assert len(blobs) == 7
    for digest, what in {**blobs, artifact.config.digest: "config", name.digest: "manifest"}.items():
        path = registry.blob(digest)
        data = path.read_bytes()
        for _ in range(count):
            changed = bytearray(data)
            changed[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(RocmforgeError) as caught:
                pulled(name, tmp_path / "copy.rfb", cache)
            assert str(caught.value).startswith(f"{name}: {what}: "), what
            assert not (tmp_path / "copy.rfb").exists()
        path.write_bytes(data)
    verify_bundle(pulled(name, tmp_path / "copy.rfb", cache)).close()


def test_only_what_is_signed_gets_there(
    model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key, as the image `pull` has one mounted: neither into a folder nor into the cache comes what another
    signed, nobody, or in part; and one that is there by that digest is held against the key too."""
    monkeypatch.setenv("ROCMFORGE_REGISTRY_CACHE", str(cache.root))
    key, other, goal = make_key(tmp_path), make_key(tmp_path, "other"), tmp_path / "copy.rfb"

    def pull(name: Reference, *options: object) -> tuple[int, str]:
        words = [str(one) for one in ("pull", name, "--arch", "gfx942", *options)]
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        return result.exit_code, result.output.splitlines()[-1]

    unsigned = pushed(model, registry, cache, "signed")
    with verify_bundle(model) as bundle:
        write_companion(model / "model.sig", sign_bundle(bundle, Signing(key.private)))
    name = pushed(model, registry, cache, "signed")
    asked = ("--key", key.public, "--require-signature")
    for options in (("-o", goal), ()):
        missing = f"rfc: {unsigned}: model.sig: expected a signature, found none (see rfc sign)"
        assert pull(unsigned, *options, *asked) == (3, missing)
        code, line = pull(name, *options, "--key", other.public)
        assert (code, line.startswith(f"rfc: {name}: model.sig: expected a signature by the key ")) == (3, True), line
        assert (code, goal.exists(), list(cache.root.glob("bundles/*/*.rfb"))) == (3, False, [])
    assert not list(tmp_path.rglob("*.partial"))
    assert pull(name, "-o", goal, *asked) == (0, f"{goal}  {name}")
    assert pull(name, "-o", goal, *asked) == (0, f"{goal}  {name}")
    assert pull(name, "-o", goal, "--key", other.public)[0] == 3
    assert pull(name, "-o", goal, *asked, "--require-attestations")[0] == 3
    assert pull(name, "--key", tmp_path / "none.pub")[0] == 1
    assert pull(name, "--require-signature")[0] == 2
    assert pull(name, *asked)[0] == 0
    assert pull(name, "--key", other.public)[0] == 3


def in_a_child(action: Callable[[Callable[[str, int], None]], object], after: int, seconds: float) -> int:
    """Run in a process that is killed when so many bytes have come or gone, or so many seconds later; its status."""
    child = os.fork()
    if child == 0:
        try:
            done = 0

            def progress(name: str, n_bytes: int) -> None:
                nonlocal done
                done += n_bytes
                if done >= after:
                    if not seconds:
                        os.kill(os.getpid(), signal.SIGKILL)
                    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

            action(progress)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_pushes_and_pulls_go_on(registry: RunningRegistry, cache: Cache, tmp_path: Path) -> None:
    """kill -9 in mid push and in mid pull, 20 times each: nobody ever gets half a bundle, and little is sent twice."""
    chosen, size, chunk, times = random.Random(15), 2 << 20, 64 << 10, 20
    model = make_bundle(tmp_path / "model.rfb", random.Random(1).randbytes(size))
    reference, goal = parse_reference(f"{registry.host}/team/killed:v1"), tmp_path / "copy.rfb"
    marks = [size * i // (times + 2) + chosen.randrange(chunk) for i in range(times)]  # each gets a little further
    for after in marks:
        seconds = chosen.choice((0, 0.002))  # between two requests, and within one
        status = in_a_child(lambda told: push_bundle(model, reference, cache, told, None, chunk), after, seconds)
        assert status == -signal.SIGKILL
        with pytest.raises(RegistryError, match="manifest: the registry answered 404: MANIFEST_UNKNOWN"):
            pulled(reference, goal, cache)
    name = push_bundle(model, reference, cache, quiet, None, chunk)
    sent = chunk * sum(method == "PATCH" and "/team/killed/" in path for method, path in registry.requests)
    # Nearly half of the blob each time, had all begun anew. Those that were killed within a request do: this registry
    # then gives up the upload.
    assert sent < size * times * 3 / 8, "pushes began anew"
    weights = next(layer.digest for layer in artifact_of(name).layers if layer.path == "weights.bin")
    for after in marks:
        assert in_a_child(lambda told: pull_bundle(name, goal, cache, ("all",), told), after, 0) == -signal.SIGKILL
        assert not goal.exists()
        assert cache.download(weights).stat().st_size >= min(after, size) - (256 << 10)
    verify_bundle(pulled(name, goal, cache)).close()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_pulls_at_once_take_nothing_from_each_other(
    model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path
) -> None:
    """Into four folders, while somebody trims the cache; and into the cache, where the first pull is that of all."""
    name = pushed(model, registry, cache, "at-once")
    weights = next(layer.digest for layer in artifact_of(name).layers if layer.path == "weights.bin")

    def together(goals: list[Path | None]) -> list[Path]:
        with ThreadPoolExecutor(len(goals)) as pool:
            return list(pool.map(lambda goal: pulled(name, goal, cache, "all"), goals))

    def trim(layer: str, n_bytes: int) -> None:
        assert not [path for path in Cache(cache.root, 0).trim() if path.name == weights[7:]]

    for path in together([tmp_path / f"{i}.rfb" for i in range(4)]):
        verify_bundle(path).close()
    pull_bundle(name, tmp_path / "trimmed.rfb", cache, ("all",), trim)
    wait_until(lambda: registry.got("team/at-once", weights) == 5, "the log")
    assert len(set(together([None] * 4))) == 1
    mark = describe("", os.urandom(32))
    assert not has_blob(Client(name), mark)
    wait_until(lambda: ("HEAD", f"/v2/team/at-once/blobs/{mark.digest}") in registry.requests, "the log")
    assert registry.got("team/at-once", weights) == 6
    assert not list(cache.root.glob("downloads/*"))


def test_pushes_at_once_send_one_upload(registry: RunningRegistry, cache: Cache, tmp_path: Path) -> None:
    """In chunks, under four tags."""
    model = make_bundle(tmp_path / "model.rfb", random.Random(2).randbytes(2 << 20))
    reference = parse_reference(f"{registry.host}/team/pushes")

    def push(i: int) -> Reference:
        return push_bundle(model, dataclasses.replace(reference, tag=f"v{i}"), cache, quiet, None, 64 << 10)

    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(push, range(4)))
    verify_bundle(pulled(names.pop(), tmp_path / "copy.rfb", cache)).close()
    assert not names
    assert not list(cache.root.glob("uploads/*"))
    mark = describe("", os.urandom(32))
    assert not has_blob(Client(reference), mark)
    wait_until(lambda: ("HEAD", f"/v2/team/pushes/blobs/{mark.digest}") in registry.requests, "the log")
    chunks = sum(method == "PATCH" and "/team/pushes/" in path for method, path in registry.requests)
    assert chunks == 32  # of the weights, each sent once


def test_files_that_are_equal(registry: RunningRegistry, cache: Cache, tmp_path: Path) -> None:
    """They are one blob, and both get it."""
    arches = ("gfx1100", "gfx942")
    targets = tuple(dataclasses.replace(TARGET, arch=arch, backend="hip", file=f"code/{arch}.bin") for arch in arches)
    with BundleWriter(tmp_path / "model.rfb") as writer:
        for file, data in (("weights.bin", WEIGHTS), ("layout.msgpack", LAYOUT_DATA), ("tokenizer.json", b"{}")):
            writer.add_bytes(file, data)
        for target in targets:
            writer.add_bytes(target.file, b"\x7fELF")
        writer.finish(dataclasses.replace(MANIFEST, targets=targets))
    name = pushed(tmp_path / "model.rfb", registry, cache, "equal")
    copy = content(pulled(name, tmp_path / "copy.rfb", cache))
    assert {file: data for file, data in copy.items() if file != "pulled.json"} == content(tmp_path / "model.rfb")


@pytest.mark.timeout(60)
def test_a_bundle_larger_than_the_cache_is_kept_while_it_is_used(
    model: Path, registry: RunningRegistry, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = pushed(model, registry, cache, "large")
    monkeypatch.setenv("ROCMFORGE_REGISTRY_CACHE", str(cache.root))
    monkeypatch.setenv("ROCMFORGE_REGISTRY_GIB", "0")
    result = CliRunner().invoke(main, ["pull", str(name)], catch_exceptions=False)
    assert Path(result.stdout.split("  ")[0]).is_dir()
    shutil.rmtree(cache.root)
    started: list[Path] = []
    monkeypatch.setattr("rocmforge.runtime.serve.serve_bundles", lambda options: started.extend(options.bundles))
    assert CliRunner().invoke(main, ["serve", f"oci://{name}"], catch_exceptions=False).exit_code == 0
    verify_bundle(started[0]).close()


def login(folder: Path, host: str, password: str) -> dict[str, str]:
    secret = base64.b64encode(f"reader:{password}".encode()).decode()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    return {"DOCKER_CONFIG": str(folder)}


def test_credentials_are_those_of_other_tools(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    with running_registry(tmp_path / "server", passwords=True) as registry:
        push = ["push", str(model), f"{registry.host}/a/b:1", "--registry-cache", str(tmp_path / "cache")]

        def run(*arguments: str, **changes: str) -> tuple[int, str]:
            result = CliRunner().invoke(main, list(arguments), env=changes, catch_exceptions=False)
            return result.exit_code, result.output

        problem = f"expected credentials for {registry.host} that allow this (docker login {registry.host})\n"
        assert run(*push) == (1, f"rfc: {registry.host}/a/b:1: {problem}")
        assert run(*push, **login(tmp_path / "wrong", registry.host, "guess"))[1].endswith(problem)
        code, said = run(*push, **login(tmp_path / "docker", registry.host, "secret"))
        assert (code, said.splitlines()[-1].split("@")[0]) == (0, f"{registry.host}/a/b")
        (tmp_path / "podman.json").write_text((tmp_path / "docker/config.json").read_text())
        pull = ["pull", said.splitlines()[-1], "-o", str(tmp_path / "copy.rfb"), "--arch", "all"]
        assert run(*pull, REGISTRY_AUTH_FILE=str(tmp_path / "podman.json"))[0] == 0
    verify_bundle(tmp_path / "copy.rfb").close()


def test_commands(model: Path, registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object) -> tuple[int, list[str]]:
        result = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)
        return result.exit_code, result.output.splitlines()

    monkeypatch.setenv("ROCMFORGE_REGISTRY_CACHE", str(tmp_path / "cache"))
    code, (_, name) = run("push", model, f"{registry.host}/team/command:v1")
    assert code == 0
    assert run("push", model, name) == (
        2,
        [f"rfc: {name}: expected a tag at most, found a digest: what is pushed makes it"],
    )
    code, (meter, line) = run("pull", f"{registry.host}/team/command:v1")
    path, found = line.split("  ")
    assert (code, found) == (0, name)
    assert meter.startswith(f"{name}: ")
    requests = len(registry.requests)
    assert run("pull", f"oci://{name}") == (0, [line])
    started: list[Path] = []
    monkeypatch.setattr("rocmforge.runtime.serve.serve_bundles", lambda options: started.extend(options.bundles))
    assert run("serve", f"oci://{name}") == (0, [])
    assert started == [Path(path)]
    assert len(registry.requests) == requests  # what is here is not asked for
    code, lines = run("serve", f"oci://{registry.host}/team/command:v1")
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("rfc: a bundle to run is named by its digest: expected oci://")
    shutil.rmtree(path)
    assert run("serve", f"oci://{name}")[0] == 0
    assert len(registry.requests) > requests
    code, lines = run("pull", f"{registry.host}/team/absent:v1")
    assert (code, lines) == (1, [f"rfc: {registry.host}/team/absent:v1: manifest: the registry answered 404: "
                                 "MANIFEST_UNKNOWN manifest unknown"])  # fmt: skip
    code, lines = run("pull", "127.0.0.1:1/team/absent:v1")
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("rfc: cannot reach http://127.0.0.1:1/v2/: ")
    assert run("pull", "team/model:v1")[0] == 2
