"""manifest.json: what a bundle is, what made it, and the digest of every file in it.

The file is canonical JSON (ASCII, sorted keys, no spaces, one newline at the end), so that equal manifests
are equal bytes. `bundle_digest` is the SHA-256 of that text with the digest itself left empty; the text holds
the digest of every other file, so it stands for the whole bundle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Container, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final, NoReturn

from .checker import Checker
from .companions import COMPANION_NAMES
from .dataclass import dataclass
from .errors import BundleError
from .manifest_entries import (
    MAX_TEXT,
    FileEntry,
    PartEntry,
    TargetEntry,
    exact_keys,
    read_contract,
    read_parts,
    read_rows,
    read_table,
    read_target,
)

FORMAT_MAJOR: Final = 1
FORMAT_MINOR: Final = 9
FORMAT_VERSION: Final = f"{FORMAT_MAJOR}.5"
"""Of what is written; with parts it is `PARTS_VERSION`, with weights of GPUs' own `GPU_WEIGHTS_VERSION`, with golden
records of parts `PART_RECORDS_VERSION`, with an EAGLE 3 head, for which the main program keeps rows, `HEAD_VERSION`."""
PARTS_VERSION: Final = f"{FORMAT_MAJOR}.6"
GPU_WEIGHTS_VERSION: Final = f"{FORMAT_MAJOR}.7"
PART_RECORDS_VERSION: Final = f"{FORMAT_MAJOR}.8"
HEAD_VERSION: Final = f"{FORMAT_MAJOR}.9"
HEAD_PART: Final = "eagle3"
_PARTS_FROM: Final = (FORMAT_MAJOR, 6)
_GPU_WEIGHTS_FROM: Final = (FORMAT_MAJOR, 7)
_PART_RECORDS_FROM: Final = (FORMAT_MAJOR, 8)
_HEAD_FROM: Final = (FORMAT_MAJOR, 9)
MANIFEST_NAME: Final = "manifest.json"
TENSOR_COUNT: Final = "GGUF.tensor_count"
"""In `ModelIdentity.metadata`: tensors of the GGUF file, by the name that the gguf package has for that number."""
RERANK_TEMPLATE: Final = "tokenizer.chat_template.rerank"
"""In `ModelIdentity.metadata`: how a model that ranks reads `{query}` and `{document}`; GGUF's own key."""
LAYOUT_NAME: Final = "layout.msgpack"
WEIGHTS_NAME: Final = "weights.bin"
GPU_WEIGHTS_NAME: Final = "weights-hip.bin"
"""What GPUs read, from format 1.7 on, where a bundle is for the host too: each packs its weights in its own way."""
WEIGHTS_NAMES: Final = (WEIGHTS_NAME, GPU_WEIGHTS_NAME)
MAX_MANIFEST_BYTES: Final = 16 << 20

