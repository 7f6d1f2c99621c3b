"""`rfc sign`, and what asks for signatures: `rfc verify`, `rfc serve`."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import BundleError
from rocmforge.cli import main
from rocmforge.runtime import serve as serving
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.serve import ServeOptions
from rocmforge.tests.support.bundle import write_bundle
from rocmforge.tests.support.keys import KeyPair, make_authority, make_key


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "model.rfb")


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return make_key(tmp_path)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ROCMFORGE_SIGNING_KEY",
        "ROCMFORGE_SIGNING_KEY_PASSWORD",
        "ROCMFORGE_VERIFY_KEY",
        "SIGSTORE_ID_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)


def rfc(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)
    return result.exit_code, result.output


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the bundles whose signatures `rfc verify` found good; no code is run."""
    digests: list[str] = []

    def verify(path: Path, options: object, report: object, check: Any) -> None:
        with open_bundle(path) as bundle:
            if check is not None:
                check(bundle)
                digests.append(bundle.manifest.bundle_digest)

    monkeypatch.setattr("rocmforge.runtime.verify.verify", verify)
    return digests


@pytest.mark.slow
def test_sign_and_verify(model: Path, key: KeyPair, verified: list[str], tmp_path: Path) -> None:
    with open_bundle(model) as bundle:
        digest = bundle.manifest.bundle_digest
    assert rfc("sign", model, "--key", key.private) == (0, f"{model / 'model.sig'}  {digest}\n")
    assert rfc("verify", model, "--key", key.public, "--require-signature") == (0, "")
    elsewhere = tmp_path / "elsewhere.sig"
    assert rfc("sign", model, "--key", key.private, "-o", elsewhere)[0] == 0
    (model / "model.sig").unlink()
    assert rfc("verify", model, "--key", key.public, "--signature", elsewhere) == (0, "")
    code, line = rfc("verify", model, "--key", key.public)  # a key is enough to ask for it
    assert (code, line) == (3, f"rfc: {model}: model.sig: expected a signature, found none (see rfc sign)\n")
    mine = make_authority(tmp_path)
    assert rfc("sign", model, "--key", mine.key, "--certificate", mine.certificate, "--chain", mine.between)[0] == 0
    assert rfc("verify", model, "--certificate", mine.root) == (0, "")
    assert verified == [digest] * 3
    assert rfc("verify", model) == (0, "")
    assert len(verified) == 3


def test_what_is_damaged_is_not_signed(model: Path, key: KeyPair) -> None:
    data = bytearray((model / "weights.bin").read_bytes())
    data[5] ^= 1
    (model / "weights.bin").write_bytes(data)
    code, line = rfc("sign", model, "--key", key.private)
    assert code == 3
    assert line.startswith(f"rfc: {model}: weights.bin: expected sha256 ")
    assert not (model / "model.sig").exists()


@pytest.mark.parametrize("command", ["verify", "serve"])
def test_what_is_asked_must_say_of_whom(model: Path, command: str) -> None:
    for option in (("--require-signature",), ("--signature", "x")):
        code, line = rfc(command, model, *option)
        assert (code, line.count("\n")) == (2, 1)
        assert line.startswith(f"rfc: {option[0]}: expected --key, --certificate or --identity with it")
    assert rfc("sign", model, "--sigstore", "--key", "k")[0] == 2


def test_nothing_is_loaded_of_what_is_not_signed(
    model: Path, key: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("loaded")

    for name in ("load_chat_template", "load_tokenizer", "load_engine", "make_remote"):
        monkeypatch.setattr(serving, name, load)
    assert rfc("sign", model, "--key", make_key(tmp_path, "other").private)[0] == 0
    code, line = rfc("serve", model, "--key", key.public, "--require-signature", "--device", "host")
    assert code == 3
    assert line.startswith(f"rfc: {model}: model.sig: expected a signature by the key ")
    assert rfc("sign", model, "--key", key.private)[0] == 0
    other = write_bundle(tmp_path / "other.rfb")  # all that are served, before any is
    assert (
        "other.rfb: model.sig: expected a signature, found none" in rfc("serve", model, other, "--key", key.public)[1]
    )
    with pytest.raises(AssertionError, match="loaded"):
        rfc("serve", model, "--key", key.public, "--device", "host")


def test_weights_are_read_before_anything_is_loaded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again each time that a model is loaded: what was looked at when the server started may be gone."""
    asked: list[str] = []
    options = ServeOptions(
        (model,), "", 0, DeviceOptions("host"), check=lambda bundle: asked.append(bundle.manifest.bundle_digest)
    )
    (model / "weights.bin").write_bytes(bytes((model / "weights.bin").stat().st_size))
    monkeypatch.setattr(serving, "load_chat_template", lambda _: pytest.fail("loaded"))
    with pytest.raises(BundleError, match=r"weights\.bin: expected sha256"):
        serving.BundleModel(model, options, None)  # type: ignore[arg-type]
    assert len(asked) == 1


def test_without_the_extra_it_is_said_how_to_get_it(model: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("model_signing"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **named)

    assert rfc("sign", model, "--key", key.private)[0] == 0
    monkeypatch.setattr(builtins, "__import__", without)
    for arguments in (("sign", model, "--key", key.private), ("verify", model, "--key", key.public)):
        code, line = rfc(*arguments)
        assert (code, line.count("\n")) == (1, 1)
        assert line.startswith("rfc: signatures need the extra `sign`: pip install 'rocmforge[sign]' (")
