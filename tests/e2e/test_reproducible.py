"""The same model gives the same bundle, whoever compiles it, wherever, and with whatever cache."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import Silent
from rocmforge.library.compilation import make_golden
from rocmforge.tests.support.process import COMMAND, PATIENCE_SECONDS, digest_of, environment, files_of
from rocmforge.tools.generate.fixtures import write_model


def compile_elsewhere(world: Path, model: Path, jobs: int, umask: int, **settings: str) -> tuple[str, dict[str, bytes]]:
    """Compile a copy of a model in a world of its own, with a cold cache.

    Returns:
        The digest that was printed, and every file of the bundle.
    """
    for name in ("home", "temporary files", "models"):
        (world / name).mkdir(parents=True)
    shutil.copy(model, world / "models" / model.name)
    places = {"HOME": str(world / "home"), "TMPDIR": str(world / "temporary files"), "XDG_CACHE_HOME": ""}
    done = subprocess.run(
        [*COMMAND, "compile", f"models/{model.name}", "-o", "goal.rfb", "--jobs", str(jobs)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=world,
        env=environment(**places, **settings),
        umask=umask,
        check=False,
    )
    digest = digest_of(done)
    assert list((world / "temporary files").iterdir()) == []
    assert (world / "home" / ".cache" / "rocmforge" / "object").is_dir()
    return digest, files_of(world / "goal.rfb")


def test_smollm2_is_the_same_everywhere(smollm2_gguf: Path, smollm2_path: Path, tmp_path: Path) -> None:
    """Against the bundle of all other tests, compiled in this process with another cache."""
    settings = {"LANG": "tr_TR.UTF-8", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "SOURCE_DATE_EPOCH": "1"}
    digest, files = compile_elsewhere(tmp_path, smollm2_gguf, 3, 0o077, PYTHONHASHSEED="1", **settings)
    assert files == files_of(smollm2_path)
    assert digest.encode() in files["manifest.json"]


def test_a_generated_model_is_the_same_everywhere(tmp_path: Path, build_cache: BuildCache) -> None:
    """Against a bundle compiled in this process, of what other tests have left in their cache."""
    model = write_model(tmp_path / "generated.gguf", "qwen2", "Q4_K")
    options = CompileOptions(model, tmp_path / "here.rfb", jobs=1)
    manifest = compile_model(options, build_cache, Silent(), make_golden)
    settings = {"LANG": "de_DE", "PYTHONHASHSEED": "77", "HOSTNAME": "one", "CFLAGS": "-O0"}
    digest, files = compile_elsewhere(tmp_path / "another é", model, 4, 0o002, **settings)
    assert digest == manifest.bundle_digest
    assert files == files_of(options.goal)
