"""`rfc rebuild`: a bundle compiled again with the options that it records, and what came out otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..artifacts.build_record import Difference, record_differences
from ..artifacts.checker import Checker
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import ToolchainError, UsageError
from ..artifacts.layout import KV_DTYPES
from ..artifacts.manifest import MANIFEST_NAME, Manifest
from ..artifacts.processors import usable_cpus
from .build import find_toolchain
from .changes import Changes
from .describe import digest_of
from .kept_adapters import NamedAdapter
from .lora import LoraFile
from .model import CompileOptions
from .sources import open_source
from .target import find_targets
from .tuning import read_tuning

# In the order in which a compile comes to them: what is first may be why the rest is otherwise.
_STAGES = ("tokenizer.json", "merges.bin", "chat_template.jinja", "graph.txt", "src/", "layout", "weights", "code/")


@dataclass(frozen=True, slots=True)
class BuildFiles:
    """The files that a bundle was made of, of which it has no more than digests: see `CompileOptions`."""

    model: Path
    tokenizer: Path | None = None
    chat_template: Path | None = None
    loras: tuple[Path, ...] = ()
    imatrix: Path | None = None
    mmproj: Path | None = None
    draft_head: Path | None = None
    adapters: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """What a rebuild showed.

    Attributes:
        recorded: digest of the bundle.
        rebuilt: of what was made of the same; None: nothing was made.
        files: those that differ, in the order in which a compile makes them.
        causes: what the builds took that is not equal.
        problem: why nothing was made; "" where something was.
    """

    recorded: str
    rebuilt: str | None
    files: tuple[str, ...]
    causes: tuple[Difference, ...]
    problem: str = ""

    @property
    def identical(self) -> bool:
        """Whether both are equal to the byte."""
        return self.recorded == self.rebuilt


def recorded_options(bundle: Path, manifest: Manifest, files: BuildFiles, goal: Path) -> CompileOptions:
    """Return the options with which a bundle was made, with the files that it was made of.

    Raises:
        BundleError: its manifest does not say them as rocmforge writes them. UsageError: a file was taken that is not
            given, or was not taken.
    """
    check, options = Checker(bundle / MANIFEST_NAME), manifest.options
    archs = check.array(options.get("archs"), "options.archs", 1)
    kv_dtype = check.text(options.get("kv_type", "f16"), "options.kv_type")
    if kv_dtype not in KV_DTYPES:
        check.fail("options.kv_type", f"expected one of {', '.join(KV_DTYPES)}, found {kv_dtype!r}")
    quantize = options.get("quantize")
    for name, given in (("tokenizer", files.tokenizer), ("chat_template", files.chat_template)):
        _require(name, name in options, given is not None, "packages" in options)
    for name, given in (("imatrix", files.imatrix), ("mmproj", files.mmproj), ("draft_head", files.draft_head)):
        _require(name, name in options, given is not None)
    return CompileOptions(
        files.model,
        goal,
        tuple(check.text(arch, f"options.archs[{i}]") for i, arch in enumerate(archs)),
        files.tokenizer,
        check.integer(options.get("max_context"), "options.max_context", 1),
        check.text(options.get("toolchain"), "options.toolchain"),
        usable_cpus(),
        read_tuning(_tuning(check, options.get("tuning")), {}),
        kv_dtype,
        files.chat_template,
        Changes(
            _adapters(check, "lora", options.get("lora", []), files.loras),
            None if quantize is None else check.text(quantize, "options.quantize"),
            files.imatrix,
            _named(check, options.get("adapters", []), files.adapters),
        ),
        options.get("mtp", True) is not False,
        files.mmproj,
        files.draft_head,
    )


def _require(name: str, recorded: bool, given: bool, is_known: bool = True) -> None:
    """Hold a file that is given against what the bundle records; one of before 0.2 does not say all (`is_known`)."""
    option = f"--{name.replace('_', '-')}"
    if recorded and not given:
        raise UsageError(f"{option}: expected the file that the bundle was made with, found none")
    if given and not recorded and is_known:
        raise UsageError(f"{option}: expected none, as the bundle was made without one, found a file")


def _tuning(check: Checker, value: object) -> list[str]:
    if not isinstance(value, Mapping):
        check.fail("options.tuning", f"expected an object, found {type(value).__name__}")
    return [f"{key}={item}" for key, item in value.items()]


def _adapters(check: Checker, key: str, recorded: object, given: tuple[Path, ...]) -> tuple[LoraFile, ...]:
    """Return the adapters with the scales that are recorded, in that order."""
    rows = check.array(recorded, f"options.{key}")
    if len(rows) != len(given):
        option = f"--{key.removesuffix('s')}"
        raise UsageError(f"{option}: expected {len(rows)} adapters, as the bundle was made with, found {len(given)}")
    found = []
    for index, (row, path) in enumerate(zip(rows, given, strict=True)):
        scale = row.get("scale") if isinstance(row, dict) else None
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            check.fail(f"options.{key}[{index}].scale", "expected a number")
        found.append(LoraFile(path, scale))
    return tuple(found)


def _named(check: Checker, recorded: object, given: tuple[Path, ...]) -> tuple[NamedAdapter, ...]:
    """Return the adapters that were kept, with the names that are recorded too."""
    files = _adapters(check, "adapters", recorded, given)
    rows = zip(check.array(recorded, "options.adapters"), files, strict=True)
    return tuple(
        NamedAdapter(
            check.text(row.get("name") if isinstance(row, dict) else None, f"options.adapters[{i}].name"), file
        )
        for i, (row, file) in enumerate(rows)
    )


def other_model(manifest: Manifest, model: Path) -> RebuildResult | None:
    """Return the result where a model is not the one that a bundle was made of; None where it is.

    Raises:
        InputError: it is no model.
    """
    found = digest_of(open_source(model).files())
    if found == manifest.model.source_sha256:
        return None
    cause = Difference("model.sha256", manifest.model.source_sha256, found)
    return RebuildResult(manifest.bundle_digest, None, (), (cause,), "the model is another")


def other_compiler(manifest: Manifest, options: CompileOptions, error: ToolchainError) -> RebuildResult:
    """Return the result where a compiler failed that is not the one of then.

    Raises:
        ToolchainError: `error`, where it is the one of then, or the bundle does not say; or it is not there at all.
    """
    tools = {
        tool.name: tool.version for tool in (find_toolchain(options.toolchain, t) for t in find_targets(options.archs))
    }
    recorded = {target.toolchain: target.toolchain_version for target in manifest.targets}
    names = sorted({*tools, *recorded})
    causes = tuple(
        Difference(f"toolchains.{name}.version", recorded.get(name), tools.get(name))
        for name in names
        if recorded.get(name) != tools.get(name)
    )
    if not causes:
        raise error
    return RebuildResult(manifest.bundle_digest, None, (), causes, str(error))


def compare_builds(recorded: Manifest, rebuilt: Manifest) -> RebuildResult:
    """Return which files of two builds differ, and what they took that is not equal."""
    one, other = recorded.files, rebuilt.files
    files = sorted((name for name in {*one, *other} if one.get(name) != other.get(name)), key=_order)
    if recorded.bundle_digest != rebuilt.bundle_digest:
        files.append(MANIFEST_NAME)
    causes = record_differences(recorded, rebuilt)
    return RebuildResult(recorded.bundle_digest, rebuilt.bundle_digest, tuple(files), tuple(causes))


def _order(name: str) -> tuple[int, str]:
    return next((i for i, start in enumerate(_STAGES) if name.startswith(start)), len(_STAGES)), name