_MAX_FILES: Final = 4096
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BUNDLE_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_VERSION: Final = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model this is.

    Args:
        name: for people.
        architecture: GGUF architecture name, as `llama`.
        source_sha256: hex digest of the GGUF file; of several files, of their bytes one after another.
        parameters: number of weights.
        quantization: for people, as `Q4_K_M`.
        context_length: tokens.
        metadata: further scalars from the GGUF file.
    """

    name: str
    architecture: str
    source_sha256: str
    parameters: int
    quantization: str
    context_length: int
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole manifest. Free-form tables hold plain JSON values (lists, not tuples).

    Args:
        tokenizer: what the runtime needs to know of the tokenizer.
        memory: the memory contract of each arch, in bytes.
        generator: version of rocmforge that wrote the bundle.
        options: what a rebuild needs to be given, and what it took: `toolchains` and `packages`, with their versions.
        files: every file but the manifest; the writer fills it in.
        bundle_digest: `sha256:` and 64 hex digits; the writer fills it in.
        format_version: `major.minor`; the writer fills it in.
        parts: programs beside the main one, by name; from format 1.6 on, and absent where there are none.
    """

    model: ModelIdentity
    targets: tuple[TargetEntry, ...]
    tokenizer: Mapping[str, object]
    memory: Mapping[str, Mapping[str, int]]
    kernels: tuple[Mapping[str, object], ...]
    golden: tuple[Mapping[str, object], ...]
    generator: str
    options: Mapping[str, object]
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    bundle_digest: str = ""
    format_version: str = FORMAT_VERSION
    parts: Mapping[str, PartEntry] = field(default_factory=dict)

    @property
    def all_targets(self) -> tuple[TargetEntry, ...]:
        """The targets, and those of the parts."""
        return (*self.targets, *(target for part in self.parts.values() for target in part.targets))

    def of_part(self, name: str) -> Manifest:
        """Return the manifest as that of a part: with its targets, and no golden records.

        Raises:
            KeyError: there is no such part.
        """
        part = self.parts[name]
        return dataclasses.replace(
            self, targets=part.targets, memory=part.memory, kernels=part.kernels, golden=(), parts={}
        )

    def weights_of(self, backend: str) -> str:
        """The name of the file with the weights that the code of a backend reads."""
        return GPU_WEIGHTS_NAME if backend == "hip" and GPU_WEIGHTS_NAME in self.files else WEIGHTS_NAME


def oldest_version(files: Container[str], parts: Mapping[str, PartEntry]) -> str:
    """Return the oldest format that holds what a bundle has: those who know no newer one read it."""
    if HEAD_PART in parts:
        return HEAD_VERSION
    if any(part.golden for part in parts.values()):
        return PART_RECORDS_VERSION
    if GPU_WEIGHTS_NAME in files:
        return GPU_WEIGHTS_VERSION
    return PARTS_VERSION if parts else FORMAT_VERSION


