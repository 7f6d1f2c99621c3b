"""From an empty folder to an answer on another machine, and what is changed and killed between: the proof, in small."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from rocmforge.artifacts.host import HOST_LEVELS
from rocmforge.tests.support.process import PATIENCE_SECONDS, environment
from rocmforge.tests.support.registries import program
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.prove import tampering
from rocmforge.tools.prove.kills import compare
from rocmforge.tools.prove.machines import Machine, ProofError, Said
from rocmforge.tools.prove.supply_chain import same


def test_a_bundle_goes_to_another_machine(small_cache: Path, tmp_path: Path) -> None:
    program("openssl")
    program("docker-registry")
    model = write_model(tmp_path / "tiny.gguf", num_layers=1)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/rocmforge").symlink_to(small_cache)  # kernels that other tests have built
    command = [sys.executable, "-m", "rocmforge.tools.prove.supply_chain", str(model), "--bytes", "1", "--kills", "1"]
    done = subprocess.run(
        command,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        env=environment(XDG_CACHE_HOME=str(tmp_path / "cache"), PATH=os.environ["PATH"]),
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said + done.stderr.decode(errors="replace")
    steps = [re.sub(r"\W.*", "", line) for line in re.findall(r"^== (.*)", said, re.MULTILINE)]
    assert steps == ["compile", "sign", "attest", "push", "pull", "serve", "ask", "1", "1", "kill", "kill", "served"]
    digest = re.findall(r"^model\.rfb  (sha256:\w{64})$", said, re.MULTILINE)[0]
    assert f"signature: as asked for, of {digest}" in said
    assert re.search(rf"^digests: \d+ files match {digest}$", said, re.MULTILINE)
    count, names = re.findall(r"^(\d+) refused by name, of (.*?)(?: \(.* s\))?$", said, re.MULTILINE)[0]
    code = {f"code/host-{level}.so" for level in HOST_LEVELS["host"]}
    assert {"weights.bin", "files", "sources", "config", "manifest", *code} <= set(names.split(", "))
    assert int(count) == len(names.split(", "))
    assert said.count("killed 1 times, ") == 2
    assert said.splitlines()[-1] == "all of it holds"


class Careless(Machine):
    """A machine that serves whatever it is given, or refuses it by another name."""

    def __init__(self, home: Path, said: Said) -> None:
        super().__init__(home)
        self.given: list[bytes] = []
        self._answer = said

    def rfc(self, *arguments: object, kill_after: float | None = None) -> Said:
        self.given.append(b"".join(path.read_bytes() for path in sorted(Path(str(arguments[1])).iterdir())))
        return self._answer


@pytest.mark.parametrize(
    "said", [Said(0, "", ""), Said(3, "", "rfc: other.bin: expected sha256"), Said(1, "", "a.bin")]
)
def test_what_is_not_refused_by_name_is_found(said: Said, tmp_path: Path) -> None:
    (tmp_path / "a.rfb").mkdir()
    (tmp_path / "a.rfb/a.bin").write_bytes(b"abc")
    machine = Careless(tmp_path / "home", said)
    with pytest.raises(ProofError, match=r"^a\.bin, byte \d of 3: expected exit code 3 and 'a\.bin', found"):
        tampering.tampered_files(machine, tmp_path / "a.rfb", (), 1, Random(1))
    (given,) = machine.given
    assert sum(one != other for one, other in zip(given, b"abc", strict=True)) == 1
    assert (tmp_path / "a.rfb/a.bin").read_bytes() == b"abc"


def test_half_a_bundle_is_found(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"abc")
    (tmp_path / "a/pulled.json").write_bytes(b"{}")
    compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a/file").write_bytes(b"abd")
    with pytest.raises(ProofError, match="file: expected the bytes that were pushed"):
        compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a/file").unlink()
    with pytest.raises(ProofError, match="expected all files of the bundle, found 0 of 1"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ProofError, match="expected the answer 'a', found 'b'"):
        same("a", "b")
