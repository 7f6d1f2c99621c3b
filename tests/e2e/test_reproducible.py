"""The same model gives the same bundle, whoever compiles it, wherever, and with whatever cache."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

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


def test_a_generated_model_is_the_same_everywhere(tmp_path: Path) -> None:
    model = write_model(tmp_path / "generated.gguf", "qwen2", "Q4_K")
    worlds = [
        compile_elsewhere(tmp_path / "one", model, 1, 0o022, LANG="C", PYTHONHASHSEED="0", HOSTNAME="one"),
        compile_elsewhere(tmp_path / "another é", model, 4, 0o002, LANG="de_DE", PYTHONHASHSEED="77", CFLAGS="-O0"),
    ]
    assert worlds[0] == worlds[1]