def compute_digest(manifest: Manifest) -> str:
    """Return `sha256:` and the hex digest of the manifest with its own digest left empty."""
    text = _canonical(dataclasses.replace(manifest, bundle_digest=""))
    return "sha256:" + hashlib.sha256(text).hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest as canonical JSON, with the bundle digest computed afresh.

    Raises:
        ValueError: a number is not finite; TypeError: a value is not JSON. Both are defects of the caller.
    """
    return _canonical(dataclasses.replace(manifest, bundle_digest=compute_digest(manifest)))


def decode_manifest(path: Path | str, data: bytes) -> Manifest:
    """Decode and check a manifest.

    Args:
        path: the file, for messages.
        data: its bytes.

    Raises:
        BundleError: anything wrong at all, with the field named.
    """
    check = Checker(path)
    # The version comes first: a future format may differ in everything else.
    table = read_table(check, _decode_json(path, data), "manifest")
    _check_version(check, table.get("format_version"))
    manifest = _decode(check, table)
    try:
        digest, canonical = compute_digest(manifest), _canonical(manifest)
    except (ValueError, RecursionError) as error:
        raise BundleError(path, "json", f"expected finite numbers, found otherwise ({error})") from error
    if digest != manifest.bundle_digest:
        check.fail("bundle_digest", f"expected {digest}, found {manifest.bundle_digest}")
    if canonical != data:
        check.fail("json", "expected the canonical form, found another (spaces, order or repeated keys)")
    return manifest


def listed_files(path: Path | str, data: bytes) -> frozenset[str]:
    """Names of the files that a manifest of any format version lists, as far as such a one can be judged: canonical
    JSON with a version, a table of files, and the digest of itself.

    Args:
        path: the file, for messages.
        data: its bytes.

    Raises:
        BundleError: it is not the manifest of a bundle.
    """
    check = Checker(path)
    table = read_table(check, _decode_json(path, data), "manifest")
    _major_and_minor(check, table.get("format_version"))
    try:
        text, files = _canonical(table | {"bundle_digest": ""}), read_table(check, table.get("files"), "files")
    except (ValueError, RecursionError) as error:
        raise BundleError(path, "json", f"expected finite numbers, found otherwise ({error})") from error
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    if table.get("bundle_digest") != digest or _canonical(table) != data:
        check.fail("bundle_digest", "expected the digest of the manifest itself, found another")
    return frozenset(files)


def check_file_name(check: Checker, name: str) -> str:
    """Return `name` if it is a plain relative path that means the same on every file system.

    Raises:
        BundleError: it is absolute, has an empty, `.` or `..` part, a backslash, a control character, is not
            in Unicode NFC, or is the manifest itself or one of `COMPANION_NAMES`.
    """
    problem = ""
    if not 0 < len(name) <= 512:
        problem = f"1 to 512 characters, found {len(name)}"
    elif name.startswith("/"):
        problem = "a relative path, found an absolute one"
    elif "\\" in name or not name.isprintable():
        problem = "printable characters and no backslash"
    elif unicodedata.normalize("NFC", name) != name:
        problem = "Unicode form NFC"
    elif any(part in ("", ".", "..") or len(part.encode()) > 255 for part in name.split("/")):
        problem = "no empty, '.', '..' or overlong part"
    elif name.casefold() == MANIFEST_NAME:
        problem = "every file but the manifest"
    elif name.casefold() in COMPANION_NAMES:
        problem = "a name that is not kept for signatures"
    if problem:
        check.fail(f"files.{name}", f"expected {problem}")
    return name


def _decode_json(path: Path | str, data: bytes) -> object:
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(path, "size", f"expected at most {MAX_MANIFEST_BYTES} bytes, found {len(data)}")
    try:
        return json.loads(data.decode("ascii"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(path, "json", f"expected canonical JSON, found otherwise ({error})") from error


def _canonical(manifest: Manifest | Mapping[str, object]) -> bytes:
    text = json.dumps(manifest, default=_plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return (text + "\n").encode("ascii")


def _plain(value: Any) -> dict[str, object]:
    """Turn what json does not know into a dict: our dataclasses, and mappings that are not dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    table = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Manifest) and not value.parts:
        del table["parts"]
    if isinstance(value, PartEntry) and not value.golden:
        del table["golden"]
    return table


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _check_version(check: Checker, value: object) -> None:
    """Apply the compatibility rule: this major, and a minor that is not newer."""
    major, minor = _major_and_minor(check, value)
    if major != FORMAT_MAJOR or minor > FORMAT_MINOR:
        reads = f"{FORMAT_MAJOR}.0 to {FORMAT_MAJOR}.{FORMAT_MINOR}"
        check.fail("format_version", f"expected {reads} (what this rocmforge reads), found {major}.{minor}")


def _major_and_minor(check: Checker, value: object) -> tuple[int, int]:
    version = check.text(value, "format_version", 16)
    match = _VERSION.fullmatch(version)
    if match is None:
        check.fail("format_version", f"expected MAJOR.MINOR, found {version!r}")
    return int(match[1]), int(match[2])


