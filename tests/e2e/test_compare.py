"""`rfc rebuild` and `rfc diff` as a pipeline sees them: lines, JSON and exit codes. Nothing is compiled."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.manifest import encode_manifest
from rocmforge.tests.support.kept_bundle import kept_bundle
from rocmforge.tests.support.killed import one_of_many
from rocmforge.tests.support.process import refused, rfc
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept_bundle(tmp_path_factory.mktemp("kept"))


def test_a_bundle_of_before_is_verified_and_runs(kept: Path) -> None:
    """The compatibility rule of docs/bundles.md, on a bundle of format 1.4."""
    assert rfc("verify", kept).returncode == 0
    done = rfc("run", kept, "hello", "-n", 4, "--temperature", 0)
    assert (done.returncode, done.stdout.strip() != "") == (0, True), done.stderr
    assert json.loads(rfc("inspect", kept, "--json").stdout)["format_version"] == "1.4"


def test_diff_of_equal_bundles(kept: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(kept, tmp_path / "other.rfb"))
    text = tmp_path / "text"
    text.write_text("hello world\n" * 3)
    done = rfc("diff", kept, other, "--text", text, "--device", "host")
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0]) == (0, "bundles: equal to the byte"), done.stderr
    assert lines[1].startswith("files: 47 shared (")
    assert lines[-2].startswith("text: identical at ")
    assert lines[-1].startswith("equivalent: all logits at ")
    found = json.loads(rfc("diff", kept, other, "--json", "--no-run").stdout)
    assert (found["identical"], found["certificate"], found["weights"]["both"]) == (True, None, 9)


def changed(bundle: Path, goal: Path, prompt: list[int]) -> Path:
    """A copy whose first golden record is of another prompt: another bundle with the same code and weights."""
    shutil.copytree(bundle, goal)
    with open_bundle(goal) as opened:
        manifest = opened.manifest
    golden = ({**manifest.golden[0], "prompt": prompt}, *manifest.golden[1:])
    (goal / "manifest.json").write_bytes(encode_manifest(dataclasses.replace(manifest, golden=golden)))
    return goal


def test_diff_without_running_is_of_bytes(kept: Path, tmp_path: Path) -> None:
    other = changed(kept, tmp_path / "other.rfb", [1, 2, 3])
    done = rfc("diff", kept, other, "--no-run", "--json")
    assert done.returncode == 5
    found = json.loads(done.stdout)
    assert (found["identical"], found["files"]["differ"]) == (False, [])
    assert found["digests"][0] != found["digests"][1]


def test_damaged_bundles_are_refused_in_a_line(kept: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(kept, tmp_path / "other.rfb"))
    data = bytearray((other / "weights.bin").read_bytes())
    data[1000] ^= 1
    (other / "weights.bin").write_bytes(data)
    model = write_model(tmp_path / "other.gguf", num_layers=1, seed=3)
    refused(one_of_many("diff", kept, other), 3, "weights.bin", "sha256")
    refused(one_of_many("rebuild", "--check", other, model), 3, "weights.bin", "sha256")
    refused(one_of_many("diff", changed(kept, tmp_path / "prompt.rfb", [10**6]), kept), 3, "golden.prompt")
    refused(one_of_many("diff", kept, tmp_path / "none"), 3, "none")
    (tmp_path / "bytes").write_bytes(b"\xff")
    refused(one_of_many("diff", kept, kept, "--text", tmp_path / "bytes"), 3, "expected UTF-8")


def test_another_model_is_named_before_anything_is_compiled(kept: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "other.gguf", num_layers=1, seed=3)
    done = rfc("rebuild", "--check", kept, model)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0]) == (5, "not compiled again: the model is another")
    assert lines[1].startswith("cause: model.sha256: recorded ")
    found = json.loads(rfc("rebuild", "--check", kept, model, "--json").stdout)
    assert (found["identical"], found["rebuilt"], found["causes"][0]["what"]) == (False, None, "model.sha256")


def test_what_rebuild_needs(kept: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "other.gguf", num_layers=1, seed=3)
    refused(one_of_many("rebuild", kept, model), 2, "--check or -o")
    refused(one_of_many("rebuild", "--check", kept, model, "--lora", model), 2, "expected 0 adapters")
    refused(one_of_many("rebuild", "--check", kept, model, "--imatrix", model), 2, "--imatrix", "expected none")
    refused(one_of_many("rebuild", "--check", kept, tmp_path / "none.gguf"), 3, "none.gguf")
