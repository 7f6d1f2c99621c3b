"""`deploy/supply_chain`: from an empty folder to an answer on another machine, by a name and a public key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.support.process import PATIENCE_SECONDS, environment
from rocmforge.tests.support.registries import program, running_registry
from rocmforge.tools.generate.fixtures import write_model

ROOT = Path(__file__).parent.parent.parent


def test_a_bundle_goes_to_another_machine(build_cache: BuildCache, tmp_path: Path) -> None:
    program("openssl")
    model, commands, folder = tmp_path / "tiny.gguf", tmp_path / "commands", tmp_path / "folder"
    write_model(model)
    commands.mkdir()
    (commands / "rfc").write_text(f'#!/bin/sh\nexec {sys.executable} -m rocmforge.cli "$@"\n')
    (commands / "rfc").chmod(0o755)
    changes = {"PATH": f"{commands}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/rocmforge").symlink_to(build_cache.root)  # kernels that other tests have built
    build_cache.root.mkdir(exist_ok=True)
    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry") as registry:
        done = subprocess.run(
            [str(ROOT / "deploy/supply_chain"), str(model), f"{registry.host}/team/tiny:v1", str(folder)],
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            env=environment(**changes),
            check=False,
        )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    digest = said.split()[1]
    assert f"pushed {registry.host}/team/tiny@sha256:" in said
    assert f"signature: as asked for, of {digest}" in said
    assert f"files match {digest}" in said
    assert said.splitlines()[-1].strip()  # the answer
    kept = list((folder / "other/.cache/rocmforge/registry/bundles").glob("*/tiny.rfb/manifest.json"))
    assert len(kept) == 1
    assert kept[0].read_bytes() == (folder / "model.rfb/manifest.json").read_bytes()
    assert "serving" in (folder / "other/serve.log").read_text()