def _decode(check: Checker, table: dict[str, object]) -> Manifest:
    exact_keys(check, {"parts": {}, **table}, Manifest, "")
    version, has_parts = _major_and_minor(check, table["format_version"]), "parts" in table
    if version < _PARTS_FROM if has_parts else version == _PARTS_FROM:
        check.fail("parts", f"expected them from format {PARTS_VERSION} on, and there at least one")
    digest = check.text(table["bundle_digest"], "bundle_digest", 128)
    if not _BUNDLE_DIGEST.fullmatch(digest):
        check.fail("bundle_digest", f"expected sha256: and 64 hex digits, found {digest!r}")
    files = _files(check, table["files"])
    has_own = GPU_WEIGHTS_NAME in files
    if version < _GPU_WEIGHTS_FROM if has_own else version == _GPU_WEIGHTS_FROM:
        check.fail(f"files.{GPU_WEIGHTS_NAME}", f"expected it from format {GPU_WEIGHTS_VERSION} on, and always there")
    parts = read_parts(check, table["parts"], files) if has_parts else {}
    has_records = any(part.golden for part in parts.values())
    if version < _PART_RECORDS_FROM if has_records else version == _PART_RECORDS_FROM:
        problem = f"expected golden records of parts from format {PART_RECORDS_VERSION} on, and there of one at least"
        check.fail("parts", problem)
    if (HEAD_PART in parts) != (version >= _HEAD_FROM):
        check.fail(f"parts.{HEAD_PART}", f"expected it from format {HEAD_VERSION} on, and always there")
    targets = check.array(table["targets"], "targets", 0, 256)
    memory = read_table(check, table["memory"], "memory")
    return Manifest(
        model=_model(check, read_table(check, table["model"], "model")),
        targets=tuple(read_target(check, row, f"targets[{i}]", files) for i, row in enumerate(targets)),
        tokenizer=read_table(check, table["tokenizer"], "tokenizer"),
        memory={arch: read_contract(check, rows, f"memory.{arch}") for arch, rows in memory.items()},
        kernels=read_rows(check, table["kernels"], "kernels"),
        golden=read_rows(check, table["golden"], "golden"),
        generator=check.text(table["generator"], "generator"),
        options=read_table(check, table["options"], "options"),
        files=files,
        bundle_digest=digest,
        format_version=check.text(table["format_version"], "format_version"),
        parts=parts,
    )


def _sha256(check: Checker, value: object, at: str) -> str:
    digest = check.text(value, at, 128)
    if not _SHA256.fullmatch(digest):
        check.fail(at, f"expected 64 hex digits, found {digest!r}")
    return digest


def _model(check: Checker, table: dict[str, object]) -> ModelIdentity:
    exact_keys(check, table, ModelIdentity, "model.")
    metadata = read_table(check, table["metadata"], "model.metadata")
    for key, value in metadata.items():
        if not isinstance(value, (str, int, float, bool)):
            check.fail(f"model.metadata.{key}", f"expected a scalar, found {type(value).__name__}")
    return ModelIdentity(
        name=check.text(table["name"], "model.name", MAX_TEXT, empty=True),
        architecture=check.text(table["architecture"], "model.architecture"),
        source_sha256=_sha256(check, table["source_sha256"], "model.source_sha256"),
        parameters=check.integer(table["parameters"], "model.parameters"),
        quantization=check.text(table["quantization"], "model.quantization", empty=True),
        context_length=check.integer(table["context_length"], "model.context_length", 1),
        metadata=metadata,
    )


def _files(check: Checker, value: object) -> dict[str, FileEntry]:
    """Check the file table: safe names, none equal to another but for case, none both file and folder."""
    table = read_table(check, value, "files")
    if len(table) > _MAX_FILES:
        check.fail("files", f"expected at most {_MAX_FILES}, found {len(table)}")
    files: dict[str, FileEntry] = {}
    spellings: dict[str, str] = {}
    folders: set[str] = set()
    for name, row in table.items():
        parts = check_file_name(check, name).split("/")
        prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        folders.update(prefixes[:-1])
        for prefix in prefixes:
            folded = unicodedata.normalize("NFC", prefix.casefold())
            if spellings.setdefault(folded, prefix) != prefix:
                check.fail(f"files.{name}", f"expected to differ from {spellings[folded]!r} by more than case")
        entry = read_table(check, row, f"files.{name}")
        exact_keys(check, entry, FileEntry, f"files.{name}.")
        files[name] = FileEntry(
            check.integer(entry["n_bytes"], f"files.{name}.n_bytes"),
            _sha256(check, entry["sha256"], f"files.{name}.sha256"),
        )
    for name in sorted(folders & files.keys()):
        check.fail(f"files.{name}", "expected a file, found the folder of another")
    for name in (LAYOUT_NAME, WEIGHTS_NAME):
        if name not in files:
            check.fail(f"files.{name}", "expected a value, found none")
    return files
