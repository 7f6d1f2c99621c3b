"""Commands that compare bundles: `rfc rebuild`, `rfc diff`."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..artifacts.errors import InputError, ToolchainError, UsageError, os_problem, printable
from .errors import DIFFERS, require_address_space
from .options import on_device

if TYPE_CHECKING:
    from ..compiler.rebuild import BuildFiles, RebuildResult
    from ..runtime.bundle_diff import BundleDiff, Shared
    from ..runtime.device.load import DeviceOptions
    from ..runtime.equivalence import Certificate, TextResult

MAX_TEXT_BYTES = 16 << 20
MOST_NAMES = 4  # of what differs, in a line


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Exit with 5 where the two are not equal to the byte; keep nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep what was compiled here.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="The tokenizer.json of then, if one was given.")
@click.option("--chat-template", type=click.Path(path_type=Path), help="The file of Jinja of then.")
@click.option("--lora", "loras", multiple=True, type=click.Path(path_type=Path), help="Each adapter of then, in order.")
@click.option("--adapter", "adapters", multiple=True, type=click.Path(path_type=Path), help="Each kept one, in order.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="The importance matrix of then.")
@click.option("--mmproj", type=click.Path(path_type=Path), help="The projector file of then.")
@click.option("--draft-head", type=click.Path(path_type=Path), help="The head's file of then.")
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
def rebuild(bundle: Path, model: Path, check: bool, output: Path | None, as_json: bool, **files: Any) -> None:
    """Compile MODEL with the options that a BUNDLE records, and compare: which files differ, and why.

    Nothing is taken from the build cache.
    """
    require_address_space()
    from ..compiler.rebuild import BuildFiles

    if not check and output is None:
        raise UsageError("expected --check or -o, found neither")
    result = _rebuilt(bundle, BuildFiles(model, **files), output)
    if as_json:
        click.echo(json.dumps(asdict(result) | {"identical": result.identical}))
    else:
        _say_result(result)
    if check and not result.identical:
        _differs()


def _rebuilt(bundle: Path, files: BuildFiles, output: Path | None) -> RebuildResult:
    from ..artifacts.bundle import verify_bundle
    from ..compiler.build_cache import BuildCache
    from ..compiler.compile import compile_model
    from ..compiler.guarded_folder import guarded_folder
    from ..compiler.progress import choose_progress
    from ..compiler.rebuild import compare_builds, other_compiler, other_model, recorded_options
    from ..library.compilation import make_golden
    from ..runtime.text.chat import check_template
    from .compile import exit_cleanly_on_signals

    exit_cleanly_on_signals()
    with verify_bundle(bundle) as opened:
        recorded = opened.manifest
    with guarded_folder("rocmforge-rebuild-") as folder:
        options = recorded_options(bundle, recorded, files, folder / "rebuilt.rfb")
        other = other_model(recorded, files.model)
        if other is not None:
            return other
        with choose_progress(False) as progress:
            chosen = replace(options, goal=output or options.goal)
            try:
                manifest = compile_model(chosen, BuildCache(folder / "cache"), progress, make_golden, check_template)
            except ToolchainError as error:
                return other_compiler(recorded, options, error)
    return compare_builds(recorded, manifest)


def _say_result(result: RebuildResult) -> None:
    if result.identical:
        click.echo(f"identical: {result.recorded}")
        return
    if result.rebuilt is None:
        click.echo(f"not compiled again: {result.problem}")
    else:
        click.echo(f"differs: {printable(result.files[0])} is the first of {len(result.files)} files")
    for cause in result.causes:
        click.echo(f"cause: {cause.text('recorded', 'here')}")
    if not result.causes:
        click.echo("cause: none of what is recorded; rocmforge itself, or a compiler that does not repeat itself")


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--text", type=click.Path(path_type=Path), help="A file of UTF-8 whose logits are compared too.")
@click.option("--run/--no-run", default=True, show_default=True, help="Run both, for the certificate of equivalence.")
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
@on_device
def diff(first: Path, second: Path, text: Path | None, run: bool, as_json: bool, device: DeviceOptions) -> None:
    """What two bundles share, and whether they give the same logits: to the bit, on the golden prompts and a text.

    It exits with 0 where they do (with --no-run: where they are equal to the byte), else with 5.
    """
    from ..artifacts.bundle import verify_bundle
    from ..runtime.bundle_diff import diff_bundles
    from ..runtime.equivalence import certify

    if text is not None and not run:
        raise UsageError("--text: expected without --no-run, which runs nothing")
    content = None if text is None else _text_of(text)
    with contextlib.ExitStack() as opened:
        bundles = [opened.enter_context(verify_bundle(path)) for path in (first, second)]
        found = diff_bundles(*bundles)
        certificate = certify(bundles[0], bundles[1], device, content) if run else None
    if as_json:
        proof = None if certificate is None else asdict(certificate) | {"equivalent": certificate.equivalent}
        click.echo(json.dumps(asdict(found) | {"identical": found.identical, "certificate": proof}))
    else:
        _say_shared(found)
        _say_certificate(certificate)
    if not (found.identical if certificate is None else certificate.equivalent):
        _differs()


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise InputError(path, "text", f"expected a file, found: {os_problem(error)}") from None
    if not 0 < len(data) <= MAX_TEXT_BYTES:
        raise InputError(path, "text", f"expected 1 to {MAX_TEXT_BYTES} bytes, found {len(data)}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(path, "text", "expected UTF-8, found other bytes", error.start) from None


def _say_shared(found: BundleDiff) -> None:
    click.echo("bundles: " + ("equal to the byte" if found.identical else " and ".join(found.digests)))
    for name, shared in (("files", found.files), ("kernels", found.kernels), ("weights", found.weights)):
        click.echo(f"{name}: {_shared_line(shared)}")
    for row in found.record:
        click.echo(f"made of: {row.text('first', 'second')}")


def _shared_line(shared: Shared) -> str:
    size = f" ({shared.n_bytes:,} bytes)" if shared.n_bytes else ""
    parts = [f"{shared.both} shared{size}"]
    for what, names in (("differ", shared.differ), ("in the first", shared.first), ("in the second", shared.second)):
        if names:
            more = ", …" if len(names) > MOST_NAMES else ""
            parts.append(f"{len(names)} {what}: {', '.join(map(printable, names[:MOST_NAMES]))}{more}")
    return "; ".join(parts)


def _say_certificate(certificate: Certificate | None) -> None:
    if certificate is None:
        return
    if certificate.problem:
        click.echo(f"logits: not comparable: {certificate.problem}")
    for text in certificate.texts:
        click.echo(f"{text.text}: {_text_line(text)}")
    if certificate.equivalent:
        positions = sum(text.positions for text in certificate.texts)
        click.echo(f"equivalent: all logits at {positions} positions are equal to the bit")


def _text_line(text: TextResult) -> str:
    parting = text.parting
    if parting is None:
        return f"identical at {text.positions} positions, sha256 {text.sha256}"
    if parting.token < 0:
        return (
            f"they part at row {parting.position}: {parting.logits} numbers differ, by {parting.largest:.6g} at most "
            f"(number {parting.at})"
        )
    likely = "the same token is most likely" if len(set(parting.likely)) == 1 else "another token is most likely"
    return (
        f"they part at position {parting.position} (token {parting.token}): {parting.logits} logits differ, "
        f"by {parting.largest:.6g} at most (token {parting.at}); {likely}"
    )


def _differs() -> NoReturn:
    sys.stdout.flush()
    raise SystemExit(DIFFERS)
